"""pass@k: HumanEval with many programs a problem."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scripts.components.asking.answers import Programs
from scripts.components.tasks import Task, humaneval


def _metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """pass@1, pass@2, pass@4, ... up to the number of samples."""
    return tuple(f"pass@{2**power}" for power in range(settings["samples"].bit_length()))


TASK = Task(
    name="pass_at_k",
    forms=humaneval.TASK.forms,
    settings=humaneval.HumanEval,
    meaning="HumanEval with many programs a problem",
    paper="figure S9",
    measures=frozenset(),
    shown=replace(
        humaneval.TASK.shown,
        label=f"{humaneval.TASK.shown.label}, pass@k",
        axis=f"pass@k in {humaneval.TASK.shown.label}",
        scored="",
    ),
    items=None,
    metrics=_metrics,
    file=humaneval.TASK.file,
    answers=Programs(errors=True),
    check=humaneval.TASK.check,
    size=humaneval.TASK.size,
)
