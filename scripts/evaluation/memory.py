"""How many sequences go through a model together: as many as the free memory holds, by arithmetic.

What an evaluation finds does not depend on it, but for rounding.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from scripts.common.errors import UserError
from scripts.components.memory import scored_bytes, scored_logits_bytes, written_bytes
from scripts.components.shape import Shape

T = TypeVar("T")

RESERVE = 0.1
"""Of the free memory: what the allocator loses between blocks of many sizes, and the libraries' own."""
CPU_ROWS = 40
"""That a CPU writes together at most. More take memory, are hardly written faster, and leave its caches."""
CPU_TOKENS = 1280
"""Of sequences that a CPU reads together at most; of one there may be more. Twice as many are hardly read faster."""
CPU_LOGITS = 2**20
"""Logits that are scored at once, in place of `LOGITS_AT_ONCE` elsewhere."""


def rows_written(shape: Shape, free: int, prompt: int, length: int) -> int:
    """How many rows fit into `free` bytes; see `written_bytes`. At least one: whether it fits will be seen."""
    return max(1, int(free * (1 - RESERVE)) // written_bytes(shape, prompt, length))


def sequences_scored(shape: Shape, free: int, length: int, kept: int = 0) -> int:
    """How many sequences fit into `free` bytes; see `scored_bytes`. At least one.

    Logits are there besides, see `scored_logits_bytes`.
    """
    left = int(free * (1 - RESERVE)) - scored_logits_bytes(shape)
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
