"""How figures and tables show what is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How figures and tables show a task, or a measure that is made of several."""

    label: str
    """What it is called: `HumanEval`."""
    axis: str
    """What stands along its axis, with the unit: `Accuracy in HumanEval`."""
    scored: str
    """The rule by which an answer is right, for tables: `strict match`. Empty where there is only one."""
    averaged: str
    """What a value is, for tables, where it is not the mean over items: `mean over its subjects`. Else empty."""
    least: float
    """The lowest value that there can be."""
    most: float
    """The highest value that there can be."""
    lower_is_better: bool
    note: str
    """What a figure says of it below its panels. Empty where the axis says enough."""


def accuracy(label: str, *, scored: str, averaged: str) -> Shown:
    """Of a task whose value is a share of right answers; the arguments are those of `Shown`."""
    return Shown(
        label=label,
        axis=f"Accuracy in {label}",
        scored=scored,
        averaged=averaged,
        least=0.0,
        most=1.0,
        lower_is_better=False,
        note="",
    )
