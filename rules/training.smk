# Training: one job a leg and a run, or one a family of them.


rule train_leg:
    input:
        inputs_of("legs"),
    output:
        f"{STORE}/legs/{{key}}.json",
    log:
        f"{RESULTS}/logs/legs/{{key}}.log",
    conda:
        "../envs/training.yaml"
    resources:
        **cluster.resources(LAUNCH, "training", "legs"),
        length=length_of("legs"),
    params:
        task=task_of("training"),
        request=request,
        deadline=deadline,
    message:
        "Train the leg {wildcards.key}: {resources.length}{params.request}"
    shell:
        "{params.task}python -m scripts.training.train legs/{wildcards.key} {params.deadline} > {log} 2>&1"


rule train_run:
    input:
        inputs_of("runs"),
    output:
        f"{STORE}/runs/{{key}}.json",
    log:
        f"{RESULTS}/logs/runs/{{key}}.log",
    conda:
        "../envs/training.yaml"
    resources:
        **cluster.resources(LAUNCH, "training", "runs"),
        length=length_of("runs"),
    params:
        task=task_of("training"),
        request=request,
        deadline=deadline,
    message:
        "Train {wildcards.key}: {resources.length}{params.request}"
    shell:
        "{params.task}python -m scripts.training.train runs/{wildcards.key} {params.deadline} > {log} 2>&1"


rule train_family:
    input:
        inputs_of("families/trained"),
    output:
        f"{STORE}/families/trained/{{key}}.json",
    log:
        f"{RESULTS}/logs/families/trained/{{key}}.log",
    conda:
        "../envs/training.yaml"
    resources:
        **cluster.resources(LAUNCH, "training", "families/trained"),
    params:
        task=task_of("training"),
        request=request,
        deadline=deadline,
    message:
        "Train the family {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.training.train families/trained/{wildcards.key} {params.deadline} > {log} 2>&1"


rule throughput:
    input:
        inputs_of("throughput"),
    output:
        f"{STORE}/throughput/{{key}}.json",
    log:
        f"{RESULTS}/logs/throughput/{{key}}.log",
    conda:
        "../envs/training.yaml"
    threads: workflow.cores  # alone on the machine: what runs beside it would be measured too
    resources:
        **cluster.resources(LAUNCH, "throughput"),
    params:
        task=task_of("throughput"),
        request=request,
    message:
        "Measure the training speed of {wildcards.key}{params.request}"
    shell:
        "{params.task}python -m scripts.training.throughput throughput/{wildcards.key} > {log} 2>&1"
