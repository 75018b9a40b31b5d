"""WinoGrande: what a blank in a sentence refers to."""

from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.items import Item
from scripts.components.asking.shown import accuracy
from scripts.components.tasks import MultipleChoice, Task

TASK = Task(
    name="winogrande",
    settings=MultipleChoice,
    meaning="forgetting: what a blank in a sentence refers to",
    paper="section 3.3",
    always=True,
    measures=frozenset({"forgetting"}),
    shown=accuracy("WinoGrande", scored="", averaged=""),
    printed=False,
    items=1_267,
    metrics=("acc",),
    file="winogrande",
    answers=Scored(choice),
    check=None,
)


def answer(item: Item) -> int:
    return {"1": 0, "2": 1}[item["answer"]]


def contexts(item: Item) -> list[str]:
    before = item["sentence"][: item["sentence"].index("_")]
    return [before + item["option1"], before + item["option2"]]


def continuation(item: Item) -> str:
    sentence: str = item["sentence"]
    return sentence[sentence.index("_") + 1 :].strip()
