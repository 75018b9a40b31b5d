"""HellaSwag: how a description goes on."""

import re
from typing import Any, ClassVar, Self

from pydantic import model_validator

from scripts.components.asking import gauntlet
from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.items import Item, right_one
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.tasks import MultipleChoice, Size, Task


class Description(Form):
    """A description and its endings, and the number of the right one."""

    called: ClassVar[str] = "item of hellaswag"

    activity_label: str
    ctx_a: Filled
    ctx_b: str
    endings: list[Filled]
    label: int | str

    @model_validator(mode="after")
    def _has_an_answer(self) -> Self:
        right_one("label", self.label, "endings", self.endings)
        return self


TASK = Task(
    name="hellaswag",
    forms=(Description,),
    settings=MultipleChoice,
    meaning="forgetting: how a description goes on",
    paper="section 3.3",
    measures=frozenset({"learning", "forgetting"}),
    shown=accuracy("HellaSwag", scored="", averaged=""),
    items=10_042,
    metrics=gauntlet.metrics("acc_norm", "acc"),
    file=gauntlet.file("hellaswag"),
    answers=Scored(choice),
    check=gauntlet.check,
    size=Size(read=804, shot=382),
)


def context(item: Item) -> str:
    return _without_wikihow_marks(item["activity_label"] + ": " + item["ctx_a"] + " " + item["ctx_b"].capitalize())


def endings(item: Item) -> list[str]:
    return [_without_wikihow_marks(ending) for ending in item["endings"]]


def label(item: Item) -> int:
    return int(item["label"])


def read_gauntlet(test: str, shots: int = 0, **_rest: Any) -> dict[str, Any]:
    """Texts as in lm-eval. That was seen of the first record of the gauntlet's file, which is not in its repository."""
    return gauntlet.multiple_choice(test, shots, lambda item: (context(item), endings(item), label(item)))


def _without_wikihow_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
