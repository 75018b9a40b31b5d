"""Loss on held-out records of the data that a setting trains on."""

from scripts.components.asking import losses
from scripts.components.asking.answers import Scored, loss
from scripts.components.tasks import Size, Task

TASK = Task(
    name="target_loss",
    forms=losses.FORMS,
    settings=None,
    meaning="learning: loss on held-out records of the data that a setting trains on",
    paper="beyond the paper",
    measures=frozenset({"learning"}),
    shown=losses.shown("target loss"),
    items=None,
    metrics=("bits_per_byte",),
    file=losses.file,
    answers=Scored(loss, as_rows=True),
    check=losses.check,
    size=Size(read=1000),
)
