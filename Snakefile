import os

from snakemake.utils import min_version

min_version("9.27")


# a job goes by what its launch had frozen, whatever has become of the file since
if workflow.exec_mode.name == "DEFAULT":

    configfile: os.path.join(workflow.basedir, "config/config.yaml")


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/training.smk"
include: "rules/evaluation.smk"
include: "rules/spectra.smk"
include: "rules/artifacts.smk"


localrules:
    all_figures,
    all_tables,
    all,
    all_published,
    list_artifacts,
    pilot,


rule all_figures:
    default_target: True
    input:
        ALL_FIGURES,


rule all_tables:
    input:
        ALL_TABLES,


rule all:
    input:
        ALL_FIGURES,
        ALL_TABLES,
        PAGES,


rule all_published:
    input:
        lambda wildcards: asked(printed_files),


rule pilot:
    input:
        lambda wildcards: asked(pilot_inputs),
    log:
        f"{RESULTS}/logs/pilot.log",
    conda:
        "envs/artifacts.yaml"
    params:
        run=pilot_run,
    message:
        "What the pilot took: {params.run}"
    shell:
        "python -m scripts.planning.pilot {params.run} | tee {log}"


rule list_artifacts:
    log:
        f"{RESULTS}/logs/list_artifacts.log",
    conda:
        "envs/artifacts.yaml"
    message:
        "Figures and tables, and what the study has of them"
    shell:
        "python -m scripts.artifacts.listing | tee {log}"
