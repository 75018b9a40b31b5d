"""How different the programs are that a model writes (paper, figure 5)."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Distinct(NamedTuple):
    """What a model wrote to one problem: how many different texts, among those that passed and those that failed."""

    item: int
    passing: int
    failing: int
    passed: int
    """Texts that passed, repeated ones counted each time."""
    failed: int


def distinct_generations(samples: Iterable[Mapping[str, Any]]) -> list[Distinct]:
    """For each problem the number of distinct generated texts, of passing and of failing ones, by exact match.

    A text is a completion as it was cut at the stop words, without the problem's prompt. Whatever did not pass failed.

    Args:
        samples: the rows of a humaneval (or pass_at_k) evaluation's ``samples.parquet``.
    """
    counted = []
    for sample in samples:
        written = list(zip(sample["completions"], sample["verdicts"], strict=True))
        passing = [text for text, verdict in written if verdict == "passed"]
        failing = [text for text, verdict in written if verdict != "passed"]
        counted.append(Distinct(sample["item"], len(set(passing)), len(set(failing)), len(passing), len(failing)))
    return counted
