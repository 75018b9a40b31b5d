"""HellaSwag: how a description goes on."""

from scripts.components.tasks import MultipleChoice, Task

TASK = Task(
    name="hellaswag",
    settings=MultipleChoice,
    meaning="forgetting: how a description goes on",
    paper="section 3.3",
    always=True,
    measures=frozenset({"forgetting"}),
)
