"""Training on the CPU beside its peers: transformers' Trainer, TRL's SFTTrainer and a bare loop around peft.

python -m benchmarks.training            writes results/training.json; `benchmarks.gpu` is for a GPU

The model has random weights, and every tool trains it with the same optimizer on the same examples: full finetuning,
and LoRA of rank 16, 64 and 256 on all linear layers. Tokens are the examples' own, never padding. Their loss is the
mean over the response's tokens of a step. All compute in fp32, on instructions as the demo makes them, each tool with
its own way to make batches of them: ours packs them and keeps them apart, a Trainer pads a batch to its longest
example. TRL is measured both ways, and without its checkpointing of activations, which saves memory that is not short
here.

The tools take turns, ROUNDS times, in one process of one thread; the first step of each run does not count. A ratio is
the median over the rounds of ours over the peer's, in tokens per second of wall time, and of the CPU's own time, which
what else the machine does disturbs less.

TRL is no dependency of the project: `python -m pip install trl` in an environment of one's own that has ours too.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError, run
from scripts.components.modules import ALL_LINEAR

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZER = {
    "name": "decoupled_lionw", "learning_rate": 1e-4, "betas": [0.9, 0.95], "weight_decay": 0.0, "clip_norm": 1.0,
}  # fmt: skip
EOS, PAD = 1, 2
ROUNDS = 3


@dataclass(frozen=True)
class Shape:
    """A model, and the rows of a step."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    length: int
    rows: int
    steps: int


SMALL = Shape(1024, 256, 688, 6, 4, length=256, rows=8, steps=6)


def lora(rank: int, dropout: float) -> dict[str, Any]:
    return {"kind": "lora", "rank": rank, "alpha": 2.0 * rank, "modules": list(ALL_LINEAR), "dropout": dropout}


METHODS: dict[str, dict[str, Any]] = {"full": {"kind": "full"}} | {
    f"lora-r{rank}" + f"-dropout-{dropout}" * bool(dropout): lora(rank, dropout)
    for rank, dropout in ((16, 0.0), (16, 0.05), (64, 0.0), (256, 0.0))
}


@dataclass
class Work:
    """What every tool is given: `base` is a model directory, `rows` ours of the same `examples` (prompt, response)."""

    shape: Shape
    base: Path
    rows: Path
    examples: list[tuple[list[int], list[int]]]
    method: dict[str, Any]
    scratch: Path
    examples_per_step: int  # as many as our rows hold on average, so that all take as many steps an epoch
    tokens: list[int] = field(default_factory=list)  # of each step, without padding


# -- the tools: each trains `shape.steps` steps of `work`, and notes the tokens of each ------------------------------


def ours(work: Work) -> None:
    import numpy as np

    from scripts.data.batches import Batches
    from scripts.training.loop import Fit, fit

    batches = Batches(work.rows)
    work.tokens = [int(np.count_nonzero(batches.batch(step)[0] != PAD)) for step in range(work.shape.steps)]
    out = work.scratch / "out"
    out.mkdir()
    fit(
        Fit(
            method=work.method,
            optimizer=OPTIMIZER,
            schedule={"name": "trapezoid", "warmup_batches": 0, "batches": None, "cooldown_batches": None},
            seed=0,
            precision="fp32",
            base=work.base,
            rows=work.rows,
            start=None,
            start_step=0,
            stop_step=work.shape.steps,
            out=out,
            checkpoints=work.scratch / "checkpoints",
            keep_optimizer=False,
            checkpoint_seconds=1e9,
            loss="token_mean",
            attention="within",
        ),
        lambda _: None,
    )


def peer_model(work: Work) -> tuple[Any, Any]:
    """Plain transformers and peft, and our optimizer over what they train."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from scripts.training.optimizer import NamedOptimizer

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(work.base, dtype=torch.float32)
    if work.method["kind"] == "lora":
        method = work.method
        config = LoraConfig(
            r=method["rank"], lora_alpha=method["alpha"], target_modules=list(ALL_LINEAR),
            lora_dropout=method["dropout"], task_type="CAUSAL_LM",
        )  # fmt: skip
        model = get_peft_model(model, config)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return model, NamedOptimizer(trained, OPTIMIZER).torch_optimizer


def dataset(work: Work) -> list[dict[str, list[int]]]:
    return [
        {
            "input_ids": [*prompt, *response, EOS],
            "attention_mask": [1] * (len(prompt) + len(response) + 1),
            "labels": [-100] * len(prompt) + [*response, EOS],
        }
        for prompt, response in work.examples
    ]


def arguments_of(work: Work) -> dict[str, Any]:
    """Of a Trainer: one micro-batch a step."""
    return {
        "output_dir": str(work.scratch / "trainer"), "max_steps": work.shape.steps, "report_to": [],
        "per_device_train_batch_size": work.examples_per_step,
        "save_strategy": "no", "lr_scheduler_type": "constant", "max_grad_norm": 1.0, "disable_tqdm": True,
        "logging_strategy": "no", "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
    }  # fmt: skip


def noting(work: Work, collate: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """A collator that counts the tokens of a step."""

    def noted(examples: Any) -> dict[str, Any]:
        batch = collate(examples)
        work.tokens.append(sum(len(example["input_ids"]) for example in examples))
        return batch

    return noted


def transformers_trainer(work: Work) -> None:
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from scripts.data.tokenizer import load_tokenizer

    model, optimizer = peer_model(work)
    collate = DataCollatorForSeq2Seq(load_tokenizer(work.base))
    Trainer(
        model=model, args=TrainingArguments(**arguments_of(work)), train_dataset=dataset(work),  # type: ignore[arg-type]
        data_collator=noting(work, collate), optimizers=(optimizer, None),
    ).train()  # fmt: skip


def trl(work: Work, **changes: Any) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from scripts.data.tokenizer import load_tokenizer

    model, optimizer = peer_model(work)
    rows = [{key: row[key] for key in ("input_ids", "labels")} for row in dataset(work)]
    trainer = SFTTrainer(
        model=model, args=SFTConfig(**arguments_of(work) | {"max_length": work.shape.length} | changes),
        train_dataset=Dataset.from_list(rows), processing_class=load_tokenizer(work.base),
        optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.data_collator = noting(work, trainer.data_collator)
    trainer.train()


def trl_packed(work: Work) -> None:
    trl(work, packing=True, per_device_train_batch_size=work.shape.rows)


def bare_peft(work: Work) -> None:
    """What the documentation of peft and transformers shows, without any trainer."""
    import torch
    from transformers import DataCollatorForSeq2Seq

    from scripts.data.tokenizer import load_tokenizer

    model, optimizer = peer_model(work)
    collate = noting(work, DataCollatorForSeq2Seq(load_tokenizer(work.base)))
    loader = torch.utils.data.DataLoader(
        dataset(work),  # type: ignore[arg-type]
        batch_size=work.examples_per_step,
        shuffle=True,
        collate_fn=collate,
    )
    model.train()
    for batch in islice(loader, work.shape.steps):
        model(**batch, num_items_in_batch=int((batch["labels"][:, 1:] != -100).sum())).loss.backward()
        torch.nn.utils.clip_grad_norm_((p for p in model.parameters() if p.requires_grad), 1.0)
        optimizer.step()
        optimizer.zero_grad()


TOOLS: dict[str, Callable[[Work], None]] = {
    "ours": ours,
    "TRL": trl,
    "TRL, packed": trl_packed,
    "transformers": transformers_trainer,
    "peft": bare_peft,
}

# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """Wall and CPU seconds at the end of every optimizer step of whatever trains."""

    moments: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, *_: Any) -> None:
        self.moments.append((time.perf_counter(), time.process_time()))


@contextmanager
def clock() -> Iterator[Clock]:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    found = Clock()
    hook = register_optimizer_step_post_hook(found)
    try:
        yield found
    finally:
        hook.remove()


def settle() -> int:
    """Forget the peak of memory so far; the bytes that the process has now."""
    gc.collect()
    with suppress(OSError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    from scripts.training.throughput import _peak_resident

    return _peak_resident()


def measure(tool: str, work: Work) -> dict[str, float]:
    """tokens_per_second, tokens_per_cpu_second and peak_bytes of one run."""
    work.tokens = []
    shutil.rmtree(work.scratch, ignore_errors=True)
    work.scratch.mkdir()
    before = settle()
    with clock() as steps, redirect_stdout(sys.stderr):  # a Trainer prints its own summary
        TOOLS[tool](work)
    if len(steps.moments) != work.shape.steps or len(work.tokens) < work.shape.steps:
        raise UserError(f"{tool} made {len(steps.moments)} steps of {len(work.tokens)} batches, not {work.shape.steps}")
    (began, cpu_began), (ended, cpu_ended) = steps.moments[0], steps.moments[-1]
    tokens = sum(work.tokens[1 : work.shape.steps])
    return {
        "tokens_per_second": tokens / (ended - began),
        "tokens_per_cpu_second": tokens / (cpu_ended - cpu_began),
        "peak_bytes": peak() - before,
    }


# -- what is trained --------------------------------------------------------------------------------------------------


def prepare(shape: Shape, directory: Path) -> tuple[Path, Path, list[tuple[list[int], list[int]]], int]:
    """The model directory, our rows, their examples, and how many of these a step of ours has."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from scripts.components.templates import prompt_text, response_text
    from scripts.data.batches import Batches, write_ift_rows
    from scripts.data.generators import code, math
    from scripts.data.tokenizer import load_tokenizer, train_tokenizer

    base, rows = directory / "base", directory / "rows"
    records = [*code.instructions(400, 0, "train"), *math.instructions(600, 0, "train")]
    pairs = [(prompt_text(record["instruction"]), response_text(record["response"])) for record in records]
    train_tokenizer((text for pair in pairs for text in pair), shape.vocab_size, base)
    tokenizer = load_tokenizer(base)
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers, num_attention_heads=shape.num_attention_heads,
        max_position_embeddings=shape.length, use_cache=False, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(base)
    encoded = ([tokenizer.encode(text, add_special_tokens=False) for text in pair] for pair in pairs)
    examples = [(prompt, response) for prompt, response in encoded]
    rows.mkdir()
    write_ift_rows(
        examples, rows, sequence_length=shape.length, batch_rows=shape.rows, group_rows=shape.rows, max_epochs=1,
        eos=EOS, pad=PAD, vocab_size=shape.vocab_size, seed=0, packing="bfd",
    )  # fmt: skip
    return base, rows, examples, round(len(examples) / (Batches(rows).steps_per_epoch or 1))


def machine() -> dict[str, Any]:
    from scripts.training.throughput import describe_device

    packages = ("torch", "transformers", "peft", "accelerate", "torch-optimi", "trl")
    return {
        "device": describe_device()[0],
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The medians of each tool, and ours over each peer's: of rounds that lie beside each other."""
    rows: dict[str, Any] = {}
    for tool, found in runs.items():
        row: dict[str, Any] = {key: round(statistics.median(one[key] for one in found)) for key in found[0]}
        for key, name in (("tokens_per_second", "ours over it"), ("tokens_per_cpu_second", "ours over it, CPU time")):
            if tool != "ours":
                pairs = zip(runs["ours"], found, strict=True)
                row[name] = round(statistics.median(mine[key] / theirs[key] for mine, theirs in pairs), 2)
        rows[tool] = row
    return rows


def table(result: dict[str, Any]) -> None:
    print(f"{'':24}{'':16}{'tokens/s':>10}{'peak GB':>9}{'ours over it':>14}{'CPU time':>10}")
    for method, tools in result["methods"].items():
        for tool, row in tools.items():
            ratios = [row.get(name, "") for name in ("ours over it", "ours over it, CPU time")]
            print(
                f"{method:24}{tool:16}{row['tokens_per_second']:>10,}{row['peak_bytes'] / 1e9:>9.2f}"
                f"{ratios[0]:>14}{ratios[1]:>10}"
            )


def main(arguments: argparse.Namespace) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from scripts.training.model import trainable_model

    if find_spec("trl") is None:
        raise UserError("TRL is not installed; run `python -m pip install trl` in an environment of your own")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as where:
        base, rows, examples, per_step = prepare(SMALL, Path(where))
        result: dict[str, Any] = {"machine": machine(), "shape": vars(SMALL), "rounds": ROUNDS, "methods": {}}
        for name, method in ((name, METHODS[name]) for name in arguments.methods):
            runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
            for _ in range(ROUNDS):
                for tool in TOOLS:
                    work = Work(SMALL, base, rows, examples, method, Path(where) / "scratch", per_step)
                    runs[tool].append(measure(tool, work))
                    print(name, tool, runs[tool][-1], file=sys.stderr, flush=True)
            result["methods"][name] = summary(runs)
            model = trainable_model(base, method, 0, None)
            result.setdefault("parameters", {})[name] = sum(value.numel() for value in model.parameters())
            del model
        result["machine"]["load after"] = round(os.getloadavg()[0], 1)
    (ROOT / "benchmarks" / "results" / "training.json").write_text(json.dumps(result, indent=1) + "\n")
    table(result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS), help="fewer, to try it")
    run(main, parser)
