"""LAMBADA: last words of passages."""

from typing import ClassVar, Self

from pydantic import model_validator

from scripts.components.asking.answers import Scored, word
from scripts.components.asking.items import Item
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.tasks import Shots, Size, Task


class Lambada(Shots):
    """How often the last word of a passage is the likeliest."""


class Passage(Form):
    """A passage, whose last word is asked."""

    called: ClassVar[str] = "item of lambada"

    text: Filled

    @model_validator(mode="after")
    def _has_a_last_word(self) -> Self:
        before, _, last = self.text.rpartition(" ")
        if not before.strip() or not last.strip():
            raise ValueError("text must have a word behind its last space, and something before it")
        return self


TASK = Task(
    name="lambada",
    forms=(Passage,),
    settings=Lambada,
    meaning="last words of passages, for language understanding",
    paper="figure S2",
    measures=frozenset({"learning", "forgetting"}),
    shown=accuracy("LAMBADA", scored="", averaged=""),
    items=None,
    metrics=("acc",),
    file="lambada",
    answers=Scored(word),
    check=None,
    size=Size(read=333),
)


def context(item: Item) -> str:
    return str(item["text"].rpartition(" ")[0])


def last_word(item: Item) -> str:
    """With the space before it, which belongs to its first token."""
    return " " + str(item["text"].rpartition(" ")[2])
