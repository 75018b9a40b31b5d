"""Scores from outcomes: plain functions of numbers."""

import math
from collections.abc import Hashable, Mapping, Sequence

from scripts.components.tasks import COMPOSITE


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


def ratio_and_stderr(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """R = sum(y) / sum(x) over items, and its standard error sd(y - R x) / (mean(x) sqrt(n)).

    sd is the root of the squares' sum over n - 1. The standard error is that of the linearised ratio (Cochran 1977,
    Sampling Techniques, third edition, section 2.11), for items that are few among all that could have been drawn.

    Raises:
        ValueError: fewer than two items, not one denominator for each numerator, or denominators with no sum.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"there are {len(numerators)} numerators and {len(denominators)} denominators")
    if len(numerators) < 2:
        raise ValueError(f"a standard error needs at least two items, there is {len(numerators)}")
    count, total = len(denominators), math.fsum(denominators)
    if total <= 0:
        raise ValueError(f"a ratio needs denominators with a sum above 0, it is {total}")
    ratio = math.fsum(numerators) / total
    variance = math.fsum((y - ratio * x) ** 2 for y, x in zip(numerators, denominators, strict=True)) / (count - 1)
    return ratio, math.sqrt(variance / count) / (total / count)


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


def subject_mean_and_stderr(values: Sequence[float], subjects: Sequence[Hashable]) -> tuple[float, float]:
    """The unweighted mean over subjects of the mean over a subject's items, and its standard error.

    A subject counts once however many items it has (paper, figure S5b: the mean of MMLU's 57 subjects). The items are
    independent draws within fixed subjects.

    Raises:
        ValueError: no values, not one subject for each, or a subject with fewer than two of them.
    """
    if len(values) != len(subjects):
        raise ValueError(f"there are {len(values)} values and {len(subjects)} subjects")
    by_subject: dict[Hashable, list[float]] = {}
    for value, subject in zip(values, subjects, strict=True):
        by_subject.setdefault(subject, []).append(value)
    scores = [mean_and_stderr(items) for items in by_subject.values()]
    return plain_average([mean for mean, _ in scores], [stderr for _, stderr in scores])


def language_understanding(values: Mapping[str, float], stderrs: Mapping[str, float]) -> tuple[float, float]:
    """The composite of figure S2 (right) and its standard error: 0 is guessing, 1 is all right.

    The unweighted mean of (accuracy - guess) / (1 - guess) over the tasks of `COMPOSITE`, as llm-foundry's evaluation
    gauntlet computes it; a task below the guess counts below 0. The tasks' items are independent draws.

    Args:
        values: accuracy of each task; others are ignored.
        stderrs: standard error of each task's accuracy.

    Raises:
        ValueError: a task is missing.
    """
    if missing := [task for task in COMPOSITE if task not in values or task not in stderrs]:
        raise ValueError(f"language understanding needs a value and a standard error of {', '.join(missing)}")
    return plain_average(
        [(values[task] - guess) / (1 - guess) for task, guess in COMPOSITE.items()],
        [stderrs[task] / (1 - guess) for task, guess in COMPOSITE.items()],
    )
