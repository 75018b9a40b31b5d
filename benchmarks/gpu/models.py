"""Models with random weights, made where they are used, and steps of training timed on the device."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.part import Bench, Clock
from scripts.components.modules import ALL_LINEAR
from scripts.loading import models
from scripts.training import execution
from scripts.training.loop import _deterministic
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward
from scripts.training.optimizer import NamedOptimizer
from scripts.training.parallel import decoder_layers

OPTIMIZER = {
    "name": "decoupled_lionw", "learning_rate": 1e-5, "betas": [0.9, 0.95], "weight_decay": 1e-6, "clip_norm": 1.0,
}  # fmt: skip
FULL: dict[str, Any] = {"kind": "full"}


@dataclass(frozen=True)
class Shape:
    """A Llama, and the rows of a step of `length` tokens; its peer takes `peer_rows` at once."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    length: int
    rows: int
    peer_rows: int = 2

    def config(self, layers: int | None = None) -> LlamaConfig:
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
        return LlamaConfig(
            **{name: getattr(self, name) for name in names}, num_hidden_layers=layers or self.num_hidden_layers,
            max_position_embeddings=self.length, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        )  # fmt: skip

    def parameters(self, layers: int) -> int:
        """Of a full model of so many layers."""
        with torch.device("meta"):
            return sum(value.numel() for value in LlamaForCausalLM(self.config(layers)).parameters())


LLAMA_2_7B = Shape(32000, 4096, 11008, 32, 32, 32, length=4096, rows=6)
"""6 rows: what each of the paper's 32 GPUs trains of a batch of 192."""
TINY = Shape(512, 64, 160, 4, 4, 4, length=64, rows=4)


def lora(rank: int, dropout: float) -> dict[str, Any]:
    return {"kind": "lora", "rank": rank, "alpha": 2.0 * rank, "modules": list(ALL_LINEAR), "dropout": dropout}


def network(shape: Shape, device: torch.device, dtype: torch.dtype, layers: int | None = None) -> Any:
    """A Llama on the device, of the same weights each time."""
    torch.manual_seed(0)
    with device, _default(dtype):
        return LlamaForCausalLM(shape.config(layers))


def trainable(made: Any, method: Mapping[str, Any], precision: str) -> Any:
    """What `trainable_model` makes of a base model that lies in no directory."""
    before, models.pretrained = models.pretrained, lambda *_: made
    try:
        return trainable_model(Path(), method, 0, None, precision=precision).train()
    finally:
        models.pretrained = before


class Ours:
    """The project's training, prepared as for a run; a step of it takes random tokens."""

    def __init__(self, made: Any, method: Mapping[str, Any], shape: Shape, bench: Bench) -> None:
        self.model = trainable(made, method, bench.precision)
        execution.prepare_model(self.model, bench.device, bench.precision)
        self.objective = Objective(self.model, bench.precision)
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.optimizer = NamedOptimizer(self.trained, OPTIMIZER)
        self.pass_tokens = execution.plan_passes(self.objective, self.optimizer, shape.rows, shape.length)
        self.checkpointed = sum(layer.gradient_checkpointing for layer in decoder_layers(self.model))

    def step(self, number: int, tokens: Tensor, clock: Clock | None = None) -> None:
        mark = clock.mark if clock else lambda _: None
        backward(
            self.objective, tokens, tokens, len(tokens), loss="token_mean", step=number, pass_tokens=self.pass_tokens
        )
        mark("passes")
        torch.nn.utils.clip_grad_norm_(self.trained.values(), OPTIMIZER["clip_norm"])  # type: ignore[arg-type]
        mark("clipping")
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark("optimizer")


class Peer:
    """What the documentation of peft and transformers shows: SDPA, checkpointed layers, a frozen base in bf16."""

    def __init__(self, made: Any, method: Mapping[str, Any], shape: Shape, bench: Bench) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=method["rank"], lora_alpha=method["alpha"], target_modules=method["modules"],
            lora_dropout=method["dropout"], task_type="CAUSAL_LM",
        )  # fmt: skip
        self.model: Any = get_peft_model(made, config).train()
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.enable_input_require_grads()
        self.rows, self.bench = shape.peer_rows, bench
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.optimizer = NamedOptimizer(self.trained, OPTIMIZER)

    def step(self, number: int, tokens: Tensor, clock: Clock | None = None) -> None:
        targets = tokens[:, 1:].numel()
        for part in torch.split(tokens, self.rows):
            given = part.to(self.bench.device)
            with torch.autocast(given.device.type, torch.bfloat16, enabled=self.bench.precision == "bf16"):
                loss = self.model(input_ids=given, labels=given, num_items_in_batch=targets).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), OPTIMIZER["clip_norm"])  # type: ignore[arg-type]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if clock:
            clock.mark("all")


def measured(
    step: Callable[[int, Tensor, Clock | None], None], shape: Shape, bench: Bench, warm_up: int = 2, steps: int = 3
) -> dict[str, float]:
    """Seconds of a step by what it does, the mean of `steps` after `warm_up` that do not count."""
    drawn = torch.Generator().manual_seed(0)
    batches = torch.randint(3, shape.vocab_size, (warm_up + steps, shape.rows, shape.length), generator=drawn)
    for number in range(warm_up):
        step(number, batches[number], None)
    clock = Clock(bench)
    for number in range(warm_up, warm_up + steps):
        step(number, batches[number], clock)
    return {name: seconds / steps for name, seconds in clock.seconds().items()}


@contextmanager
def as_trained(bench: Bench) -> Iterator[None]:
    """With deterministic kernels, as in the training loop."""
    with _deterministic(bench.device):
        yield


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def free(bench: Bench) -> None:
    """Let go of what nobody holds any more, and forget the peak of memory."""
    import gc

    gc.collect()
    if bench.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes(bench: Bench) -> float | None:
    """Of memory that torch had in use at once, since `free`."""
    return torch.cuda.max_memory_allocated() / 1e9 if bench.is_cuda else None
