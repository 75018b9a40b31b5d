"""MMLU: knowledge in many subjects."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from scripts.common.errors import UserError
from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.items import Item, read, right_one
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.part import field
from scripts.components.tasks import Given, Shots, Size, Task

LETTERS = ("A", "B", "C", "D")


class Mmlu(Shots):
    """Mean of the subjects' accuracies (paper, table S11)."""

    answers: Literal["letters", "texts"] = field(
        "what is compared: the letters of choices that the question lists, or the texts of choices that it does not",
        default="letters",
        paper="not said",
    )

    def asked(self) -> dict[str, Any]:
        asked = super().asked()
        if self.answers == "letters":
            del asked["answers"]
        return asked


def _file(settings: Mapping[str, Any], records: Path) -> str:
    return "mmlu_texts" if settings.get("answers") == "texts" else "mmlu"


def _sample(logged: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """With the subject: each counts once, however many items it has."""
    return {**choice(logged, metrics), "subject": logged["doc"]["subject"]}


def _check(given: Given) -> None:
    """Raises UserError where a subject has too few records."""
    items, examples = read(given.records), read(given.shots) if given.shots else []
    counts, solved = Counter(item["subject"] for item in items), Counter(item["subject"] for item in examples)
    shots = given.settings["shots"]
    for subject, count in counts.items():
        if count < 2:
            raise UserError(f"{given.records}: mmlu needs at least two items of each subject, {subject!r} has {count}")
        if shots > solved[subject]:
            raise UserError(
                f"{given.shots}: {shots} shots need as many records of {subject!r}, it has {solved[subject]}"
            )


class Question(Form):
    """A question of a subject, its four choices, and the number of the right one."""

    called: ClassVar[str] = "item of mmlu"

    subject: Filled
    question: Filled
    choices: list[Filled]
    answer: int

    @model_validator(mode="after")
    def _has_an_answer(self) -> Self:
        if len(self.choices) != len(LETTERS):
            raise ValueError(f"choices must be {len(LETTERS)}, and are {len(self.choices)}")
        right_one("answer", self.answer, "choices", self.choices)
        return self


TASK = Task(
    name="mmlu",
    forms=(Question,),
    settings=Mmlu,
    meaning="knowledge in many subjects",
    paper="figure S5, table S11",
    measures=frozenset({"learning", "forgetting"}),
    shown=accuracy("MMLU", scored="", averaged="mean over its subjects"),
    items=None,
    metrics=("acc",),
    file=_file,
    answers=Scored(_sample),
    check=_check,
    size=Size(read=290, shot=290),
)


def read_letters(test: str, train: str | None = None, shots: int = 0, **_rest: Any) -> dict[str, Any]:
    """The items whose answer is a letter; see `_read_subjects`. A sentence names the subject first."""

    def heading(subject: str) -> str:
        named = subject.replace("_", " ")
        return f"The following are multiple choice questions (with answers) about {named}.\n\n"

    return _read_subjects(test, train, shots, heading, lambda item: f" {LETTERS[item['answer']]}", _letters_question)


def read_texts(test: str, train: str | None = None, shots: int = 0, **_rest: Any) -> dict[str, Any]:
    """The items whose answer is the text of a choice; see `_read_subjects`. Nothing but shots stands first."""
    return _read_subjects(
        test, train, shots, lambda _: "", lambda item: f" {item['choices'][item['answer']]}", _texts_question
    )


def _read_subjects(
    test: str,
    train: str | None,
    shots: int,
    heading: Callable[[str], str],
    answer: Callable[[Item], str],
    question: Callable[[Item], str],
) -> dict[str, Any]:
    """The test items, each with what stands before its question, as `before`: a heading, and the first `shots` training
    records of its subject with their answers.

    lm-eval has a task for each subject instead, each with the same first shots.
    """
    from datasets import Dataset

    items = read(test)
    before: dict[str, list[str]] = {item["subject"]: [] for item in items}
    for item in read(train) if train else []:
        solved = before.get(item["subject"], [])
        if len(solved) < shots:
            solved.append(f"{question(item)}{answer(item)}\n\n")
    rows = [{**item, "before": heading(item["subject"]) + "".join(before[item["subject"]])} for item in items]
    return {"test": Dataset.from_list(rows), "train": []}


def _letters_question(item: Item) -> str:
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, item["choices"], strict=True))
    return f"{item['question'].strip()}\n{choices}\nAnswer:"


def _texts_question(item: Item) -> str:
    return f"Question: {item['question'].strip()}\nAnswer:"


def letters_context(item: Item) -> str:
    return str(item["before"]) + _letters_question(item)


def texts_context(item: Item) -> str:
    return str(item["before"]) + _texts_question(item)


def choices(item: Item) -> list[str]:
    return list(item["choices"])


def answer(item: Item) -> int:
    return int(item["answer"])
