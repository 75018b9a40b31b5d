from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/study.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/training.smk"
include: "rules/evaluation.smk"
include: "rules/artifacts.smk"


rule all_figures:
    default_target: True
    input:
        expand("results/figures/{name}.{form}", name=FIGURES, form=["pdf", "png"]),
