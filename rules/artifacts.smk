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


rule draw:
    input:
        csv="results/figures/{name}.csv",
        registry="config/artifacts.yaml",
        modules=lambda wildcards: ARTIFACTS[wildcards.name].modules,
    output:
        pdf="results/figures/{name}.pdf",
        png="results/figures/{name}.png",
    log:
        "results/logs/draw/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Draw {wildcards.name}"
    shell:
        "python -m scripts.artifacts.draw {wildcards.name} --csv {input.csv} "
        "--pdf {output.pdf} --png {output.png} > {log} 2>&1"


rule tabulate:
    input:
        csv="results/tables/{name}.csv",
        registry="config/artifacts.yaml",
        modules=lambda wildcards: ARTIFACTS[wildcards.name].modules,
    output:
        md="results/tables/{name}.md",
        tex="results/tables/{name}.tex",
    log:
        "results/logs/tabulate/{name}.log",
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
        modules=["scripts/artifacts/claims.py", "scripts/artifacts/contrasts.py"],
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
