"""Winograd: what a pronoun refers to."""

from typing import Any, ClassVar, Self

from pydantic import model_validator

from scripts.components.asking import gauntlet
from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.items import Item, right_one
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.tasks import MultipleChoice, Size, Task


class Schema(Form):
    """A text with a pronoun, what it may refer to, and the number of the right one."""

    called: ClassVar[str] = "item of winograd"

    text: Filled
    pronoun: Filled
    pronoun_loc: int
    options: list[Filled]
    label: int | str

    @model_validator(mode="after")
    def _has_an_answer(self) -> Self:
        right_one("label", self.label, "options", self.options)
        if not 0 <= self.pronoun_loc < len(self.text):
            raise ValueError(f"pronoun_loc must be a place in the text, from 0, and is {self.pronoun_loc}")
        return self


TASK = Task(
    name="winograd",
    forms=(Schema,),
    settings=MultipleChoice,
    meaning="what a pronoun refers to, for language understanding",
    paper="figure S2",
    measures=frozenset({"learning", "forgetting"}),
    shown=accuracy("Winograd", scored="", averaged=""),
    items=None,
    metrics=gauntlet.metrics("acc"),
    file=gauntlet.file("winograd"),
    answers=Scored(choice),
    check=gauntlet.check,
    size=Size(read=180),
)


def contexts(item: Item) -> list[str]:
    """The text before the pronoun with each of the options in the pronoun's place."""
    before = _single_spaced(item["text"])[: item["pronoun_loc"]]
    return [before + _in_place(item, before, option) for option in item["options"]]


def continuation(item: Item) -> str:
    """The text after the pronoun; the space or sign that it begins with belongs to it."""
    return _single_spaced(item["text"])[item["pronoun_loc"] + len(item["pronoun"]) :]


def answer(item: Item) -> int:
    return int(item["label"])


def read_gauntlet(test: str, shots: int = 0, **_rest: Any) -> dict[str, Any]:
    """A space stands before what follows the pronoun, be it a full stop (llm-foundry's
    `scripts/eval/local_data/language_understanding/winograd_wsc.jsonl`, whose texts end before that space)."""
    return gauntlet.schemas(test, shots, lambda item: (contexts(item), continuation(item), answer(item)))


def _single_spaced(text: str) -> str:
    return text.replace("  ", " ")


_CAPITALIZED = {"A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their"}
_POSSESSIVE = {"my", "his", "her", "our", "their"}


def _in_place(item: Item, before: str, option: str) -> str:
    """An option as it stands within a sentence, in the possessive where the pronoun is."""
    if item["pronoun"].lower() in _POSSESSIVE:
        option += "'s"
    first, space, rest = option.partition(" ")
    starts_sentence = not before.strip() or before.rstrip().endswith(".")
    return option if starts_sentence or first not in _CAPITALIZED else first.lower() + space + rest
