# The card of a study: what artifacts say of it.


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
