"""GSM8K: word problems."""

import re
from typing import ClassVar, Self

from pydantic import model_validator

from scripts.components.asking.answers import FLEXIBLE, Scored, match
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.part import Count, field
from scripts.components.tasks import Shots, Size, Task


class Gsm8k(Shots):
    """Exact match of the number after ``####``, greedy decoding; beside it, of the last number."""

    max_new_tokens: Count = field("where an answer is cut off that does not end", unit="tokens", paper="not said")


class Problem(Form):
    """A word problem; what follows ``####`` in its answer is the number."""

    called: ClassVar[str] = "item of gsm8k"

    question: Filled
    answer: Filled

    @model_validator(mode="after")
    def _has_a_number(self) -> Self:
        if not re.search(r"#### -?[0-9.,]", self.answer):
            raise ValueError(f"answer must end in #### and a number, and is {self.answer[-40:]!r}")
        return self


TASK = Task(
    name="gsm8k",
    forms=(Problem,),
    settings=Gsm8k,
    meaning="learning of math: word problems",
    paper="section 3.2",
    measures=frozenset({"learning", "forgetting"}),
    shown=accuracy("GSM8K", scored="strict match", averaged=""),
    items=1_319,
    metrics=("exact_match", FLEXIBLE),
    file="gsm8k",
    answers=Scored(match, written=True),
    check=None,
    size=Size(read=258, shot=551, written=293),
)
