"""The grid of a study: its conditions, and the spec, name and inputs of every product.

A product's key is its place in the store without ``.json``: ``runs/code-cpt/lora-r4/64K-seed0-3f2a9c0d1e5b``.
It ends in the fingerprint of its spec. Inputs are keys too, and a function of the product's own key and spec alone
(which is why what a study calls its datasets stands in no key: renaming one must not move what is made of it).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec

from scripts.common.errors import UserError
from scripts.common.quantities import format_tokens
from scripts.store.fingerprint import fingerprint
from scripts.study import datalock
from scripts.study.schema import (
    Cell,
    ContinuedPretraining,
    GeneratedDataset,
    HubDataset,
    HubModel,
    InstructionFinetuning,
    Lora,
    PackageDataset,
    PathDataset,
    PretrainedModel,
    Study,
)

BASE = "base"
GRID = "grid"
SWEEP = "sweep"
VALIDATION = "validation"
SOURCE_LOSS, TARGET_LOSS = "source_loss", "target_loss"
LOSSES = "losses"
LANGUAGE_UNDERSTANDING = ("lambada", "hellaswag", "winograd", "winogrande")
"""The tasks of the gauntlet's composite (paper, figure S2)."""
NOT_LOCKED = "not-locked"
"""Stands in the name of what ``config/data.lock`` has no entry for."""


@dataclass(frozen=True, eq=False)
class Product:
    """Something in the store: what decides its content (`spec`), its name (`key`), what it is made from."""

    key: str
    spec: dict[str, Any]
    inputs: tuple[str, ...]
    members: tuple[str, ...] = ()
    """Of a family: the keys of the products that the family's job makes, in the order it makes them."""

    @property
    def kind(self) -> str:
        return str(self.spec["kind"])

    @property
    def fingerprint(self) -> str:
        return self.key[-12:]

    @property
    def name(self) -> str:
        """The key without its fingerprint."""
        return self.key[:-13]


@dataclass(frozen=True)
class Change:
    """In what a condition differs from its setting and its method; None: in nothing."""

    weight_decay: float | None = None
    attention_dropout: float | None = None
    optimizer: Any = None

    @property
    def words(self) -> list[str]:
        """As figures call it: `weight decay 5e-05`, `AdamW`."""
        found = []
        if self.weight_decay is not None:
            found.append(f"weight decay {self.weight_decay:g}")
        if self.attention_dropout is not None:
            found.append(f"attention dropout {self.attention_dropout:g}")
        if self.optimizer is not None:
            found.append({"decoupled_lionw": "LionW", "decoupled_adamw": "AdamW", "sgd": "SGD"}[self.optimizer.name])
        return found

    @property
    def suffix(self) -> str:
        """What stands behind the method in a path; empty where there is no change."""
        return "".join(f"-{word.lower().replace(' ', '-')}" for word in self.words)


@dataclass(frozen=True)
class Condition:
    """One trained model, or the base model (`method` is ``base``), and what is measured of it."""

    setting: str
    method: str
    seed: int
    duration: str
    """As printed: 64K (tokens), 2 (epochs); empty for the base model."""
    amount: int
    """The duration in its unit: tokens or epochs."""
    learning_rate: float | None
    """Peak learning rate; None for the base model, and where a checkpoint's authors do not say."""
    product: str
    """Key of the run, of the published checkpoint, or of the base model."""
    evaluations: Mapping[str, str]
    """What is measured to its product's key: a task, ``source_loss``, ``target_loss`` (of the base model
    ``target_loss@SETTING``, one for each setting), ``spectra``, and in a sweep ``validation``."""
    change: Change = Change()


P = ParamSpec("P")


def _once(method: "Callable[Concatenate[Grid, P], Product]") -> "Callable[Concatenate[Grid, P], Product]":
    """Remembers in the grid the product that a method returned: hundreds of others ask for the same few."""

    @wraps(method)
    def remembered(grid: "Grid", /, *arguments: P.args, **others: P.kwargs) -> Product:
        asked = (method.__name__, arguments, *others.items())
        if asked not in grid._known:
            grid._known[asked] = method(grid, *arguments, **others)
        return grid._known[asked]

    return remembered


@dataclass(frozen=True)
class Grid:
    """Every product that a study names.

    Attributes:
        study: the validated study.
        versions: code versions: data, pretrainer, trainer, judge, spectra.
        data_lock: entries of ``config/data.lock`` by what they identify (see `scripts.study.datalock`).
    """

    study: Study
    name: str
    versions: Mapping[str, int]
    data_lock: Mapping[str, Mapping[str, Any]]
    products: dict[str, Product] = field(default_factory=dict, init=False)
    blocks: dict[str, list[Condition]] = field(default_factory=dict, init=False)
    """``base``: the base model. ``grid``: the conditions of figures 1 to 3. ``sweep``: every learning rate of the
    sweep. And the study's own blocks."""
    unlocked: dict[str, str] = field(default_factory=dict, init=False)
    """Products that come from outside and have no entry in the lock, and what the entry would be called."""
    _made_by: dict[tuple[str, str], str] = field(default_factory=dict, init=False)
    """At family grain: (``sweep`` or empty, a run's or evaluation's key) to the family whose job makes it."""
    _outside_sweep: set[str] = field(default_factory=set, init=False)
    _known: dict[Any, Product] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        study = self.study
        self.blocks.update({BASE: [], GRID: [], SWEEP: [], **{name: [] for name in study.blocks}})
        self._base_family()
        for main in study.main_settings:
            self._cell(GRID, Cell(setting=main), ["learning", "forgetting", LOSSES])
        # in an order of their own: which family makes what two blocks share must not depend on the order of keys
        for name in sorted(study.blocks):
            for cell in study.blocks[name].cells:
                self._cell(name, cell, study.blocks[name].measures)
        self.throughput  # noqa: B018  (its products are the study's too)
        self._outside_sweep.update(self.products)
        for name, setting in study.settings.items():
            if setting.sweep and study.sweep:
                for method, rates in setting.sweep.learning_rates.items():
                    for seed in study.sweep.seeds:
                        self._swept_family(name, method, seed, [(rate, setting.sweep.duration) for rate in rates])

    # -- data and base model ------------------------------------------------------------------

    @_once
    def records(self, name: str) -> Product:
        """The records of a dataset."""
        dataset = self.study.datasets[name]
        if isinstance(dataset, GeneratedDataset):
            spec = {**dataset.model_dump(), "seed": self.study.data_seed, "versions": self._versions("data")}
            return self._add(f"data/records/{dataset.generator}", {"kind": "records", **spec})
        entry = self._locked(dataset)
        if isinstance(dataset, PathDataset):
            place, spec = "file", {"source": "path", "sha256": entry.get("sha256")}
            if not entry:
                spec["path"] = dataset.path  # two files must not be one product before they are locked
        elif isinstance(dataset, PackageDataset):
            place, spec = dataset.package, {**dataset.model_dump(), "sha256": entry.get("sha256")}
        else:
            place = _slug(dataset.repository)
            spec = dataset.model_dump(exclude={"gated", "records"}, exclude_defaults=True) | {"source": "hub"}
            spec |= {"revision": entry.get("revision"), "seed": self.study.data_seed}
        spec = {"kind": "records", **spec, "versions": self._versions("data")}
        return self._from_outside(f"data/records/{place}", spec, dataset)

    def _locked(self, part: PathDataset | PackageDataset | HubDataset | HubModel | str) -> Mapping[str, Any]:
        """The entry of ``config/data.lock``, empty where there is none."""
        return self.data_lock.get(_identity(part), {})

    def _from_outside(self, place: str, spec: dict[str, Any], part: Any, *inputs: Product) -> Product:
        """A product whose identity stands in the lock; its name says so where it does not."""
        if self._locked(part):
            return self._add(place, spec, *inputs)
        product = self._add(f"{place}.{NOT_LOCKED}", spec, *inputs)
        self.unlocked[product.key] = _identity(part)
        return product

    @_once
    def tokenizer(self, repository: str | None = None) -> Product:
        """The base model's tokenizer, or that of another repository."""
        model = self.study.model
        if isinstance(model, PretrainedModel):
            records = [self.records(name) for name in model.tokenizer.datasets]
            spec = {
                "kind": "tokenizer",
                "records": [product.fingerprint for product in records],
                "vocabulary": model.tokenizer.vocabulary,
                "versions": self._versions("data"),
            }
            return self._add("data/tokenizers/bpe", spec, *records)
        repository = repository or model.repository
        part = datalock.model_identity(repository)
        spec = {
            "kind": "tokenizer",
            "source": "hub",
            "repository": repository,
            "revision": self._locked(part).get("revision"),
            "versions": self._versions("data"),
        }
        return self._from_outside(f"data/tokenizers/hub/{_slug(repository)}", spec, part)

    def _rows(self, name: str, dataset: str, tokenizer: Product, spec: dict[str, Any]) -> Product:
        records = self.records(dataset)
        spec = {
            "kind": "rows",
            "records": records.fingerprint,
            "tokenizer": tokenizer.fingerprint,
            **spec,
            "versions": self._versions("data"),
        }
        return self._add(f"data/rows/{name}", spec, records, tokenizer)

    @_once
    def rows(self, setting_name: str, seed: int) -> Product:
        """The tokenized rows of a setting, and the composition of every batch."""
        setting = self.study.settings[setting_name]
        spec: dict[str, Any] = {
            "regime": setting.regime,
            "sequence_length": setting.sequence_length,
            "batch_rows": setting.batch_rows,
            "group_rows": setting.group_rows,
            "seed": seed,
        }
        if isinstance(setting, InstructionFinetuning):
            spec |= {"max_epochs": setting.max_epochs, **_unusual(setting, "template", "packing")}
            if setting.packing_ratio is not None:
                spec["packing_ratio"] = setting.packing_ratio
        return self._rows(f"{setting_name}-seed{seed}", setting.dataset, self.tokenizer(setting.tokenizer), spec)

    @cached_property
    def model(self) -> Product:
        model = self.study.model
        if isinstance(model, HubModel):
            spec = {
                "kind": "model",
                "source": "hub",
                "repository": model.repository,
                "revision": self._locked(model).get("revision"),
                "architecture": model.architecture.model_dump(),
            }
            return self._from_outside(f"models/hub/{_slug(model.repository)}", spec, model)
        pretraining = model.pretraining
        tokenizer = self.tokenizer()
        rows = self._rows(
            f"pretraining-seed{pretraining.seed}",
            pretraining.dataset,
            tokenizer,
            {
                "regime": "cpt",
                "sequence_length": pretraining.sequence_length,
                "batch_rows": pretraining.batch_rows,
                "group_rows": pretraining.batch_rows,
                "seed": pretraining.seed,
            },
        )
        spec = {
            "kind": "model",
            "architecture": model.architecture.model_dump(),
            "tokenizer": tokenizer.fingerprint,
            "rows": rows.fingerprint,
            "batches": round(pretraining.tokens / (pretraining.batch_rows * pretraining.sequence_length)),
            "learning_rate": pretraining.learning_rate,
            "warmup_fraction": pretraining.warmup_fraction,
            "weight_decay": pretraining.weight_decay,
            "seed": pretraining.seed,
            "versions": self._versions("pretrainer"),
        }
        return self._add("models/llama", spec, tokenizer, rows)

    # -- training -----------------------------------------------------------------------------

    def _method(self, name: str) -> dict[str, Any]:
        method = self.study.methods[name]
        spec = method.model_dump()
        if isinstance(method, Lora):
            spec = {name: spec[name] for name in ("kind", "rank", "alpha")}
            spec |= {"modules": sorted(method.modules), **_unusual(method, "dropout"), **method.variant}
        return spec

    def _recipe(
        self, setting_name: str, method: str, seed: int, rate: float, change: Change, rows: Product
    ) -> dict[str, Any]:
        """What a trunk and an IFT run have in common: everything but how long they train.

        Keys that joined the schema later stand here only where they differ from their default, so that what was
        trained before keeps its name.
        """
        setting = self.study.settings[setting_name]
        optimizer = change.optimizer or self.study.optimizer
        recipe = {
            "model": self.model.fingerprint,
            "rows": rows.fingerprint,
            "method": self._method(method),
            "optimizer": {
                **optimizer.model_dump(),
                "learning_rate": rate,
                "weight_decay": setting.weight_decay if change.weight_decay is None else change.weight_decay,
            },
            "precision": self.study.precision,
            "seed": seed,
            "versions": self._versions("trainer"),
            **_unusual(setting, "attention", "loss", "lag"),
        }
        if change.attention_dropout is not None:
            # a row draws for itself; what was trained under the bare rate drew for all rows of a pass together
            recipe["attention_dropout"] = {"rate": change.attention_dropout, "drawn_by": "row"}
        return recipe

    def _branch(
        self,
        setting_name: str,
        setting: ContinuedPretraining,
        method: str,
        seed: int,
        rate: float,
        change: Change,
        tokens: int,
    ) -> tuple[Product, list[Product]]:
        """CPT: the run of a duration and the legs that lead to it."""
        rows = self.rows(setting_name, seed)
        trunk = {
            **self._recipe(setting_name, method, seed, rate, change, rows),
            "warmup_batches": setting.warmup_batches,
            "first_leg": setting.batches(setting.first_leg),
        }
        place = f"{setting_name}/{method}{change.suffix}"
        batches = setting.batches(tokens)
        cooldown = round(setting.cooldown * batches)
        legs: list[Product] = []
        end = setting.batches(setting.first_leg)
        while end <= batches - cooldown:
            tokens_then = format_tokens(end * setting.batch_tokens)
            label = f"{end}-batches" if tokens_then.isdigit() else tokens_then
            spec = {"kind": "leg", "trunk": trunk, "batches": end}
            before = [legs[-1]] if legs else []
            legs.append(self._add(f"legs/{place}/{label}-seed{seed}", spec, self.model, rows, *before))
            end *= 2
        spec = {
            "kind": "run",
            "trunk": trunk,
            "batches": batches,
            "cooldown_batches": cooldown,
            **_unusual(setting, "short_branch"),
        }
        label = f"{format_tokens(tokens)}-seed{seed}"
        return self._add(f"runs/{place}/{label}", spec, self.model, rows, *legs[-1:]), legs

    def _epochs(
        self,
        setting_name: str,
        setting: InstructionFinetuning,
        method: str,
        seed: int,
        rate: float,
        change: Change,
        epochs: int,
    ) -> tuple[Product, list[Product]]:
        """IFT: the run of a duration; where it is hot, the legs that lead to it."""
        rows = self.rows(setting_name, seed)
        recipe = {
            **self._recipe(setting_name, method, seed, rate, change, rows),
            "warmup_fraction": setting.warmup_fraction,
            "final_fraction": setting.final_fraction,
        }
        place, label = f"{setting_name}/{method}{change.suffix}", f"{epochs}-seed{seed}"
        if not setting.hot:
            spec = {"kind": "run", **recipe, "epochs": epochs}
            return self._add(f"runs/{place}/{label}", spec, self.model, rows), []
        trunk = {**recipe, "schedule_epochs": max(setting.durations)}
        legs: list[Product] = []
        for end in sorted(setting.durations)[:-1]:
            if end <= epochs:
                spec = {"kind": "leg", "trunk": trunk, "epochs": end}
                legs.append(self._add(f"legs/{place}/{end}-seed{seed}", spec, self.model, rows, *legs[-1:]))
        spec = {"kind": "run", "trunk": trunk, "epochs": epochs}
        return self._add(f"runs/{place}/{label}", spec, self.model, rows, *legs[-1:]), legs

    def _published(self, setting_name: str, method: str, amount: int) -> Product:
        """A checkpoint that the paper's authors published: a branch of a repository."""
        setting = self.study.settings[setting_name]
        repository = setting.published[method]
        part = datalock.model_identity(repository)
        commits: Mapping[str, str] = self._locked(part).get("branches", {})
        branches = datalock.resolve_branches(repository, commits, setting.durations, setting.regime)
        branch = branches.get(amount)
        spec = {
            "kind": "published",
            "repository": repository,
            "branch": branch,
            "revision": commits[branch] if branch else None,
            "duration": amount,
            "model": self.model.fingerprint,
            "architecture": self.study.model.architecture.model_dump(),
            "method": self._method(method),
        }
        place = f"published/{setting_name}/{method}/{_duration(setting, amount)}"
        if branch:
            return self._add(place, spec, self.model)
        product = self._add(f"{place}.{NOT_LOCKED}", spec, self.model)
        self.unlocked[product.key] = f"{part} (branch of {datalock.duration_text(amount, setting.regime)})"
        return product

    # -- evaluation ---------------------------------------------------------------------------

    def _evaluation(self, subject: Product, task: str, dataset: str | None = None) -> Product:
        """A task asked of a model; its items are the study's for the task, or those of `dataset`."""
        settings: dict[str, Any] = {}
        if task not in (SOURCE_LOSS, TARGET_LOSS):
            settings = getattr(self.study.evaluation.tasks, task).model_dump()
        if "judge" in settings:
            # where the judge is reached decides nothing about what it says
            settings["judge"] = {key: settings["judge"][key] for key in ("model", "temperature")}
        if settings.get("answers") == "letters":
            del settings["answers"]
        tested = settings.pop("dataset", None)
        records = self.records(dataset or tested)
        source = settings.pop("shots_from", None)
        shots = [self.records(source)] if source else []
        spec = {
            "kind": "evaluation",
            "subject": subject.fingerprint,
            "task": task,
            "records": records.fingerprint,
            "shots_records": shots[0].fingerprint if shots else None,
            **settings,
            "seed": self.study.evaluation.seed,
            "versions": self._versions("judge"),
        }
        inputs = dict.fromkeys([subject, self.model, records, *shots])
        return self._add(f"evaluations/{_subject_place(subject)}/{task}", spec, *inputs)

    def _spectra(self, run: Product) -> Product:
        assert self.study.spectra is not None
        spec = {
            "kind": "spectra",
            "subject": run.fingerprint,
            "whole": sorted(self.study.spectra.whole),
            "versions": self._versions("spectra"),
        }
        return self._add(f"spectra/{_subject_place(run)}", spec, run, self.model)

    def _measured(self, subject: Product, measures: Iterable[str], settings: Iterable[str]) -> dict[str, str]:
        """What a figure calls a measurement to the group that makes it at family grain; see `_families`.

        Of the base model (`settings` are all) a target loss is measured once for each setting.
        """
        study = self.study
        forgetting = study.evaluation.forgetting
        found: dict[str, str] = {}
        for measure in measures:
            if measure == "forgetting":
                found |= dict.fromkeys(forgetting, "")
            elif measure == "learning":
                found |= dict.fromkeys(sorted({study.settings[name].learning for name in settings}), "")
            elif measure == "diversity":
                found.setdefault("humaneval", "")
            elif measure == "language_understanding":
                found |= {task: found.get(task, measure) for task in LANGUAGE_UNDERSTANDING}
            elif measure in (LOSSES, SOURCE_LOSS, TARGET_LOSS):
                if study.evaluation.held_out and measure != TARGET_LOSS:
                    found[SOURCE_LOSS] = LOSSES
                for name in settings if measure != SOURCE_LOSS else ():
                    if study.settings[name].held_out:
                        found[f"{TARGET_LOSS}@{name}" if subject.kind == "model" else TARGET_LOSS] = LOSSES
            elif measure != "spectra" or subject.kind != "model":
                found[measure] = measure
        return found

    def _measurement(self, subject: Product, label: str, setting: str | None) -> Product:
        """The product behind one label of `_measured`."""
        task, _, of_setting = label.partition("@")
        if task == "spectra":
            return self._spectra(subject)
        if task == SOURCE_LOSS:
            return self._evaluation(subject, task, self.study.evaluation.held_out)
        if task == TARGET_LOSS:
            return self._evaluation(subject, task, self.study.settings[of_setting or setting or ""].held_out)
        return self._evaluation(subject, task)

    def _base_family(self) -> None:
        blocks = self.study.blocks.values()
        measures = ["forgetting", "learning", LOSSES, *(m for block in blocks for m in block.measures)]
        groups = self._measured(self.model, dict.fromkeys(measures), self.study.settings)
        evaluations = {label: self._measurement(self.model, label, None) for label in groups}
        self.blocks[BASE].append(
            Condition(
                setting="",
                method=BASE,
                seed=0,
                duration="",
                amount=0,
                learning_rate=None,
                product=self.model.key,
                evaluations={task: product.key for task, product in evaluations.items()},
            )
        )
        made = [(groups[label], product) for label, product in evaluations.items()]
        self._evaluated("", f"{BASE}/{self.model.key.removeprefix('models/')}{{}}", made)

    def _cell(self, block: str, cell: Cell, measures: Sequence[str]) -> None:
        """The conditions of a cell, for every seed. One that stood in an earlier block is the same condition."""
        study = self.study
        setting = study.settings[cell.setting]
        change = Change(
            weight_decay=None if cell.weight_decay == setting.weight_decay else cell.weight_decay,
            attention_dropout=cell.attention_dropout,
            optimizer=None if cell.optimizer == study.optimizer else cell.optimizer,
        )
        for method in cell.methods or study.main_methods:
            own = setting.learning_rates.get(method)
            # a method without a rate is one whose sweep has not chosen yet: see `require`
            rates = cell.learning_rates or ([own] if own else [])
            durations = cell.durations or setting.durations
            if method in setting.published:
                self._published_cells(block, cell.setting, method, durations, own, measures)
                continue
            for seed in study.seeds:
                cells = [(rate, amount) for rate in rates for amount in durations]
                if cells:
                    self._family(block, cell.setting, method, seed, cells, change, measures)

    def _family(
        self,
        block: str,
        setting: str,
        method: str,
        seed: int,
        cells: Sequence[tuple[float, int]],
        change: Change,
        measures: Sequence[str],
    ) -> None:
        """The conditions of one setting, method and seed: a cell is a rate and a duration."""
        name = f"{setting}/{method}{change.suffix}" + ("" if block == GRID else f"-{block}")
        runs = self._trained("", setting, method, seed, cells, change, f"{name}-seed{seed}")
        made: list[tuple[str, Product]] = []
        for run, (rate, amount) in zip(runs, cells, strict=True):
            groups = self._measured(run, measures, [setting])
            evaluations = {label: self._measurement(run, label, setting) for label in groups}
            made += [(groups[label], product) for label, product in evaluations.items()]
            self._condition(block, setting, method, seed, rate, amount, run, evaluations, change)
        self._evaluated("", f"{name}{{}}-seed{seed}", made)

    def _published_cells(
        self,
        block: str,
        setting: str,
        method: str,
        durations: Sequence[int],
        rate: float | None,
        measures: Sequence[str],
    ) -> None:
        """The conditions whose models are the authors' checkpoints: of one seed that nobody names."""
        made: list[tuple[str, Product]] = []
        for amount in durations:
            checkpoint = self._published(setting, method, amount)
            groups = self._measured(checkpoint, measures, [setting])
            evaluations = {label: self._measurement(checkpoint, label, setting) for label in groups}
            made += [(groups[label], product) for label, product in evaluations.items()]
            self._condition(block, setting, method, 0, rate, amount, checkpoint, evaluations, Change())
        self._evaluated("", f"{setting}/{method}-{block}{{}}-published", made)

    def _swept_family(self, setting: str, method: str, seed: int, cells: Sequence[tuple[float, int]]) -> None:
        """The conditions of a sweep, asked the validation items in one job and the test items in another.

        Two jobs, so that rates are chosen without a test item being looked at. They are apart from the grid's, which
        may be planned only once the sweep has chosen.
        """
        assert self.study.sweep is not None
        learning = self.study.settings[setting].learning
        runs = self._trained(SWEEP, setting, method, seed, cells, Change(), f"{setting}/{method}-sweep-seed{seed}")
        tested: list[tuple[str, Product]] = []
        validated: list[tuple[str, Product]] = []
        for run, (rate, amount) in zip(runs, cells, strict=True):
            labels = self._measured(run, ["forgetting", "learning"], [setting])
            evaluations = {label: self._measurement(run, label, setting) for label in labels}
            tested.extend(("", product) for product in evaluations.values())
            evaluations[VALIDATION] = self._evaluation(run, learning, self.study.sweep.validation[learning])
            validated.append(("", evaluations[VALIDATION]))
            self._condition(SWEEP, setting, method, seed, rate, amount, run, evaluations, Change())
        self._evaluated(SWEEP, f"{setting}/{method}-sweep{{}}-seed{seed}", tested)
        self._evaluated(SWEEP, f"{setting}/{method}-validation{{}}-seed{seed}", validated)

    def _trained(
        self,
        where: str,
        setting_name: str,
        method: str,
        seed: int,
        cells: Sequence[tuple[float, int]],
        change: Change,
        place: str,
    ) -> list[Product]:
        """The run of every cell. What no family trains yet becomes a family, at family grain one job."""
        setting = self.study.settings[setting_name]
        runs: list[Product] = []
        legs_of: dict[str, list[Product]] = {}
        for rate, amount in cells:
            if isinstance(setting, ContinuedPretraining):
                run, legs = self._branch(setting_name, setting, method, seed, rate, change, amount)
            else:
                run, legs = self._epochs(setting_name, setting, method, seed, rate, change, amount)
            runs.append(run)
            legs_of[run.key] = legs
        new = [run for run in runs if (where, run.key) not in self._made_by]
        if new:
            members = dict.fromkeys(product.key for run in new for product in [*legs_of[run.key], run])
            spec = {"kind": "trained", "members": sorted(run.key for run in new)}
            rows = self.rows(setting_name, seed)
            family = self._add(f"families/trained/{place}", spec, self.model, rows, members=tuple(members))
            self._made_by.update({(where, run.key): family.key for run in new})
        return runs

    def _condition(
        self,
        block: str,
        setting_name: str,
        method: str,
        seed: int,
        rate: float | None,
        amount: int,
        run: Product,
        evaluations: Mapping[str, Product],
        change: Change,
    ) -> None:
        setting = self.study.settings[setting_name]
        self.blocks[block].append(
            Condition(
                setting=setting_name,
                method=method,
                seed=seed,
                duration=_duration(setting, amount),
                amount=amount,
                learning_rate=rate,
                product=run.key,
                evaluations={task: product.key for task, product in evaluations.items()},
                change=change,
            )
        )

    def _evaluated(self, where: str, place: str, made: Iterable[tuple[str, Product]]) -> None:
        """One family for each group of measurements that no family makes yet; `{}` in `place` is for the group's name.

        Groups are apart so that a figure of one measure does not wait for another: the benchmarks (no name), the
        held-out losses, and each measure that few figures show.
        """
        groups: dict[str, list[Product]] = {}
        for group, product in made:
            if (where, product.key) not in self._made_by:
                groups.setdefault(group, []).append(product)
        for group, products in groups.items():
            inputs: dict[str, None] = {}
            for product in products:
                for key in product.inputs:
                    # at family grain a run is made by its family
                    inputs[self._made_by.get((where, key), key)] = None
            kind = "decomposed" if group == "spectra" else "evaluated"
            suffix = f"-{group.replace('_', '-')}" if group and kind == "evaluated" else ""
            family = self._add(
                f"families/{kind}/{place.format(suffix)}",
                {"kind": kind, "members": sorted(product.key for product in products)},
                *(self.products[key] for key in inputs),
                members=tuple(product.key for product in products),
            )
            self._made_by.update({(where, product.key): family.key for product in products})

    @cached_property
    def throughput(self) -> dict[str, str]:
        """The benchmark of training speed: method to its product's key; empty where the study has none."""
        benchmark = self.study.throughput
        if benchmark is None:
            return {}
        made = {}
        for method in benchmark.methods:
            spec = {
                "kind": "throughput",
                "model": self.model.fingerprint,
                "method": self._method(method),
                "optimizer": self.study.optimizer.model_dump(),
                "precision": self.study.precision,
                **benchmark.model_dump(exclude={"methods"}),
                "versions": self._versions("trainer"),
            }
            made[method] = self._add(f"throughput/{method}", spec, self.model).key
        return made

    # -- artifacts ----------------------------------------------------------------------------

    @cached_property
    def card(self) -> Product:
        """What artifacts say of the study itself. An input of every CSV, so that a new title redraws."""
        study = self.study
        settings = {
            name: {"label": setting.label, "regime": setting.regime, "learning": setting.learning}
            for name, setting in study.settings.items()
        }
        spec: dict[str, Any] = {
            "kind": "card",
            "study": self.name,
            "title": study.title,
            "scale": study.scale,
            "model": study.model.label,
            "settings": settings,
        }
        if study.overlay:
            spec["overlay"] = True  # so that every CSV is collected anew
        return self._add(f"studies/{self.name}", spec)

    def conditions(self, block: str, setting: str | None = None) -> list[Condition]:
        """The base model and the conditions of a block; in one setting where it is given.

        Args:
            block: ``grid``, ``sweep``, or one of the study's own blocks.
            setting: a setting's name, or None for all.
        """
        return [*self.blocks[BASE], *(c for c in self.blocks[block] if setting in (None, c.setting))]

    def tasks(
        self, condition: Condition, needs: Sequence[str], block: str = GRID, setting: str | None = None
    ) -> list[str]:
        """What an artifact that needs ``learning``, ``forgetting``, ... reads of a condition's evaluations.

        Of the base model it is what the settings of the artifact's block ask; it has no spectra.
        """
        settings = [condition.setting] if condition.setting else self._settings(block, setting)
        wanted: list[str] = []
        for need in needs:
            if need == "forgetting":
                wanted += self.study.evaluation.forgetting
            elif need == "learning":
                wanted += sorted({self.study.settings[name].learning for name in settings})
            elif need == "diversity":
                wanted.append("humaneval")
            elif need == "language_understanding":
                wanted += LANGUAGE_UNDERSTANDING
            elif need == TARGET_LOSS and condition.method == BASE:
                wanted += [f"{TARGET_LOSS}@{name}" for name in settings]
            elif need != "spectra" or condition.method != BASE:
                wanted.append(need)
        return list(dict.fromkeys(wanted))

    def _settings(self, block: str, setting: str | None) -> list[str]:
        """The settings that a block has conditions in, or the one that is asked for."""
        if setting is not None:
            return [setting]
        if block == SWEEP:
            return [name for name, value in self.study.settings.items() if value.sweep]
        if block in self.study.blocks:
            return list(dict.fromkeys(cell.setting for cell in self.study.blocks[block].cells))
        return self.study.main_settings

    def lack(self, needs: Sequence[str], block: str, setting: str | None = None) -> str | None:
        """Why the study does not have such an artifact, in one sentence; None where it does."""
        study = self.study
        if "throughput" in needs:
            return None if self.throughput else f"study {self.name!r} has no benchmark of training speed (throughput)"
        if block not in self.blocks:
            return f"study {self.name!r} has no block {block!r} (blocks.{block})"
        if setting is not None and setting not in self._settings(block, None):
            if setting not in study.settings:
                return f"study {self.name!r} has no setting {setting!r}; it has {', '.join(study.settings)}"
            return f"study {self.name!r} has no conditions of setting {setting!r} in its block {block!r}"
        settings = self._settings(block, setting)
        if not settings and block == GRID:
            return f"study {self.name!r} has no conditions in its main grid (main.settings)"
        if block == SWEEP and not any(study.settings[name].sweep for name in settings):
            return f"study {self.name!r} has no sweep over learning rates"
        if SOURCE_LOSS in needs and not study.evaluation.held_out:
            return f"study {self.name!r} has no records for the source loss (evaluation.held_out)"
        for name in settings:
            if TARGET_LOSS in needs and not study.settings[name].held_out:
                return f"study {self.name!r} has no records for the target loss (settings.{name}.held_out)"
        if block in study.blocks:
            measures: set[str] = set(study.blocks[block].measures)
            if "forgetting" in measures:
                measures.update(study.evaluation.forgetting)
            if "learning" in measures:
                measures.update(study.settings[name].learning for name in settings)
            for need in needs:
                if need not in measures:
                    judged = " (it takes a judge: evaluation.tasks.mt_bench)" if need == "mt_bench" else ""
                    return f"study {self.name!r} does not measure {need} in its block {block!r}{judged}"
        return None

    # -- look-ups -----------------------------------------------------------------------------

    def find(self, name: str) -> Product:
        """The product called `name`: a key, or a key without its fingerprint or its leading ``runs/``.

        A sweep's products differ from the grid's in nothing but the fingerprint; a name without it is the grid's.

        Raises:
            UserError: the study has no such product, or several of that name.
        """
        if name in self.products:
            return self.products[name]
        found = [p for p in self.products.values() if p.name in (name, f"runs/{name}")]
        if not found:
            places = ", ".join(sorted(c.product for c in self.conditions(GRID))[:3])
            raise UserError(f"study {self.name!r} has no product {name!r}; it has, among others, {places}")
        meant = [product for product in found if product.key in self._outside_sweep] or found
        if len(meant) > 1:
            keys = ", ".join(product.key for product in meant)
            raise UserError(
                f"study {self.name!r} has several products {name!r}; one of them has to be named whole: {keys}"
            )
        return meant[0]

    def manifests(self, place: str, store: str) -> Callable[[Any], list[str]]:
        """For a rule that fills `place`: wildcards with a `key` to the manifests that its job reads."""
        return lambda wildcards: [f"{store}/{key}.json" for key in self.find(f"{place}/{wildcards.key}").inputs]

    def require(self, needs: Sequence[str], block: str, setting: str | None = None) -> None:
        """Raises UserError where the study does not have such an artifact, or its sweep has still to choose rates."""
        if lack := self.lack(needs, block, setting):
            raise UserError(lack)
        if "throughput" in needs:
            return
        for name, missing in self._without_rate(block, setting):
            raise UserError(
                f"settings.{name} of study {self.name!r} has no learning rate for {', '.join(missing)}: "
                "`snakemake results/learning_rates.yaml` runs the sweep that chooses it, and "
                "`python -m scripts.artifacts.accept_rates` takes the choice over"
            )

    def _without_rate(self, block: str, setting: str | None) -> Iterator[tuple[str, list[str]]]:
        """Settings and the methods that a block shows there and no rate is chosen for yet."""
        if block == SWEEP:
            return
        own = self.study.blocks.get(block)
        cells = own.cells if own else [Cell(setting=name) for name in self.study.main_settings]
        for cell in cells:
            rates = self.study.settings[cell.setting].learning_rates
            known = {*rates, *self.study.settings[cell.setting].published}
            missing = [method for method in cell.methods or self.study.main_methods if method not in known]
            if setting in (None, cell.setting) and missing and not cell.learning_rates:
                yield cell.setting, missing

    def artifact_manifests(self, needs: Sequence[str], block: str, setting: str | None, store: str) -> list[str]:
        """The manifests that an artifact's CSV is made from, at the study's grain.

        Raises:
            UserError: see `require`.
        """
        self.require(needs, block, setting)
        if "throughput" in needs:
            return [f"{store}/{key}.json" for key in [self.card.key, *self.throughput.values()]]
        conditions = self.conditions(block, setting)
        made = [(c, c.evaluations[task]) for c in conditions for task in self.tasks(c, needs, block, setting)]
        return self._manifests(store, SWEEP if block == SWEEP else "", made, self.card.key)

    def validation_manifests(self, store: str) -> list[str]:
        """The manifests that learning rates are chosen from, at the study's grain.

        Raises:
            UserError: the study has no sweep.
        """
        self.require((), SWEEP)
        made = [(condition, condition.evaluations[VALIDATION]) for condition in self.blocks[SWEEP]]
        return self._manifests(store, SWEEP, made)

    def _manifests(self, store: str, where: str, made: Iterable[tuple[Condition, str]], *first: str) -> list[str]:
        by_family = self.study.grain == "family"
        keys = {
            self._made_by.get(("" if condition.method == BASE else where, key), key) if by_family else key
            for condition, key in made
        }
        return [f"{store}/{key}.json" for key in [*first, *sorted(keys)]]

    def _versions(self, *names: str) -> dict[str, int]:
        return {name: self.versions[name] for name in names}

    def _add(self, name: str, spec: dict[str, Any], *inputs: Product, members: tuple[str, ...] = ()) -> Product:
        key = f"{name}-{fingerprint(spec)}"
        if key not in self.products:
            self.products[key] = Product(key, spec, tuple(product.key for product in inputs), members)
        return self.products[key]

    def __iter__(self) -> Iterator[Product]:
        return iter(self.products.values())


def _unusual(part: Any, *names: str) -> dict[str, Any]:
    """The named keys of a part of the study that differ from their default."""
    fields = type(part).model_fields
    return {name: getattr(part, name) for name in names if getattr(part, name) != fields[name].default}


def _identity(part: Any) -> str:
    """What the lock calls a dataset or model from outside; a text is called what it says."""
    return part if isinstance(part, str) else datalock.identity(part)


def _slug(repository: str) -> str:
    """A repository's name as a path has it."""
    return repository.rpartition("/")[2].lower()


def _duration(setting: ContinuedPretraining | InstructionFinetuning, amount: int) -> str:
    return format_tokens(amount) if isinstance(setting, ContinuedPretraining) else str(amount)


def _subject_place(subject: Product) -> str:
    """Where what is measured of a model lies: the model's place without the kind of thing that it is."""
    kind, _, place = subject.key.partition("/")
    return f"{BASE}/{place}" if kind == "models" else place
