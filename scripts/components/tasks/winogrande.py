"""WinoGrande: what a blank in a sentence refers to."""

from scripts.components.tasks import MultipleChoice, Task

TASK = Task(
    name="winogrande",
    settings=MultipleChoice,
    meaning="forgetting: what a blank in a sentence refers to",
    paper="section 3.3",
    always=True,
    measures=frozenset({"forgetting"}),
)
