"""What is read off singular values: how many of them explain most of a matrix. Needs no torch."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy
from numpy.typing import ArrayLike, NDArray

from scripts.common.errors import UserError

FILE = "spectra.safetensors"
LINEAR = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\.(?P<module>[qkvo]_proj|(?:gate|up|down)_proj)")
"""The name of a linear matrix of a layer: ``model.layers.26.self_attn.q_proj``."""

# The running sum of 8192 squares in float64 is off by less than this, relatively. A share that is missed by no more
# counts as reached, so that neither the scale of a matrix nor an exact tie moves a rank.
_ROUNDING = 1e-12


def explained(values: ArrayLike) -> NDArray[numpy.float64]:
    """The share of a matrix's variance that its k largest singular values explain, at place k - 1.

    The sum of the k largest squares over the sum of all (the rule behind figure 6 of the paper). It never falls, and
    ends in exactly 1. Where all values are zero there is nothing to explain, and every share is 1.

    Args:
        values: singular values, [n], in any order.

    Raises:
        ValueError: a value is negative or not finite, or the values are no vector.
    """
    sigma = numpy.sort(numpy.asarray(values, dtype=numpy.float64))[::-1]
    if sigma.ndim != 1 or not numpy.isfinite(sigma).all() or (sigma < 0).any():
        raise ValueError("singular values must be a vector of finite numbers, none of them negative")
    if not sigma.any():
        return numpy.ones_like(sigma)
    # divided first, so that squares neither overflow nor vanish
    sums = numpy.cumsum((sigma / sigma[0]) ** 2)
    shares: NDArray[numpy.float64] = sums / sums[-1]
    return shares


def rank_to_explain(values: ArrayLike, share: float = 0.9) -> int:
    """The smallest number of singular values that explain at least `share` of a matrix's variance (figure 6).

    0 where all values are zero. A share that is missed by less than 1e-12 of itself counts as reached.

    Args:
        values: singular values, [n], in any order.
        share: above 0, at most 1.

    Raises:
        ValueError: `share` is outside; or see `explained`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share must be above 0 and at most 1, and is {share}")
    shares = explained(values)
    if not numpy.any(values):
        return 0
    return int(numpy.argmax(shares >= share * (1 - _ROUNDING))) + 1


def place(name: str) -> tuple[int, str]:
    """Layer and kind of a linear matrix: ``(26, "q_proj")`` of ``model.layers.26.self_attn.q_proj``.

    Raises:
        ValueError: no linear matrix has such a name.
    """
    found = LINEAR.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a linear matrix of a layer")
    return int(found["layer"]), found["module"]


def require_linear(modules: Iterable[str], where: object) -> None:
    """Raises UserError where a linear module of a layer has no name that spectra know, and would be left out of them.

    Args:
        modules: full names of all linear modules of a model's layers.
        where: what the sentence names.
    """
    if unknown := next((name for name in modules if not LINEAR.fullmatch(name)), None):
        raise UserError(
            f"{where}: singular values are taken of matrices that are called as a Llama's are "
            f"(model.layers.0.self_attn.q_proj), and {unknown} is not; leave `spectra` out of the study"
        )


def read_spectra(directory: Path) -> dict[str, dict[str, NDArray[numpy.float64]]]:
    """The singular values that `scripts.spectra.singular_values` wrote, each spectrum from its largest value down.

    Returns:
        ``delta`` (finetuned minus base) to the name of every linear matrix to its values, [min(rows, columns)];
        ``base`` and ``tuned`` to the same for those matrices whose own spectra were asked for.
    """
    from safetensors.numpy import load_file

    spectra: dict[str, dict[str, NDArray[numpy.float64]]] = {"delta": {}, "base": {}, "tuned": {}}
    for name, values in load_file(directory / FILE).items():
        whose, _, matrix = name.partition(".")
        spectra[whose][matrix] = values
    return spectra
