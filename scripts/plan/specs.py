"""What decides a product's content, typed; and as the plain data that its fingerprint is of.

What joined later than a product that exists stands in plain data only where it differs from what was before, so that
the product keeps its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from scripts.components.asking.answers import Programs
from scripts.components.foreign import task_of
from scripts.components.tasks import Task

S = TypeVar("S", "Asked", "Judged")

_LOADING = ("leg", "run", "samples", "evaluation", "spectra", "throughput")
"""The kinds of products that load a model; an evaluation of samples loads none."""
_VERSIONS = {
    "records": ("data",),
    "tokenizer": ("data",),
    "rows": ("data",),
    "overlaps": ("data",),
    "model": ("pretrainer",),
    "leg": ("trainer",),
    "run": ("trainer",),
    "throughput": ("trainer",),
    "samples": ("evaluation",),
    "evaluation": ("evaluation",),
    "spectra": ("spectra",),
}


def _later(kind: str, task: Task | None) -> list[str]:
    """Code versions that joined later and are behind products of this kind and, of an evaluation, of this task.

    Specs leave them out while they are 1.
    """
    asked = task if kind == "evaluation" else None
    loads = kind in _LOADING and not (asked and asked.writes)
    runs_programs = asked is not None and isinstance(asked.answers, Programs)
    return [name for name, there in (("loading", loads), ("sandbox", runs_programs)) if there]


def versions(kind: str, current: Mapping[str, int], *, task: Task | None = None) -> dict[str, int]:
    """The code versions in the spec of a product of this kind; `task` is that of an evaluation."""
    later = (name for name in _later(kind, task) if current.get(name, 1) > 1)
    return {name: current[name] for name in (*_VERSIONS[kind], *later)}


def code_behind(spec: Mapping[str, Any]) -> list[str]:
    """The names of the code versions that a product's content depends on, in its spec or left out of it."""
    said = spec.get("trunk", spec).get("versions", {})
    return sorted({*said, *(_later(spec["kind"], task_of(spec) if "task" in spec else None) if said else ())})


@dataclass(frozen=True)
class Rows:
    """Tokenized rows and the composition of every batch; `records` and `tokenizer` are fingerprints."""

    regime: Literal["cpt", "ift"]
    records: str
    tokenizer: str
    sequence_length: int
    batch_rows: int
    group_rows: int
    seed: int
    versions: dict[str, int]
    max_epochs: int | None = None
    template: str | None = None
    packing: str | None = None
    packing_ratio: float | None = None
    overlong: Literal["cut"] | None = None
    """Of examples of one's own that are longer than a row, which once were dropped, under a tokenizer made here."""
    bos: str | None = None
    join: str | None = None
    contamination: dict[str, Any] | None = None
    """What is done with records that share words with what is `asked` (fingerprints); where it is more than said."""

    def spec(self) -> dict[str, Any]:
        return {"kind": "rows", **_said(self)}


@dataclass(frozen=True)
class Recipe:
    """What a trunk and an IFT run have in common: everything but how long they train.

    `model` and `rows` are fingerprints, `method` and `optimizer` as `Method.spec` and `Optimizer` have them, the latter
    with `learning_rate` and `weight_decay`.
    """

    model: str
    rows: str
    method: dict[str, Any]
    optimizer: dict[str, Any]
    precision: Literal["fp32", "bf16"]
    seed: int
    versions: dict[str, int]
    attention: str | None = None
    loss: str | None = None
    lag: int | None = None
    attention_dropout: dict[str, Any] | None = None


@dataclass(frozen=True)
class Trapezoid:
    """CPT: warmup, then a constant rate; a branch ends with a cooldown, a leg of the trunk has none. In batches."""

    warmup_batches: int
    first_leg: int | None
    cooldown_batches: int | None = None
    short_branch: str | None = None


@dataclass(frozen=True)
class Cosine:
    """IFT: warmup, then a cosine. Over `epochs` where the run is one of several lengths, else over its own length."""

    warmup_fraction: float
    final_fraction: float
    epochs: int | None = None


@dataclass(frozen=True)
class Trained:
    """A leg or a run.

    Attributes:
        amount: where it ends, counted from the start of the trunk or run, in `unit`.
    """

    kind: Literal["leg", "run"]
    recipe: Recipe
    schedule: Trapezoid | Cosine
    amount: int

    @property
    def unit(self) -> Literal["batches", "epochs"]:
        return "batches" if isinstance(self.schedule, Trapezoid) else "epochs"

    def spec(self) -> dict[str, Any]:
        recipe, schedule = _said(self.recipe), _said(self.schedule)
        spec: dict[str, Any] = {"kind": self.kind, self.unit: self.amount}
        if isinstance(self.schedule, Trapezoid):
            trunk = {name: schedule.pop(name) for name in ("warmup_batches", "first_leg")}
            return {**spec, **schedule, "trunk": recipe | trunk}
        if (epochs := schedule.pop("epochs", None)) is None:
            return {**spec, **recipe, **schedule}
        return {**spec, "trunk": {**recipe, **schedule, "schedule_epochs": epochs}}

    @classmethod
    def read(cls, spec: Mapping[str, Any]) -> "Trained":
        """The other way round, from a product's or a manifest's spec."""
        trunk = spec.get("trunk", spec)
        schedule: Trapezoid | Cosine
        if "batches" in spec:
            schedule = Trapezoid(
                warmup_batches=trunk["warmup_batches"],
                first_leg=trunk.get("first_leg"),
                cooldown_batches=spec.get("cooldown_batches"),
                short_branch=spec.get("short_branch"),
            )
        else:
            schedule = Cosine(trunk["warmup_fraction"], trunk["final_fraction"], trunk.get("schedule_epochs"))
        recipe = Recipe(**{one.name: trunk[one.name] for one in fields(Recipe) if one.name in trunk})
        return cls(spec["kind"], recipe, schedule, spec["batches"] if "batches" in spec else spec["epochs"])


@dataclass(frozen=True)
class Asked:
    """A task asked of a model: what it writes to each item (`samples`), or how likely answers are to it (`evaluation`).

    `subject` and records are fingerprints, `settings` those of the task that the model's answers depend on. `precision`
    is what the model computes in; a spec does not say fp32, which once was all there was.
    """

    kind: Literal["samples", "evaluation"]
    subject: str
    task: str
    records: str
    shots_records: str | None
    seed: int
    versions: dict[str, int]
    precision: Literal["fp32", "bf16"] = "fp32"
    settings: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        said = _with_settings(self)
        if self.precision == "fp32":
            del said["precision"]
        return said

    @classmethod
    def read(cls, spec: Mapping[str, Any]) -> "Asked":
        """The other way round, from a product's or a manifest's spec."""
        return _read_with_settings(cls, {"precision": "fp32", **spec})


@dataclass(frozen=True)
class Judged:
    """An evaluation of samples.

    `sampled` is their fingerprint; their spec has the others too, which say here of whom they are. `settings` are
    those that samples do not depend on.
    """

    subject: str
    task: str
    records: str
    sampled: str
    versions: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        return {"kind": "evaluation", **_with_settings(self)}

    @classmethod
    def read(cls, spec: Mapping[str, Any]) -> "Judged":
        """The other way round, from a product's or a manifest's spec."""
        return _read_with_settings(cls, {name: value for name, value in spec.items() if name != "kind"})


def _with_settings(part: Asked | Judged) -> dict[str, Any]:
    said = {one.name: getattr(part, one.name) for one in fields(part) if one.name != "settings"}
    return {**said, **part.settings}


def _read_with_settings(cls: type[S], spec: Mapping[str, Any]) -> S:
    own = {one.name for one in fields(cls)} - {"settings"}
    settings = {key: value for key, value in spec.items() if key not in own}
    return cls(**{name: spec[name] for name in own}, settings=settings)


def _said(part: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {one.name: value for one in fields(part) if (value := getattr(part, one.name)) is not None}
