# Figures and tables: their data first, their drawing second. And what the numbers say of the paper's claims.


rule collect:
    input:
        lambda wildcards: asked(ARTIFACTS[wildcards.name].manifests, GRID, STORE),
    output:
        "results/{place}/{name}.csv",
    log:
        "results/logs/collect/{place}/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Collect the data of {wildcards.name}"
    shell:
        "python -m scripts.artifacts.collect {wildcards.name} --csv {output} > {log} 2>&1"


rule printed:
    input:
        published="config/published_values.csv",
        registry="config/artifacts.yaml",
        modules=["scripts/artifacts/printed.py", "scripts/artifacts/points.py", "scripts/study/published.py"],
    output:
        "results/published/{place}/{name}.csv",
    log:
        "results/logs/printed/{place}/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Collect the paper's numbers of {wildcards.name}"
    shell:
        "python -m scripts.artifacts.printed {wildcards.name} --csv {output} > {log} 2>&1"


rule draw:
    input:
        csv="{root}/figures/{name}.csv",
        registry="config/artifacts.yaml",
        modules=lambda wildcards: ARTIFACTS[wildcards.name].modules,
    output:
        pdf="{root}/figures/{name}.pdf",
        png="{root}/figures/{name}.png",
    log:
        "results/logs/draw/{root}/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Draw {wildcards.name}"
    shell:
        "python -m scripts.artifacts.draw {wildcards.name} --csv {input.csv} "
        "--pdf {output.pdf} --png {output.png} > {log} 2>&1"


rule tabulate:
    input:
        csv="{root}/tables/{name}.csv",
        registry="config/artifacts.yaml",
        modules=lambda wildcards: ARTIFACTS[wildcards.name].modules,
    output:
        md="{root}/tables/{name}.md",
        tex="{root}/tables/{name}.tex",
    log:
        "results/logs/tabulate/{root}/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Write {wildcards.name}"
    shell:
        "python -m scripts.artifacts.tabulate {wildcards.name} --csv {input.csv} "
        "--md {output.md} --tex {output.tex} > {log} 2>&1"


rule claims:
    input:
        manifests=lambda wildcards: asked(GRID.artifact_manifests, ("learning", "forgetting"), "grid", None, STORE),
        modules=expand("scripts/artifacts/{module}.py", module=["claims", "paper_claims", "contrasts"]),
    output:
        csv="results/claims.csv",
        md="results/claims.md",
    log:
        "results/logs/claims.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Judge the paper's claims on the study's scores"
    shell:
        "python -m scripts.artifacts.claims --csv {output.csv} --md {output.md} > {log} 2>&1"
