# Figures: their data first, their drawing second.


rule collect:
    input:
        lambda wildcards: GRID.artifact_manifests(ARTIFACTS[wildcards.name].needs, STORE),
    output:
        "results/figures/{name}.csv",
    log:
        "results/logs/collect/{name}.log",
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
