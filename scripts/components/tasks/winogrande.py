"""WinoGrande: what a blank in a sentence refers to."""

from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from scripts.components.asking import gauntlet
from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.items import Item
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.tasks import MultipleChoice, Size, Task


class Sentence(Form):
    """A sentence with a blank, two options for it, and which of them is right."""

    called: ClassVar[str] = "item of winogrande"

    sentence: Filled
    option1: Filled
    option2: Filled
    answer: Literal["1", "2"]

    @model_validator(mode="after")
    def _has_a_blank(self) -> Self:
        if "_" not in self.sentence:
            raise ValueError("sentence must have a blank, which is an underscore")
        return self


TASK = Task(
    name="winogrande",
    forms=(Sentence,),
    settings=MultipleChoice,
    meaning="forgetting: what a blank in a sentence refers to",
    paper="section 3.3",
    measures=frozenset({"learning", "forgetting"}),
    shown=accuracy("WinoGrande", scored="", averaged=""),
    items=1_267,
    metrics=gauntlet.metrics("acc"),
    file=gauntlet.file("winogrande"),
    answers=Scored(choice),
    check=gauntlet.check,
    size=Size(read=202, shot=101),
)


def answer(item: Item) -> int:
    return {"1": 0, "2": 1}[item["answer"]]


def contexts(item: Item) -> list[str]:
    before = item["sentence"][: item["sentence"].index("_")]
    return [before + item["option1"], before + item["option2"]]


def continuation(item: Item) -> str:
    sentence: str = item["sentence"]
    return sentence[sentence.index("_") + 1 :].strip()


def read_gauntlet(test: str, shots: int = 0, **_rest: Any) -> dict[str, Any]:
    """Texts as in lm-eval (llm-foundry's `scripts/eval/local_data/language_understanding/winogrande.jsonl`)."""
    return gauntlet.schemas(test, shots, lambda item: (contexts(item), continuation(item), answer(item)))
