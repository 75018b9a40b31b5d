# Singular values of what finetuning changed.


rule spectra:
    input:
        ancient(GRID.manifests("spectra", STORE)),
    output:
        f"{STORE}/spectra/{{key}}.json",
    log:
        "results/logs/spectra/{key}.log",
    conda:
        "../envs/spectra.yaml"
    message:
        "Decompose {wildcards.key}"
    shell:
        "python -m scripts.spectra.singular_values spectra/{wildcards.key} > {log} 2>&1"
