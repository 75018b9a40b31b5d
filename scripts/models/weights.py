"""What safetensors say of their weights in their heads, without the weights being read."""

from collections import Counter
from math import prod
from pathlib import Path

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' name of a type of floating point numbers to torch's."""


def counted(file: Path) -> Counter[str]:
    """How many weights a file has, by the type that they are in, as safetensors calls it.

    Raises:
        safetensors.SafetensorError: the file cannot be read as safetensors.
    """
    from safetensors import safe_open

    found: Counter[str] = Counter()
    with safe_open(file, framework="numpy") as opened:
        for name in opened.keys():  # noqa: SIM118
            tensor = opened.get_slice(name)
            found[tensor.get_dtype()] += prod(tensor.get_shape())
    return found
