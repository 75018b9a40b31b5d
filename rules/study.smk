# What artifacts say of a study, and what its sweep chooses.


# what is quick runs where Snakemake does, on a cluster too
localrules:
    card,
    learning_rates,


rule card:
    input:
        ancient(GRID.manifests("studies", STORE)),
    output:
        f"{STORE}/studies/{{key}}.json",
    log:
        "results/logs/studies/{key}.log",
    conda:
        "../envs/study.yaml"
    message:
        "Write the card {wildcards.key}"
    shell:
        "python -m scripts.study.card studies/{wildcards.key} > {log} 2>&1"


rule learning_rates:
    input:
        lambda wildcards: asked(GRID.validation_manifests, STORE),
    output:
        "results/learning_rates.yaml",
    log:
        "results/logs/learning_rates.log",
    conda:
        "../envs/study.yaml"
    message:
        "Choose learning rates from the sweep"
    shell:
        "python -m scripts.study.learning_rates --out {output} > {log} 2>&1"
