"""What models are asked: a module for each task, which says all about it but what its file in ``config/evaluations``
says. That file names functions of the module: the texts of an item, its choices, its answer.

The texts of a benchmark are those of lm-eval's task of the same name. They are made by functions where lm-eval would
compile a template for each item anew, which costs more than scoring a small model.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from scripts.components.asking.answers import Answers, Scored
from scripts.components.asking.items import read
from scripts.components.asking.shown import Shown
from scripts.components.discovery import instances
from scripts.components.forms import Checks, Form, Use
from scripts.components.part import Name, Part, field

COMPOSITE = {"lambada": 0.0, "hellaswag": 0.25, "winograd": 0.5, "winogrande": 0.5}
"""The tasks of language understanding (paper, figure S2) and the accuracy of a guess in each (llm-foundry's gauntlet,
v0.2)."""

AVERAGE = ("hellaswag", "arc_challenge", "winogrande")
"""The tasks of the paper's forgetting average (section 3.3)."""


class Settings(Part):
    """What a study says of a task."""

    dataset: Name = field("name of the dataset with the items", paper="section 3")

    judging: ClassVar[frozenset[str]] = frozenset()
    """The keys of `asked` that what a model writes does not depend on, only how it is judged."""
    in_both: ClassVar[frozenset[str]] = frozenset()
    """The keys of `asked` that both depend on."""

    def excess(self, context: int) -> str | None:
        """The key that asks for more tokens than a model with this context can hold, and what is wrong with it."""
        written = getattr(self, "max_new_tokens", None) or 0
        # a token of the prompt needs room too
        return f"max_new_tokens: must be less than the model's context ({context})" if written >= context else None

    def asked(self) -> dict[str, Any]:
        """What decides an evaluation, as a spec has it: keys that joined later only where they differ from before."""
        return self.model_dump()

    def drawn(self) -> tuple[str, int] | None:
        """The name of the dataset that solved examples are drawn from, and how many for an item."""
        return None


class Shots(Settings):
    shots: Annotated[int, Field(ge=0, lt=2**31)] = field(
        "solved examples in front of an item", unit="examples", paper="section 3.2: GSM8K 5; others: not said"
    )
    shots_from: Name | None = field(
        "name of the dataset that they are taken from; stands exactly where `shots` is above 0", default=None
    )

    @model_validator(mode="after")
    def _shots_have_a_source(self) -> Self:
        if problem := self._source_problem():
            raise ValueError(problem)
        return self

    def drawn(self) -> tuple[str, int] | None:
        return (self.shots_from, self.shots) if self.shots_from else None

    def _source_problem(self) -> str | None:
        """What is wrong with `shots_from`."""
        given = self.shots_from is not None
        return None if given == (self.shots > 0) else "shots_from names a dataset exactly when shots is above 0"


class MultipleChoice(Shots):
    """Accuracy of the likeliest choice."""

    form: Literal["lm-eval", "gauntlet"] = field(
        "whose task is asked. `lm-eval`: shots come from `shots_from`, and the likeliest choice is the answer, in "
        "HellaSwag and ARC after division by its characters. `gauntlet`: llm-foundry's; shots are other items of "
        "`dataset`, `shots_from` must be absent, and the likelihoods are divided by tokens",
        default="lm-eval",
        paper="section 3.3: the gauntlet, its version and shots not said",
    )

    def _source_problem(self) -> str | None:
        if self.form == "lm-eval":
            return super()._source_problem()
        if self.shots_from is None:
            return None
        return "shots_from must not stand where form is gauntlet: its shots are other items of the dataset"

    def asked(self) -> dict[str, Any]:
        asked = super().asked()
        if self.form == "lm-eval":
            del asked["form"]
        return asked


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a task is asked with, for its checks.

    Attributes:
        settings: as in a spec, with the name of the task as `task`.
        records: the items, JSON lines.
        shots: the records that shots are taken from, if there are any.
        tokenizer: the directory of the tokenizer that it is asked with.
        positions: tokens that the model can hold.
        longest: tokens of the longest second text of several pairs, behind the first.
        lengths: tokens of each of several prompts, with what stands before it.
    """

    settings: Mapping[str, Any]
    records: Path
    shots: Path | None
    tokenizer: Path
    positions: int
    longest: Callable[[list[tuple[str, str]]], int]
    lengths: Callable[[list[str]], list[int]]


@dataclass(frozen=True)
class Size:
    """How long an item of a benchmark is in the mean, in characters; for estimates of time."""

    read: int
    """Of its prompt or, where answers are scored, of its context and all its answers together."""
    shot: int = 0
    """Of a solved item in front of it."""
    written: int = 0
    """Of what a model writes to it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What can be asked of a model, and all that is said about it.

    Raises:
        TypeError: a lower value is better, and yet a study may take it for learning or forgetting: the sweep chooses
            the rate with the highest value.
    """

    name: str
    forms: tuple[type[Form], ...]
    """What a record has: all records of a dataset have the same of these."""
    settings: type[Settings] | None
    """What a study says of it, under `evaluation.tasks`; None where it only says which records are held out."""
    meaning: str
    """What it measures, for whoever writes a study."""
    paper: str
    """Where the paper has it."""
    measures: frozenset[Literal["learning", "forgetting"]]
    """What a study may take it for: the task of a setting, or what models may forget."""
    shown: Shown
    """How figures and tables show it."""
    items: int | None
    """How many items are behind a score of the paper; None where it does not say."""
    metrics: tuple[str, ...] | Callable[[Mapping[str, Any]], tuple[str, ...]]
    """What is recorded, the first is the value; or how that follows from the settings."""
    file: str | Callable[[Mapping[str, Any], Path], str] | None
    """The name of its file in ``config/evaluations``, or how it follows from settings and records; None where lm-eval
    has no part in it."""
    answers: Answers
    """The kind of its answers."""
    check: Callable[[Given], None] | None
    """Raises UserError where the records are not as the task needs them; None where it takes any."""
    size: Size = Size(read=600, shot=600, written=300)
    """Unless somebody has measured it."""

    @property
    def writes(self) -> bool:
        """Whether models write something to an item, that is judged apart; else it is asked how likely answers are."""
        return not isinstance(self.answers, Scored) or self.answers.written

    @property
    def judging(self) -> frozenset[str]:
        """See `Settings.judging`."""
        return self.settings.judging if self.settings else frozenset()

    def metrics_of(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """What is recorded with these settings; the first is the value."""
        return self.metrics(settings) if callable(self.metrics) else self.metrics

    def check_forms(self, paths: Iterable[Path]) -> None:
        """Raises UserError where a record of these files, JSON lines, has none of the task's forms."""
        for path in paths:
            checks = Checks([Use(f"the task {self.name}", self.forms)])
            for number, record in enumerate(read(path), start=1):
                checks.take(record, f"{path}, line {number}", columns=True)
            checks.finish(str(path))

    def file_of(self, settings: Mapping[str, Any], records: Path) -> str | None:
        """The name of the file in ``config/evaluations`` that asks these records.

        Raises:
            UserError: the records lack a field, so that none does.
        """
        return self.file(settings, records) if callable(self.file) else self.file


TASKS = {task.name: task for task in instances(__name__, __path__, Task)}
BENCHMARKS = {name: task for name, task in TASKS.items() if task.settings}
"""Those that a study has settings of."""
