# The base model, made here or taken from outside; and checkpoints that the paper's authors published.


# nodes of a cluster often have no network
localrules:
    fetch_model,
    fetch_published,


rule pretrain:
    input:
        inputs_of("models"),
    output:
        f"{STORE}/models/{{key}}.json",
    log:
        f"{RESULTS}/logs/models/{{key}}.log",
    wildcard_constraints:
        key=r"[\w.-]+-[0-9a-f]{12}",
    conda:
        "../envs/models.yaml"
    resources:
        **cluster.resources(LAUNCH, "models"),
    params:
        task=task_of("models"),
        request=request,
    message:
        "Make the base model {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.models.products models/{wildcards.key} > {log} 2>&1"


# of any source from outside: each has a directory of its own
rule fetch_model:
    input:
        inputs_of("models"),
    output:
        f"{STORE}/models/{{key}}.json",
    log:
        f"{RESULTS}/logs/models/{{key}}.log",
    wildcard_constraints:
        key=r"[\w-]+/[\w.-]+-[0-9a-f]{12}",
    conda:
        "../envs/models.yaml"
    message:
        "Take the base model {wildcards.key}"
    shell:
        "python -m scripts.models.products models/{wildcards.key} > {log} 2>&1"


rule fetch_published:
    input:
        inputs_of("published"),
    output:
        f"{STORE}/published/{{key}}.json",
    log:
        f"{RESULTS}/logs/published/{{key}}.log",
    conda:
        "../envs/models.yaml"
    message:
        "Download the authors' checkpoint {wildcards.key}"
    shell:
        "python -m scripts.models.products published/{wildcards.key} > {log} 2>&1"
