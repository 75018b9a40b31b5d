"""HellaSwag: how a description goes on."""

import re

from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.items import Item
from scripts.components.asking.shown import accuracy
from scripts.components.tasks import MultipleChoice, Task

TASK = Task(
    name="hellaswag",
    settings=MultipleChoice,
    meaning="forgetting: how a description goes on",
    paper="section 3.3",
    always=True,
    measures=frozenset({"forgetting"}),
    shown=accuracy("HellaSwag", scored="", averaged=""),
    printed=False,
    items=10_042,
    metrics=("acc_norm", "acc"),
    file="hellaswag",
    answers=Scored(choice),
    check=None,
)


def context(item: Item) -> str:
    return _without_wikihow_marks(item["activity_label"] + ": " + item["ctx_a"] + " " + item["ctx_b"].capitalize())


def endings(item: Item) -> list[str]:
    return [_without_wikihow_marks(ending) for ending in item["endings"]]


def label(item: Item) -> int:
    return int(item["label"])


def _without_wikihow_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
