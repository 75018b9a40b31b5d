"""Which items belong to which split, and the random streams that the generators draw from."""

from functools import cache
from hashlib import blake2b
from random import Random

SPLITS = ("train", "test", "validation")


@cache
def split_of(*parts: object) -> str:
    """Return the split of an item, by a hash of the rules that it combines (never of its label): 20 % test,
    10 % validation, the rest train."""
    digest = blake2b("|".join(map(str, parts)).encode(), digest_size=4).digest()
    bucket = int.from_bytes(digest, "big") % 10
    return "test" if bucket < 2 else "validation" if bucket == 2 else "train"


def stream(name: str, seed: int, split: str) -> Random:
    """Return the random stream of one data set's split. Raises ValueError for a split that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    return Random(f"{name} {seed} {split}")
