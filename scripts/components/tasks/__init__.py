"""What models are asked."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from scripts.components.discovery import instances
from scripts.components.part import Name, Part, field

COMPOSITE = {"lambada": 0.0, "hellaswag": 0.25, "winograd": 0.5, "winogrande": 0.5}
"""The tasks of language understanding (paper, figure S2) and the accuracy of a guess in each (llm-foundry's gauntlet,
v0.2)."""


class Settings(Part):
    """What a study says of a task."""

    dataset: Name = field("name of the dataset with the items", paper="section 3")

    def asked(self) -> dict[str, Any]:
        """What decides an evaluation, as a spec has it: keys that joined later only where they differ from before."""
        return self.model_dump()


class Shots(Settings):
    shots: Annotated[int, Field(ge=0)] = field(
        "solved examples in front of an item", unit="examples", paper="section 3.2: GSM8K 5; others: not said"
    )
    shots_from: Name | None = field(
        "name of the dataset that they are taken from; stands exactly where `shots` is above 0", default=None
    )

    @model_validator(mode="after")
    def _shots_have_a_source(self) -> Self:
        if (self.shots > 0) != (self.shots_from is not None):
            raise ValueError("shots_from names a dataset exactly when shots is above 0")
        return self


class MultipleChoice(Shots):
    """Accuracy of the likeliest choice."""


@dataclass(frozen=True)
class Task:
    """A benchmark that a study can ask, under `evaluation.tasks`."""

    name: str
    settings: type[Settings]
    """What a study says of it."""
    meaning: str
    """What it measures, for whoever writes a study."""
    paper: str
    """Where the paper has it."""
    always: bool = False
    """Whether every study has it; the others are there where an artifact needs them."""
    measures: frozenset[Literal["learning", "forgetting"]] = frozenset()
    """What a study may take it for: the task of a setting, or one of those of the forgetting average."""


TASKS = {task.name: task for task in instances(__name__, __path__, Task)}
