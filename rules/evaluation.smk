# Evaluation: one job a model and task, or one a family. What a model writes and how it is judged are apart.


rule sample:
    input:
        inputs_of("samples"),
    output:
        f"{STORE}/samples/{{key}}.json",
    log:
        f"{RESULTS}/logs/samples/{{key}}.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **cluster.resources(LAUNCH, "evaluation"),
    params:
        task=task_of("evaluation"),
        request=request,
    message:
        "Sample {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.evaluation.evaluate samples/{wildcards.key} > {log} 2>&1"


rule judge:
    input:
        inputs_of("evaluations"),
    output:
        f"{STORE}/evaluations/{{key}}.json",
    log:
        f"{RESULTS}/logs/evaluations/{{key}}.log",
    wildcard_constraints:
        key=rf"[\w./-]+/({WRITTEN})-[0-9a-f]{{12}}",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **cluster.resources(LAUNCH, "judging"),
    params:
        task=task_of("judging"),
        request=request,
    message:
        "Judge {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.evaluation.evaluate evaluations/{wildcards.key} > {log} 2>&1"


rule evaluate:
    input:
        inputs_of("evaluations"),
    output:
        f"{STORE}/evaluations/{{key}}.json",
    log:
        f"{RESULTS}/logs/evaluations/{{key}}.log",
    wildcard_constraints:
        key=rf"[\w./-]+/(?!({WRITTEN})-[0-9a-f]{{12}})[\w.]+-[0-9a-f]{{12}}",
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
