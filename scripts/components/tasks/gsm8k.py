"""GSM8K: word problems."""

from scripts.components.asking.answers import Scored, match
from scripts.components.asking.shown import accuracy
from scripts.components.part import Count, field
from scripts.components.tasks import Shots, Task


class Gsm8k(Shots):
    """Exact match of the number after ``####``, greedy decoding."""

    max_new_tokens: Count = field("where an answer is cut off that does not end", unit="tokens", paper="not said")


TASK = Task(
    name="gsm8k",
    settings=Gsm8k,
    meaning="learning of math: word problems",
    paper="section 3.2",
    always=True,
    measures=frozenset({"learning"}),
    shown=accuracy("GSM8K", scored="strict match", averaged=""),
    printed=True,
    items=1_319,
    metrics=("exact_match",),
    file="gsm8k",
    answers=Scored(match),
    check=None,
)
