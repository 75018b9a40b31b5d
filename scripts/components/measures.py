"""What a study can measure that is no task of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scripts.components.asking.shown import Shown
from scripts.components.tasks import COMPOSITE, TASKS, humaneval, source_loss, target_loss

SOURCE_LOSS, TARGET_LOSS = source_loss.TASK.name, target_loss.TASK.name
LEARNING, FORGETTING = "learning", "forgetting"
LANGUAGE_UNDERSTANDING, DIVERSITY, SPECTRA = "language_understanding", "diversity", "spectra"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is made of several tasks, or is found in what one of them recorded, or in the weights."""

    name: str
    tasks: tuple[str, ...] | None
    """The tasks behind it; None where a study or a setting says which they are."""
    shown: Shown | None
    """How figures and tables show it; None where the task does it, or a kind of artifact by itself."""


def averaged(tasks: Sequence[str], shown: Mapping[str, Shown]) -> str:
    """What the forgetting average of a study is made of: `1/2 (HellaSwag + WinoGrande)`, `HellaSwag alone`.

    Args:
        shown: how each of the tasks is shown.
    """
    labels = [shown[task].label for task in tasks]
    return f"1/{len(labels)} ({' + '.join(labels)})" if len(labels) > 1 else f"{labels[0]} alone"


*_first, _last = (TASKS[task].shown.label for task in COMPOSITE)
MEASURES = {
    measure.name: measure
    for measure in (
        Measure(name=LEARNING, tasks=None, shown=None),
        Measure(
            name=FORGETTING,
            tasks=None,
            shown=Shown(
                label="forgetting",
                axis="Forgetting average",
                scored="",
                averaged="",
                least=0.0,
                most=1.0,
                lower_is_better=False,
                note="",
            ),
        ),
        Measure(
            name=LANGUAGE_UNDERSTANDING,
            tasks=tuple(COMPOSITE),
            shown=Shown(
                label="language understanding",
                axis="Language understanding",
                scored="",
                averaged="",
                least=-math.inf,
                most=1.0,
                lower_is_better=False,
                note=f"Language understanding: mean of {', '.join(_first)} and {_last}, each scaled so that 0 is "
                "guessing and 1 is all right",
            ),
        ),
        Measure(name=DIVERSITY, tasks=(humaneval.TASK.name,), shown=None),
        Measure(name=SPECTRA, tasks=(), shown=None),
    )
}

SHOWN = {
    **{name: task.shown for name, task in TASKS.items()},
    **{name: measure.shown for name, measure in MEASURES.items() if measure.shown},
}
"""How figures and tables show each task and measure that has an axis."""


def forgetting_of(tasks: Sequence[str], shown: Mapping[str, Shown]) -> Shown:
    """How forgetting is shown in a study that measures it by these tasks: as their mean, or as the one that falls.

    Args:
        shown: how each of the tasks is shown.
    """
    mean, (first, *_) = shown[FORGETTING], (shown[task] for task in tasks)
    return replace(first, label=mean.label, note="") if first.lower_is_better else mean
