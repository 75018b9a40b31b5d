# Evaluation: one job a model and task, or one a family.


rule evaluate:
    input:
        inputs_of("evaluations"),
    output:
        f"{STORE}/evaluations/{{key}}.json",
    log:
        f"{RESULTS}/logs/evaluations/{{key}}.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **cluster.resources(LAUNCH, "evaluation"),
    params:
        task=task_of("evaluation"),
        request=request,
    message:
        "Evaluate {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.evaluation.evaluate evaluations/{wildcards.key} > {log} 2>&1"


rule evaluate_family:
    input:
        inputs_of("families/evaluated"),
    output:
        f"{STORE}/families/evaluated/{{key}}.json",
    log:
        f"{RESULTS}/logs/families/evaluated/{{key}}.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **cluster.resources(LAUNCH, "evaluation"),
    params:
        task=task_of("evaluation"),
        request=request,
    message:
        "Evaluate the family {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.evaluation.evaluate families/evaluated/{wildcards.key} > {log} 2>&1"
