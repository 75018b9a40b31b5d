# The base model.


rule pretrain:
    input:
        ancient(GRID.manifests("models", STORE)),
    output:
        f"{STORE}/models/{{key}}.json",
    log:
        "results/logs/models/{key}.log",
    conda:
        "../envs/models.yaml"
    message:
        "Make the base model {wildcards.key}"
    shell:
        "python -m scripts.models.pretrain models/{wildcards.key} > {log} 2>&1"
