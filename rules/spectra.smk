# Singular values of what finetuning changed: one job a model, or one a family.


rule spectra:
    input:
        inputs_of("spectra"),
    output:
        f"{STORE}/spectra/{{key}}.json",
    log:
        f"{RESULTS}/logs/spectra/{{key}}.log",
    conda:
        "../envs/spectra.yaml"
    resources:
        **cluster.resources(LAUNCH, "spectra"),
    params:
        task=task_of("spectra"),
        request=request,
    message:
        "Decompose {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.spectra.singular_values spectra/{wildcards.key} > {log} 2>&1"


rule spectra_family:
    input:
        inputs_of("families/decomposed"),
    output:
        f"{STORE}/families/decomposed/{{key}}.json",
    log:
        f"{RESULTS}/logs/families/decomposed/{{key}}.log",
    conda:
        "../envs/spectra.yaml"
    resources:
        **cluster.resources(LAUNCH, "spectra"),
    params:
        task=task_of("spectra"),
        request=request,
    message:
        "Decompose the family {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.spectra.singular_values families/decomposed/{wildcards.key} > {log} 2>&1"
