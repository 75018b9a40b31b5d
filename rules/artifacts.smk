# Figures and tables: their data first, their drawing second. What the numbers say of the paper's claims; and which
# learning rates a sweep chooses. What they are made from is products, and the modules that compute with these. Each
# leaves a record beside what it makes, by which the next launch knows whether that is what its study wants.


# what is quick runs where Snakemake does, on a cluster too
localrules:
    learning_rates,
    collect,
    printed,
    draw,
    tabulate,
    claims,
    comparison,
    contact_sheet,
    plan,
    unknown,


rule learning_rates:
    input:
        lambda wildcards: asked(WANTED.rates),
    output:
        yaml=f"{RESULTS}/learning_rates.yaml",
        record=f"{RESULTS}/learning_rates.made.json",
    log:
        f"{RESULTS}/logs/learning_rates.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Choose learning rates from the sweep"
    shell:
        "python -m scripts.artifacts.learning_rates --out {output.yaml} > {log} 2>&1"


rule collect:
    input:
        lambda wildcards: asked(WANTED.csv, artifact(wildcards)),
    output:
        csv=f"{RESULTS}/{{place}}/{{name}}.csv",
        record=f"{RESULTS}/{{place}}/{{name}}.collected.json",
    log:
        f"{RESULTS}/logs/collect/{{place}}/{{name}}.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        artifact=artifact_name,
    message:
        "Collect the data of {params.artifact}"
    shell:
        "python -m scripts.artifacts.collect {params.artifact} --csv {output.csv} > {log} 2>&1"


rule printed:
    input:
        lambda wildcards: asked(WANTED.printed, artifact(wildcards)),
    output:
        csv=f"{RESULTS}/{PUBLISHED}/{{place}}/{{name}}.csv",
        record=f"{RESULTS}/{PUBLISHED}/{{place}}/{{name}}.collected.json",
    log:
        f"{RESULTS}/logs/printed/{{place}}/{{name}}.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        artifact=artifact_name,
    message:
        "Collect the paper's numbers of {params.artifact}"
    shell:
        "python -m scripts.artifacts.printed {params.artifact} --csv {output.csv} > {log} 2>&1"


rule draw:
    input:
        drawing("figures"),
    output:
        pdf="{root}/figures/{name}.pdf",
        png="{root}/figures/{name}.png",
        record="{root}/figures/{name}.made.json",
    log:
        f"{RESULTS}/logs/draw/{{root}}/{{name}}.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        artifact=artifact_name,
    message:
        "Draw {params.artifact}"
    shell:
        "python -m scripts.artifacts.draw {params.artifact} --csv {wildcards.root}/figures/{wildcards.name}.csv "
        "--pdf {output.pdf} --png {output.png} > {log} 2>&1"


rule tabulate:
    input:
        drawing("tables"),
    output:
        md="{root}/tables/{name}.md",
        tex="{root}/tables/{name}.tex",
        record="{root}/tables/{name}.made.json",
    log:
        f"{RESULTS}/logs/tabulate/{{root}}/{{name}}.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        artifact=artifact_name,
    message:
        "Write {params.artifact}"
    shell:
        "python -m scripts.artifacts.tabulate {params.artifact} --csv {wildcards.root}/tables/{wildcards.name}.csv "
        "--md {output.md} --tex {output.tex} > {log} 2>&1"


rule claims:
    input:
        lambda wildcards: asked(WANTED.claims),
    output:
        csv=f"{RESULTS}/claims.csv",
        record=f"{RESULTS}/claims.collected.json",
        md=f"{RESULTS}/claims.md",
    log:
        f"{RESULTS}/logs/claims.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Judge the paper's claims on the study's scores"
    shell:
        "python -m scripts.artifacts.claims --csv {output.csv} --md {output.md} > {log} 2>&1"


rule comparison:
    input:
        lambda wildcards: asked(WANTED.comparison),
    output:
        csv=f"{RESULTS}/comparison.csv",
        record=f"{RESULTS}/comparison.collected.json",
        md=f"{RESULTS}/comparison.md",
        pdf=f"{RESULTS}/comparison.pdf",
    log:
        f"{RESULTS}/logs/comparison.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Compare the study's numbers with the paper's"
    shell:
        "python -m scripts.artifacts.comparison --csv {output.csv} --md {output.md} --pdf {output.pdf} > {log} 2>&1"


rule contact_sheet:
    input:
        lambda wildcards: asked(WANTED.contact_sheet, [ARTIFACTS[name] for name in FIGURES]),
    output:
        png=f"{RESULTS}/contact_sheet.png",
        record=f"{RESULTS}/contact_sheet.made.json",
    log:
        f"{RESULTS}/logs/contact_sheet.log",
    conda:
        "../envs/artifacts.yaml"
    params:
        pictures=[file for name in FIGURES for file in TARGETS[name] if file.endswith(".png")],
    message:
        "Put all figures on one sheet"
    shell:
        "python -m scripts.artifacts.contact_sheet --png {output.png} {params.pictures} > {log} 2>&1"


rule plan:
    input:
        lambda wildcards: asked(WANTED.costs),
    output:
        csv=f"{RESULTS}/plan.csv",
        record=f"{RESULTS}/plan.collected.json",
        md=f"{RESULTS}/plan.md",
        html=f"{RESULTS}/plan.html",
    log:
        f"{RESULTS}/logs/plan.log",
    conda:
        "../envs/artifacts.yaml"
    message:
        "Say what each figure and table costs"
    shell:
        "python -m scripts.planning.page --csv {output.csv} --md {output.md} --html {output.html} > {log} 2>&1"


# of whatever no other rule makes it says so, with the names that are most like it
rule unknown:
    input:
        lambda wildcards: asked(WANTED.unknown, wildcards.unknown),
    output:
        "{unknown}",
