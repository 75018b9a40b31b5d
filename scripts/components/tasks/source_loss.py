"""Loss on held-out records of the base model's pretraining data."""

from scripts.components.asking import losses
from scripts.components.asking.answers import Scored, loss
from scripts.components.tasks import Size, Task

TASK = Task(
    name="source_loss",
    forms=losses.FORMS,
    settings=None,
    meaning="forgetting: loss on held-out records of the data that the base model was pretrained on",
    paper="beyond the paper",
    measures=frozenset({"forgetting"}),
    shown=losses.shown("source loss"),
    items=None,
    metrics=("bits_per_byte",),
    file=losses.file,
    answers=Scored(loss, as_rows=True),
    check=losses.check,
    size=Size(read=2000),
)
