"""ARC-challenge: questions of school science."""

from scripts.components.tasks import MultipleChoice, Task

TASK = Task(
    name="arc_challenge",
    settings=MultipleChoice,
    meaning="forgetting: questions of school science",
    paper="section 3.3",
    always=True,
    measures=frozenset({"forgetting"}),
)
