# Figures and tables: their data first, their drawing second. What the numbers say of the paper's claims; and which
# learning rates a sweep chooses. What they are made from is products, and the modules that compute with these.


# what is quick runs where Snakemake does, on a cluster too
localrules:
    card,
    learning_rates,
    collect,
    printed,
    draw,
    tabulate,
    claims,
    comparison,
    contact_sheet,


rule card:
    input:
        ancient(inputs_of("studies")),
    output:
        f"{STORE}/studies/{{key}}.json",
    log:
        "results/logs/studies/{key}.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Write the card {wildcards.key}"
    shell:
        "python -m scripts.artifacts.card studies/{wildcards.key} > {log} 2>&1"


rule learning_rates:
    input:
        manifests=lambda wildcards: manifests(asked(plan.validations, GRID)),
        modules=lambda wildcards: imports.of_command("learning_rates"),
    output:
        "results/learning_rates.yaml",
    log:
        "results/logs/learning_rates.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Choose learning rates from the sweep"
    shell:
        "python -m scripts.artifacts.learning_rates --out {output} > {log} 2>&1"


rule collect:
    input:
        overlay=lambda wildcards: PUBLISHED if GRID.study.overlay else [],
        manifests=lambda wildcards: manifests(asked(artifact(wildcards).products, GRID, LAUNCH.store.is_made)),
        modules=lambda wildcards: imports.of_csv(artifact(wildcards).kind),
    output:
        csv="results/{place}/{name}.csv",
        note="results/{place}/{name}.collected.json",
    log:
        "results/logs/collect/{place}/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        artifact=artifact_name,
    message:
        "Collect the data of {params.artifact}"
    shell:
        "python -m scripts.artifacts.collect {params.artifact} --csv {output.csv} > {log} 2>&1"


rule printed:
    input:
        published=PUBLISHED,
        registry=REGISTRY,
        modules=lambda wildcards: imports.of_printed(),
    output:
        csv="results/published/{place}/{name}.csv",
        note="results/published/{place}/{name}.collected.json",
    log:
        "results/logs/printed/{place}/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        artifact=artifact_name,
    message:
        "Collect the paper's numbers of {params.artifact}"
    shell:
        "python -m scripts.artifacts.printed {params.artifact} --csv {output.csv} > {log} 2>&1"


rule draw:
    input:
        csv="{root}/figures/{name}.csv",
        note="{root}/figures/{name}.collected.json",
        registry=REGISTRY,
        modules=lambda wildcards: imports.of_drawing("draw", artifact(wildcards).kind),
    output:
        pdf="{root}/figures/{name}.pdf",
        png="{root}/figures/{name}.png",
    log:
        "results/logs/draw/{root}/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        artifact=artifact_name,
    message:
        "Draw {params.artifact}"
    shell:
        "python -m scripts.artifacts.draw {params.artifact} --csv {input.csv} "
        "--pdf {output.pdf} --png {output.png} > {log} 2>&1"


rule tabulate:
    input:
        csv="{root}/tables/{name}.csv",
        note="{root}/tables/{name}.collected.json",
        registry=REGISTRY,
        modules=lambda wildcards: imports.of_drawing("tabulate", artifact(wildcards).kind),
    output:
        md="{root}/tables/{name}.md",
        tex="{root}/tables/{name}.tex",
    log:
        "results/logs/tabulate/{root}/{name}.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        artifact=artifact_name,
    message:
        "Write {params.artifact}"
    shell:
        "python -m scripts.artifacts.tabulate {params.artifact} --csv {input.csv} "
        "--md {output.md} --tex {output.tex} > {log} 2>&1"


rule claims:
    input:
        manifests=lambda wildcards: manifests(asked(plan.products, GRID, ("learning", "forgetting"), "grid")),
        modules=lambda wildcards: imports.of_command("claims"),
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


rule comparison:
    input:
        manifests=ancient(evaluated_so_far),
        published=PUBLISHED,
        modules=lambda wildcards: imports.of_command("comparison"),
    output:
        csv="results/comparison.csv",
        md="results/comparison.md",
        pdf="results/comparison.pdf",
    log:
        "results/logs/comparison.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Compare the study's numbers with the paper's"
    shell:
        "python -m scripts.artifacts.comparison --csv {output.csv} --md {output.md} --pdf {output.pdf} > {log} 2>&1"


rule contact_sheet:
    input:
        [file for files in TARGETS.values() for file in files if file.endswith(".png")],
    output:
        "results/contact_sheet.png",
    log:
        "results/logs/contact_sheet.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Put all figures on one sheet"
    shell:
        "python -m scripts.artifacts.contact_sheet --png {output} {input} > {log} 2>&1"
