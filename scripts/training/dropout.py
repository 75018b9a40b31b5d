"""LoRA's dropout, whose masks are a function of (seed, step, module, row, position, channel), the same on every device.

Every element has a 32-bit hash of its own, and is dropped where that is below the rate. Nothing is drawn in an order,
so that a batch gets the same masks however it is cut into passes and spread over processes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# lowbias32 of Chris Wellons' hash-prospector: x ^= x >> 16, x *= A, x ^= x >> 15, x *= B, x ^= x >> 16 in uint32.
LOWBIAS32 = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1))
# 2**32 over the golden ratio (Knuth's Fibonacci hashing): row * GOLDEN + position differ among 2**30 tokens of a step.
GOLDEN = 0x9E3779B9
NAME_BYTES = 256


def keep_mask(seed: int, step: int, module: str, rows: Tensor, positions: Tensor, channels: int, rate: float) -> Tensor:
    """What dropout multiplies a module's input by: 0 where it drops, 1 / (1 - rate) elsewhere; float32 [..., channels].

    `rows` are the tokens' rows in the step's whole batch, `positions` their places in the row: integers on the device
    of the result, whose common (broadcast) shape is [...]. `seed` and `step` are at least 0, `rate` is in [0, 1)
    and counts in steps of 2**-32. `module` is the name of the adapted module in the base model.
    """
    return _mask(*_hashes(seed, step, module, rows, positions, channels), rate)


def _hashes(seed: int, step: int, module: str, rows: Tensor, positions: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Of every token and of every channel: what an element's hash is made from."""
    token_key, channel_key = _keys(seed, step, module)
    tokens = rows.to(torch.int32) * _signed(GOLDEN) + positions.to(torch.int32)
    numbers = torch.arange(channels, dtype=torch.int32, device=rows.device)
    return _mix(tokens ^ token_key), _mix(numbers ^ channel_key)


def _mask(tokens: Tensor, channels: Tensor, rate: float) -> Tensor:
    bits = _mix(tokens[..., None] ^ channels)
    first_kept = min(round(rate * 2**32), 2**32 - 1) - 2**31  # of the integers from -2**31 up
    kept = torch.ge(bits, first_kept, out=torch.empty_like(bits, dtype=torch.float32))
    return kept.mul_(1 / (1 - rate))


def _dropped(tokens: Tensor, channels: Tensor, rate: float, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    mask = _mask(tokens, channels, rate)
    return tuple((x * mask).to(x.dtype) for x in inputs)


@cache
def _dropped_in_one_kernel() -> Callable[..., tuple[Tensor, ...]]:
    """For a GPU, where every operation of the hash would otherwise read and write a mask of its own."""
    return torch.compile(_dropped, dynamic=True)


@lru_cache(maxsize=4096)
def _keys(seed: int, step: int, module: str) -> tuple[int, int]:
    """Two int32, from numpy's documented and stable mixing of seeds; the module's name counts as one large number."""
    words = np.random.SeedSequence([seed, step, int.from_bytes(module.encode(), "little")]).generate_state(2)
    return _signed(int(words[0])), _signed(int(words[1]))


def _mix(x: Tensor) -> Tensor:
    """lowbias32 of every element, in place. In int32: torch multiplies no uint32; `>>` fills with the sign there."""
    shifted = torch.empty_like(x)
    for shift, factor in LOWBIAS32:
        torch.bitwise_right_shift(x, shift, out=shifted)
        x.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))
        if factor != 1:
            x.mul_(_signed(factor))
    return x


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word


@dataclass(frozen=True)
class _Tokens:
    seed: int
    step: int
    rows: Tensor
    positions: Tensor


_tokens: _Tokens | None = None  # not a context variable: torch's backward recomputes in threads of its own


@contextmanager
def dropout_of(seed: int, step: int, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Inside, adapters' inputs [..., channels] are these tokens, where [...] is what `rows` and `positions` give.

    Forward passes with dropout are made inside, and so are their backward passes.
    """
    global _tokens
    before, _tokens = _tokens, _Tokens(seed, step, rows, positions)
    try:
        yield
    finally:
        _tokens = before


def row_seeds(layer: int) -> list[int]:
    """A seed of 32 bits (torch's CPU generator uses no more) for each row that `dropout_of` has named, in one layer."""
    now = _named()
    rows = now.rows.flatten().tolist()
    return [int(np.random.SeedSequence([now.seed, now.step, row, layer]).generate_state(1)[0]) for row in rows]


def _named() -> _Tokens:
    if _tokens is None:
        raise RuntimeError("dropout in training needs to know its tokens: call the model inside `dropout_of`")
    return _tokens


class LoraDropout(nn.Module):
    """Drops channels at `rate`, in training only, by `keep_mask`; `module` is the name of the adapted module.

    `name` is its UTF-8 bytes and zeros, always as many: what a compiled layer has as a tensor is no constant of it, so
    that one graph serves all layers.
    """

    def __init__(self, rate: float, module: str) -> None:
        super().__init__()
        self.rate = rate
        self.module = module
        self.name = torch.tensor(list(module.encode().ljust(NAME_BYTES, b"\0")), dtype=torch.uint8)  # never on a GPU

    def forward(self, x: Tensor) -> Tensor:
        return drop(self.module, self.rate, x)[0] if self.training else x


def module_of(name: Tensor) -> str:
    """The module whose LoraDropout has this `name`."""
    return name.numpy().tobytes().rstrip(b"\0").decode()


@torch.compiler.disable  # type: ignore[untyped-decorator]  # what a compiler would take for a constant is another one in the next step
def drop(module: str, rate: float, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The inputs, all of one shape, times the `keep_mask` of the tokens that `dropout_of` has named, in their types."""
    now = _named()
    *shape, width = inputs[0].shape
    tokens, channels = _hashes(now.seed, now.step, module, now.rows, now.positions, width)
    compute = _dropped_in_one_kernel() if inputs[0].is_cuda else _dropped
    return compute(tokens.view(shape), channels, rate, inputs)  # OPT's MLP has all tokens of all rows in a line


def use_lora_dropout(model: Any) -> None:
    """Put `LoraDropout` in the place of torch's in every adapter of a peft model."""
    for name, part in model.get_base_model().named_modules():
        dropouts = getattr(part, "lora_dropout", {})
        for adapter, dropout in list(dropouts.items()):
            if isinstance(dropout, nn.Dropout):  # peft has an Identity where the rate is 0
                dropouts[adapter] = LoraDropout(dropout.p, name).train(dropout.training)
