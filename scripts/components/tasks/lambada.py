"""LAMBADA: last words of passages."""

from scripts.components.tasks import Shots, Task


class Lambada(Shots):
    """How often the last word of a passage is the likeliest."""


TASK = Task(
    name="lambada",
    settings=Lambada,
    meaning="last words of passages, for language understanding",
    paper="figure S2",
)
