"""LAMBADA: last words of passages."""

from scripts.components.asking.answers import Scored, word
from scripts.components.asking.items import Item
from scripts.components.asking.shown import accuracy
from scripts.components.tasks import Shots, Task


class Lambada(Shots):
    """How often the last word of a passage is the likeliest."""


TASK = Task(
    name="lambada",
    settings=Lambada,
    meaning="last words of passages, for language understanding",
    paper="figure S2",
    always=False,
    measures=frozenset(),
    shown=accuracy("LAMBADA", scored="", averaged=""),
    printed=False,
    items=None,
    metrics=("acc",),
    file="lambada",
    answers=Scored(word),
    check=None,
)


def context(item: Item) -> str:
    return str(item["text"].rpartition(" ")[0])


def last_word(item: Item) -> str:
    """With the space before it, which belongs to its first token."""
    return " " + str(item["text"].rpartition(" ")[2])
