"""What each part of training that is our own gains over the plain one, on the CPU: time, and memory kept or taken.

python -m benchmarks.training_parts            writes benchmarks/results/training_parts.json

Times are CPU seconds of one thread, the median of ROUNDS, taken in turn; memory is the growth of the peak resident set.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.training import METHODS, OPTIMIZER, SMALL, peak, prepare, settle
from scripts.data.batches import Batches
from scripts.training import objective
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward

RESULTS = Path(__file__).resolve().parent / "results" / "training_parts.json"
ROUNDS = 3
POSITIONS, WIDTH, VOCABULARY = 8192, 64, 32_000  # what a pass of Llama-2 scores; a narrow model


def in_turn(runs: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, act in runs.items():
            before = settle()
            began = time.process_time()
            act()
            found[name].append((time.process_time() - began, peak() - before))
    return {
        name: {
            "seconds": round(statistics.median(seconds for seconds, _ in points), 3),
            "peak_mb": round(statistics.median(taken for _, taken in points) / 1e6),
        }
        for name, points in found.items()
    }


def lora_forward(method: str) -> dict[str, Any]:
    """A forward and backward pass with the own function, and with peft's forward and the same dropout."""
    from peft.tuners.lora import Linear

    from scripts.training.lora_linear import LoraLinear

    with tempfile.TemporaryDirectory() as where:
        base, rows, *_ = prepare(SMALL, Path(where))
        own, peft = (trainable_model(base, METHODS[method], 0, None).train() for _ in range(2))
        batches = Batches(rows)
        tokens, labels = (torch.as_tensor(array) for array in batches.batch(0))
    for part in peft.modules():
        if isinstance(part, LoraLinear):
            part.__class__ = Linear

    def one_pass(model: Any) -> None:
        backward(Objective(model, "fp32"), tokens, labels, len(tokens), seed=0, step=0)
        model.zero_grad(set_to_none=True)

    return in_turn({"own": lambda: one_pass(own), "peft": lambda: one_pass(peft)})


def cross_entropy() -> dict[str, Any]:
    """Loss and gradients of the output layer: in chunks, all at once, and torch's own where it has one."""
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    targets = torch.randint(VOCABULARY, (POSITIONS,))
    weights = torch.full((POSITIONS,), 1 / POSITIONS)

    class Given(Objective):
        def __init__(self) -> None:
            super().__init__(head, "fp32")

    def ours(logits: int) -> None:
        before, objective.CHUNK_LOGITS = objective.CHUNK_LOGITS, logits
        found, objective.last_hidden = objective.last_hidden, lambda *_, **__: (hidden, head)  # type: ignore[assignment]
        head.config = type("Config", (), {"_attn_implementation": "sdpa"})()  # type: ignore[assignment]
        try:
            Given()(targets[None], targets, targets, weights).backward()
        finally:
            objective.CHUNK_LOGITS, objective.last_hidden = before, found
        head.zero_grad(set_to_none=True)
        hidden.grad = None

    def torchs() -> None:
        functional.linear_cross_entropy(hidden, head.weight, targets).backward()
        head.zero_grad(set_to_none=True)
        hidden.grad = None

    runs = {"in chunks": lambda: ours(objective.CHUNK_LOGITS), "at once": lambda: ours(2**62)}
    if hasattr(functional, "linear_cross_entropy"):  # torch 2.13
        runs["F.linear_cross_entropy"] = torchs
    return in_turn(runs)


def uninitialized_memory() -> dict[str, Any]:
    """A step of full finetuning with torch's deterministic algorithms, which fill new memory unless told not to."""
    from torch.utils import deterministic

    from scripts.training.optimizer import NamedOptimizer

    with tempfile.TemporaryDirectory() as where:
        base, rows, *_ = prepare(SMALL, Path(where))
        model = trainable_model(base, METHODS["full"], 0, None).train()
        tokens, labels = (torch.as_tensor(array) for array in Batches(rows).batch(0))
    optimizer = NamedOptimizer(dict(model.named_parameters()), OPTIMIZER)

    def step(fills: bool) -> None:
        torch.use_deterministic_algorithms(True)
        deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        backward(Objective(model, "fp32"), tokens, labels, len(tokens))
        optimizer.step()
        optimizer.zero_grad()
        deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(False)

    return in_turn({"left as it is": lambda: step(False), "filled": lambda: step(True)})


def main() -> None:
    torch.set_num_threads(1)
    result = {
        "machine": {"torch": torch.__version__, "cores": os.cpu_count(), "load before": round(os.getloadavg()[0], 1)},
        "rounds": ROUNDS,
        "LoRA r16, forward and backward": lora_forward("lora-r16"),
        "LoRA r16 with dropout, forward and backward": lora_forward("lora-r16-dropout-0.05"),
        f"cross-entropy of {POSITIONS} positions, {VOCABULARY} words": cross_entropy(),
        "deterministic algorithms, new memory": uninitialized_memory(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULTS.read_text(), end="")


if __name__ == "__main__":
    main()
