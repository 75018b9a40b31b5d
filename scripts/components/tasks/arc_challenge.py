"""ARC-challenge: questions of school science."""

from typing import Any, ClassVar, Self

from pydantic import model_validator

from scripts.components.asking import gauntlet
from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.items import Item
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.tasks import MultipleChoice, Size, Task


class Choices(Form):
    """The choices of a question, each with its letter or number."""

    called: ClassVar[str] = "choices of an item of arc_challenge"

    text: list[Filled]
    label: list[str]


class Question(Form):
    """A question with its choices, and the label of the right one."""

    called: ClassVar[str] = "item of arc_challenge"

    question: Filled
    choices: Choices
    answerKey: str  # noqa: N815  (the real set's name)

    @model_validator(mode="after")
    def _has_an_answer(self) -> Self:
        labels = self.choices.label
        if not len(set(labels)) == len(labels) == len(self.choices.text) >= 2:
            raise ValueError(
                f"choices must be at least two, each text with a label of its own, and are {len(self.choices.text)} "
                f"with the labels {', '.join(labels) or 'none'}"
            )
        if self.answerKey not in labels:
            raise ValueError(f"answerKey must be one of {', '.join(labels)}, and is {self.answerKey!r}")
        return self


TASK = Task(
    name="arc_challenge",
    forms=(Question,),
    settings=MultipleChoice,
    meaning="forgetting: questions of school science",
    paper="section 3.3",
    measures=frozenset({"learning", "forgetting"}),
    shown=accuracy("ARC-challenge", scored="", averaged=""),
    items=1_172,
    metrics=gauntlet.metrics("acc_norm", "acc"),
    file=gauntlet.file("arc_challenge"),
    answers=Scored(choice),
    check=gauntlet.check,
    size=Size(read=269, shot=181),
)


def choices(item: Item) -> list[str]:
    return list(item["choices"]["text"])


def answer(item: Item) -> int:
    return list(item["choices"]["label"]).index(item["answerKey"])


def read_gauntlet(test: str, shots: int = 0, **_rest: Any) -> dict[str, Any]:
    """`Question: ` and `Answer: ` (llm-foundry's `scripts/eval/local_data/arc_challenge.jsonl`, `tasks_v0.2.yaml`)."""
    return gauntlet.multiple_choice(
        test, shots, lambda item: (f"Question: {item['question']}", choices(item), answer(item)), "\nAnswer: "
    )
