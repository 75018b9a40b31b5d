# Records, tokenizer, and the rows that training reads.


# what may have to be downloaded is made where Snakemake runs: nodes of a cluster often have no network
localrules:
    records,
    tokenizer,


# what a benchmark asks is read, and refused where it is wrong, before anything is trained
rule records:
    input:
        inputs_of("data/records"),
    output:
        f"{STORE}/data/records/{{key}}.json",
    log:
        f"{RESULTS}/logs/data/records/{{key}}.log",
    priority: 1
    conda:
        "../envs/data.yaml"
    message:
        "Make the records {wildcards.key}"
    shell:
        "python -m scripts.data.products data/records/{wildcards.key} > {log} 2>&1"


rule tokenizer:
    input:
        inputs_of("data/tokenizers"),
    output:
        f"{STORE}/data/tokenizers/{{key}}.json",
    log:
        f"{RESULTS}/logs/data/tokenizers/{{key}}.log",
    conda:
        "../envs/data.yaml"
    params:
        does=lambda wildcards: "Train" if wildcards.key.startswith("bpe-") else "Take",
    message:
        "{params.does} the tokenizer {wildcards.key}"
    shell:
        "python -m scripts.data.products data/tokenizers/{wildcards.key} > {log} 2>&1"


rule rows:
    input:
        inputs_of("data/rows"),
    output:
        f"{STORE}/data/rows/{{key}}.json",
    log:
        f"{RESULTS}/logs/data/rows/{{key}}.log",
    conda:
        "../envs/data.yaml"
    resources:
        **cluster.resources(LAUNCH, "data"),
    params:
        task=task_of("data"),
        request=request,
    message:
        "Tokenize and pack {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.data.products data/rows/{wildcards.key} > {log} 2>&1"


# made with the rows where all that is asked is at hand by then
rule overlaps:
    input:
        inputs_of("data/overlaps"),
    output:
        f"{STORE}/data/overlaps/{{key}}.json",
    log:
        f"{RESULTS}/logs/data/overlaps/{{key}}.log",
    conda:
        "../envs/data.yaml"
    resources:
        **cluster.resources(LAUNCH, "data"),
    params:
        task=task_of("data"),
        request=request,
    message:
        "Compare {wildcards.key} with what is asked{params.request}"
    shell:
        "{params.task}python -m scripts.data.products data/overlaps/{wildcards.key} > {log} 2>&1"
