"""ARC-challenge: questions of school science."""

from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.items import Item
from scripts.components.asking.shown import accuracy
from scripts.components.tasks import MultipleChoice, Task

TASK = Task(
    name="arc_challenge",
    settings=MultipleChoice,
    meaning="forgetting: questions of school science",
    paper="section 3.3",
    always=True,
    measures=frozenset({"forgetting"}),
    shown=accuracy("ARC-challenge", scored="", averaged=""),
    printed=False,
    items=1_172,
    metrics=("acc_norm", "acc"),
    file="arc_challenge",
    answers=Scored(choice),
    check=None,
)


def choices(item: Item) -> list[str]:
    return list(item["choices"]["text"])


def answer(item: Item) -> int:
    return list(item["choices"]["label"]).index(item["answerKey"])
