from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/study.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/training.smk"
include: "rules/evaluation.smk"
include: "rules/spectra.smk"
include: "rules/artifacts.smk"


rule all_figures:
    default_target: True
    input:
        [file for name, files in TARGETS.items() if name.startswith("fig") for file in files],


rule all_tables:
    input:
        [file for name, files in TARGETS.items() if ARTIFACTS[name].is_table for file in files],


rule all:
    input:
        [file for files in TARGETS.values() for file in files],
        "results/claims.md",


rule all_published:
    input:
        lambda wildcards: asked(printed_files),
