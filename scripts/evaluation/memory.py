"""How many sequences go through a model together: as many as the free memory holds, by arithmetic.

What an evaluation finds does not depend on it, but for rounding.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from scripts.common.errors import UserError
from scripts.components.shape import Shape

T = TypeVar("T")

RESERVE = 0.1
"""Of the free memory: what the allocator loses between blocks of many sizes, and the libraries' own."""
LOGITS_AT_ONCE = 2**25
"""Of likelihoods: 1,024 positions of Llama-2's vocabulary. More make no product faster."""
CPU_ROWS = 40
"""That a CPU writes together at most. More take memory, are hardly written faster, and leave its caches."""
CPU_TOKENS = 1280
"""Of sequences that a CPU reads together at most; of one there may be more. Twice as many are hardly read faster."""
CPU_LOGITS = 2**20
"""On a CPU in place of `LOGITS_AT_ONCE`."""
SCORE_BYTES = 20
"""Of a logit that is scored: itself, what scaling or capping makes of it, and in fp32 itself and its logarithm."""
SAMPLE_BYTES = 40
"""Of a logit that is sampled from: itself, in fp32 with its probability, and those sorted, with 8 bytes of index."""


def written_bytes(shape: Shape, prompt: int, length: int) -> int:
    """Of a row of `length` tokens in all, that begins with a prompt of `prompt` tokens."""
    kept = length * (shape.cache_bytes + shape.growth_bytes)
    return kept + _passed(shape, prompt, prompt) + SAMPLE_BYTES * shape.vocab_size


def scored_bytes(shape: Shape, length: int, kept: int = 0) -> int:
    """Of a sequence of `length` tokens whose likelihoods are asked for; the first `kept` are read once for several."""
    cached = (length * (shape.cache_bytes + shape.growth_bytes)) if kept else 0
    return cached + _passed(shape, max(kept, length - kept), length) + length * shape.hidden_size * shape.item_bytes


def _passed(shape: Shape, tokens: int, length: int) -> int:
    """Of tokens that pass the layers at once, each with a mask over `length` others (a bit, and as it is added)."""
    return tokens * (shape.pass_bytes + length * (1 + shape.item_bytes))


def rows_written(shape: Shape, free: int, prompt: int, length: int) -> int:
    """How many rows fit into `free` bytes; see `written_bytes`. At least one: whether it fits will be seen."""
    return max(1, int(free * (1 - RESERVE)) // written_bytes(shape, prompt, length))


def sequences_scored(shape: Shape, free: int, length: int, kept: int = 0) -> int:
    """How many sequences fit into `free` bytes; see `scored_bytes`. At least one.

    Logits are there at no more than `LOGITS_AT_ONCE` at a time, or at one position.
    """
    logits = max(LOGITS_AT_ONCE, shape.vocab_size) * SCORE_BYTES
    left = int(free * (1 - RESERVE)) - logits
    return max(1, left // scored_bytes(shape, length, kept))


def in_batches(items: Sequence[T], fit: Callable[[T], int], act: Callable[[Sequence[T], int], int], where: str) -> None:
    """Does something with all items, in their order, as many at a time as memory allows.

    Args:
        items: the largest first.
        fit: how many of an item's size fit.
        act: is given what is left to do and how many it may do at a time, and says with how many of the first it is
            done; where memory does not suffice it raises, and is asked for half as many at a time from then on.
        where: the device's name.

    Raises:
        UserError: memory does not suffice for one item.
    """
    done, share = 0, 1.0
    while done < len(items):
        fitting = fit(items[done])
        many = min(len(items) - done, max(1, int(fitting * share)))
        did = 0
        try:
            did = act(items[done:], many)
        except torch.OutOfMemoryError:
            if many == 1:
                raise UserError(
                    f"one sequence takes more memory than is free on {where} beside the model; ask for shorter ones "
                    "(fewer shots, fewer new tokens) or evaluate where more is free"
                ) from None
        if not did:  # what the error held of the device is free only here
            torch.cuda.empty_cache()
            share = many / 2 / fitting
        done += did
