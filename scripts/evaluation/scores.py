"""Scores from outcomes: plain functions of numbers."""

import math
from collections.abc import Sequence


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The probability that one of `k` programs passes, when `passed` of `samples` did.

    Unbiased estimate 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374, equation 1).

    Raises:
        ValueError: not 0 <= passed <= samples, or not 1 <= k <= samples.
    """
    if not 0 <= passed <= samples:
        raise ValueError(f"{passed} of {samples} samples passed")
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples and k >= 1, there are {samples}")
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """The mean over items and its standard error: the sample standard deviation divided by sqrt(items).

    Raises:
        ValueError: fewer than two values, of which no deviation is known.
    """
    if len(values) < 2:
        raise ValueError(f"a standard error needs at least two items, there is {len(values)}")
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def plain_average(values: Sequence[float], stderrs: Sequence[float]) -> tuple[float, float]:
    """The unweighted mean of several benchmarks and its standard error; their items are independent draws.

    The forgetting average of the paper: no baseline is subtracted, a benchmark counts once whatever its size.

    Raises:
        ValueError: no values, or not one standard error for each.
    """
    if not values:
        raise ValueError("there is no value to average")
    if len(values) != len(stderrs):
        raise ValueError(f"there are {len(values)} values and {len(stderrs)} standard errors")
    return math.fsum(values) / len(values), math.sqrt(math.fsum(e * e for e in stderrs)) / len(values)
