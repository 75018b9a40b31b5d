"""Winograd: what a pronoun refers to."""

from scripts.components.tasks import MultipleChoice, Task

TASK = Task(
    name="winograd",
    settings=MultipleChoice,
    meaning="what a pronoun refers to, for language understanding",
    paper="figure S2",
)
