"""Tasks that a study declares by itself: any of lm-eval's by its name, or a task file of one's own.

How one asks and scores stands in its file (`scripts.components.asking.task_files`). Everything that looks a task up by
its name finds these beside the project's own: by `task_of` in a spec, by `Evaluation.task` in a study.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from scripts.common.errors import UserError
from scripts.components.asking import task_files
from scripts.components.asking.answers import Answers, Programs, Scored, sample, word
from scripts.components.asking.items import read
from scripts.components.asking.shown import Shown
from scripts.components.asking.task_files import CHOICE, MATCH, PROGRAMS, WORD, Metric, TaskFile
from scripts.components.forms import Form
from scripts.components.part import Count, Name, field
from scripts.components.tasks import TASKS, Given, Settings, Task

if TYPE_CHECKING:
    from jinja2.nodes import Node

OWN = "lm_eval"
"""What a study says as `task`; and the key of a spec under which it stands which task of lm-eval that is."""


class LmEval(Settings):
    """Any task of lm-eval, by its name, or by a task file of one's own."""

    judging: ClassVar[frozenset[str]] = frozenset({"metrics", "timeout_seconds", "memory_mb", "packages"})
    in_both: ClassVar[frozenset[str]] = frozenset({OWN})

    task: Literal["lm_eval"] = field("whose task it is: lm-eval's, or one's own in lm-eval's form")
    name: Annotated[str, Field(min_length=1)] | None = field(
        "lm-eval's name of the task (the key that this stands under, if neither it nor `file` is there)",
        default=None,
        paper="beyond the paper",
    )
    file: Annotated[str, Field(min_length=1)] | None = field(
        "a task file of one's own instead, absolute or relative to the repository; the modules that its `!function`s "
        "name lie beside it",
        default=None,
        paper="beyond the paper",
    )
    dataset: Name = field("name of the dataset with the items, in the form of the set that the task is written for")
    shots: Annotated[int, Field(ge=0, lt=2**31)] | None = field(
        "solved examples in front of an item (as many as the task says, if absent)", default=None, unit="examples"
    )
    shots_from: Name | None = field(
        "name of the dataset that they are taken from; stands where `shots` is above 0 and the task has no own ones",
        default=None,
    )
    metric: Annotated[str, Field(min_length=1)] | None = field(
        "which of the task's metrics is the value (the first that is a mean over items, if absent)", default=None
    )
    max_new_tokens: Count | None = field(
        "where an answer is cut off that does not end; needed where a model writes and the task does not say it",
        default=None,
        unit="tokens",
    )
    timeout_seconds: Annotated[float, Field(gt=0)] | None = field(
        "of a task of programs: how long one with its tests may run (3 seconds, if absent)",
        default=None,
        unit="seconds",
    )
    memory_mb: Count | None = field(
        "of a task of programs: address space of a program's process (2048, if absent)", default=None, unit="MiB"
    )
    label: Annotated[str, Field(min_length=1)] | None = field(
        "how figures call it (as the key that this stands under, if absent)", default=None
    )

    @property
    def asks(self) -> TaskFile:
        """The task's file.

        Raises:
            ValueError: there is none, or models cannot be asked it here.
        """
        return task_files.of_file(self.file) if self.file else task_files.of_name(self.name or "")

    @property
    def metrics(self) -> list[Metric]:
        """What is recorded, the first is the value: the one that is asked for, and lm-eval's well-known ones."""
        found = self.asks.metrics
        means = [metric for metric in found if metric.averaged]
        chosen = [metric for metric in found if metric.name == self.metric] if self.metric else means[:1]
        if not chosen:
            listed = ", ".join(metric.name for metric in means) or "none"
            raise ValueError(f"metric: must be one that the task records as a mean over items: {listed}")
        if not chosen[0].averaged:
            raise ValueError(f"metric: {self.metric} is no mean over items, so it has no standard error over them")
        return chosen + [metric for metric in means if metric != chosen[0] and metric.name in task_files.MEANS]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.name is None) == (self.file is None):
            raise ValueError("exactly one of name and file must stand")
        asks, shots = self.asks, self._shots
        _ = self.metrics
        writes = asks.answers in (MATCH, PROGRAMS)
        if writes and self._max_new_tokens is None:
            raise ValueError("max_new_tokens must stand: models write answers, and the task does not say how long")
        if not writes and self.max_new_tokens is not None:
            raise ValueError(
                "max_new_tokens must not stand: models write nothing, they are asked how likely answers are"
            )
        if asks.answers != PROGRAMS and (self.timeout_seconds, self.memory_mb) != (None, None):
            raise ValueError("timeout_seconds and memory_mb must not stand: no program is run")
        if self.shots_from and (asks.has_shots or not shots):
            what = "the task has shots of its own" if asks.has_shots else "shots is 0"
            raise ValueError(f"shots_from must not stand: {what}")
        if shots and not asks.has_shots and not self.shots_from:
            raise ValueError(f"shots_from must name the dataset that the {shots} shots are taken from, or shots be 0")
        return self

    @property
    def _shots(self) -> int:
        return self.asks.shots if self.shots is None else self.shots

    @property
    def _max_new_tokens(self) -> int | None:
        return self.max_new_tokens or self.asks.max_new_tokens

    def drawn(self) -> tuple[str, int] | None:
        return (self.shots_from, self._shots) if self.shots_from else None

    def excess(self, context: int) -> str | None:
        if (self._max_new_tokens or 0) < context:
            return None
        return f"max_new_tokens: must be less than the model's context ({context}); it is {self._max_new_tokens}"

    def asked(self) -> dict[str, Any]:
        asks = self.asks
        which = {"sha256": asks.sha256} if self.file else {"name": self.name}
        asked: dict[str, Any] = {
            "dataset": self.dataset,
            OWN: {**which, "version": task_files.version(), "answers": asks.answers},
            "shots": self._shots,
            "metrics": [metric.name for metric in self.metrics],
        }
        if self.shots_from:
            asked["shots_from"] = self.shots_from
        if asks.answers in (MATCH, PROGRAMS):
            asked["max_new_tokens"] = self._max_new_tokens
        if asks.answers == PROGRAMS:
            asked |= {"timeout_seconds": self.timeout_seconds or 3.0, "memory_mb": self.memory_mb or 2048}
        return asked

    def as_task(self, key: str) -> Task:
        """The task that stands under a key of the study."""
        metric, label = self.metrics[0], self.label or key
        share = metric.name in task_files.MEANS or metric.name.startswith("pass")
        shown = Shown(
            label=label,
            axis=f"{label}, {metric.name}",
            scored="",
            averaged="",
            least=0.0 if share else -math.inf,
            most=1.0 if share else math.inf,
            lower_is_better=not metric.rises,
            note="",
        )
        return _task(key, self.asks.answers, shown)


class Record(Form):
    """Any; what its task reads of it is checked when it is asked."""

    called: ClassVar[str] = "record"


def task_of(settings: Mapping[str, Any]) -> Task:
    """The task of a spec, or of settings with its name as `task`."""
    if OWN not in settings:
        return TASKS[settings["task"]]
    name = settings["task"]
    shown = Shown(
        label=name, axis=name, scored="", averaged="", least=-math.inf, most=math.inf, lower_is_better=False, note=""
    )
    return _task(name, settings[OWN]["answers"], shown)


def file_of(settings: Mapping[str, Any]) -> TaskFile:
    """The task file behind settings as a spec has them, with the path of one's own as `file`.

    Raises:
        UserError: it is not the one of the spec any more.
    """
    own = settings[OWN]
    try:
        found = task_files.of_name(own["name"]) if "name" in own else task_files.of_file(settings["file"])
    except ValueError as error:
        raise UserError(f"evaluation.tasks.{settings['task']}: {error}") from error
    if task_files.version() != own["version"]:
        raise UserError(
            f"evaluation.tasks.{settings['task']}: is of lm-eval {own['version']}, and {task_files.LOCK} has "
            f"{task_files.version()}"
        )
    if "sha256" in own and found.sha256 != own["sha256"]:
        raise UserError(
            f"{settings['file']}: it or a module beside it has changed since the launch; restore it or launch again"
        )
    return found


def _task(name: str, answers: str, shown: Shown) -> Task:
    kinds: dict[str, Answers] = {
        CHOICE: Scored(_choice),
        WORD: Scored(word),
        MATCH: Scored(_match, written=True),
        PROGRAMS: Programs(errors=False, by_task=True),
    }
    return Task(
        name=name,
        forms=(Record,),
        settings=LmEval,
        meaning="a task of lm-eval",
        paper="beyond the paper",
        measures=frozenset({"learning", "forgetting"}),
        shown=shown,
        items=None,
        metrics=lambda settings: tuple(settings["metrics"]),
        file=None,
        answers=kinds[answers],
        check=_check,
    )


def _choice(logged: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """The likeliest of several choices: `loglikelihoods` in nats, in their order."""
    loglikelihoods, gold = [value for value, _ in logged["filtered_resps"]], logged["target"]
    if isinstance(gold, int) and not 0 <= gold < len(loglikelihoods):
        raise UserError(
            f"item {logged['doc_id'] + 1}: the right answer must be the number of one of its "
            f"{len(loglikelihoods)} choices, from 0, and is {gold}, as where a split's answers are not published"
        )
    return sample(logged, metrics, loglikelihoods=loglikelihoods)


def _match(logged: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """A text that is written, and what the task's first filter reads in it as its `answer`."""
    return sample(logged, metrics, answer=str(logged["filtered_resps"][0]))


def _check(given: Given) -> None:
    """Raises UserError where a record lacks a field that the task's texts are made of.

    Those of a task that prepares its records itself (`process_docs`) are what it leaves of them, so that what they lack
    is seen when the first is asked.
    """
    config = file_of(given.settings).config
    if config.get("process_docs"):
        return
    keys = ("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix")
    needed = {name: key for key in keys for name in _fields(config.get(key))}
    for path in (given.records, *([given.shots] if given.shots else [])):
        for number, record in enumerate(read(path), start=1):
            for name, key in needed.items():
                if name not in record:
                    raise UserError(
                        f"{path}, line {number}: it has no {name}, which the {key} of the task "
                        f"{given.settings['task']} names; `columns` says what fields are called in the file"
                    )


def _fields(template: object) -> Iterator[str]:
    """The fields of a record that a template of lm-eval cannot do without: one word is the name of a field."""
    if not isinstance(template, str):
        return
    if template.isidentifier():
        yield template
        return
    from jinja2 import Environment, meta

    environment = Environment()
    tree = environment.parse(template)
    optional = set(_tested(tree))
    yield from sorted(meta.find_undeclared_variables(tree) - optional)


def _tested(tree: "Node") -> Iterator[str]:
    """The names in those parts of a template that depend on whether a name is defined."""
    from jinja2 import nodes

    for part in tree.find_all((nodes.If, nodes.CondExpr)):
        condition = part.test  # type: ignore[attr-defined]
        tests = [condition, *condition.find_all(nodes.Test)]
        if any(isinstance(test, nodes.Test) and test.name in ("defined", "undefined") for test in tests):
            yield from (name.name for name in part.find_all(nodes.Name))
