"""GSM8K: word problems."""

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
)
