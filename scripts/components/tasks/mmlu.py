"""MMLU: knowledge in many subjects."""

from typing import Any, Literal

from scripts.components.part import field
from scripts.components.tasks import Shots, Task


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


TASK = Task(
    name="mmlu",
    settings=Mmlu,
    meaning="knowledge in many subjects",
    paper="figure S5, table S11",
)
