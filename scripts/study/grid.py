"""The grid of a study: its conditions, and the spec, name and inputs of every product.

A product's key is its place in the store without ``.json``: ``runs/code-cpt/lora-r4/64K-seed0-3f2a9c0d1e5b``.
It ends in the fingerprint of its spec. Inputs are keys too, and a function of the product's own key and spec alone
(which is why what a study calls its datasets stands in no key: renaming one must not move what is made of it).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from scripts.study.errors import UserError
from scripts.study.fingerprint import fingerprint
from scripts.study.quantities import format_tokens
from scripts.study.schema import (
    ContinuedPretraining,
    GeneratedDataset,
    InstructionFinetuning,
    Study,
)

BASE = "base"
GRID = "grid"
SWEEP = "sweep"
VALIDATION = "validation"
LOSSES = "losses"
SOURCE_LOSS, TARGET_LOSS = "source_loss", "target_loss"


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
class Condition:
    """One trained model, or the base model (`method` is ``base``), and its evaluations."""

    setting: str
    method: str
    seed: int
    duration: str
    """As printed: 64K (tokens), 2 (epochs); empty for the base model."""
    amount: int
    """The duration in its unit: tokens or epochs."""
    learning_rate: float | None
    """Peak learning rate; None for the base model."""
    product: str
    """Key of the run, or of the base model."""
    evaluations: Mapping[str, str]
    """What is measured to the evaluation's key: a task, ``source_loss``, ``target_loss`` (of the base model
    ``target_loss@SETTING``, one for each setting), and in a sweep ``validation``."""


@dataclass(frozen=True)
class Family:
    """What one job trains and one job evaluates at family grain."""

    block: str
    """``base``, ``grid`` or ``sweep``: the benchmarks of their conditions. ``validation``: the items that a sweep is
    judged on. ``losses``: the held-out losses of the base model and the grid."""
    setting: str
    """Empty for the base model."""
    evaluated: str


@dataclass(frozen=True)
class Grid:
    """Every product that a study names.

    Attributes:
        study: the validated study.
        versions: code versions: data, pretrainer, trainer, judge.
        data_lock: dataset name to its entry in ``config/data.lock``.
    """

    study: Study
    name: str
    versions: Mapping[str, int]
    data_lock: Mapping[str, Mapping[str, str]]
    products: dict[str, Product] = field(default_factory=dict, init=False)
    blocks: dict[str, list[Condition]] = field(default_factory=dict, init=False)
    """``base``: the base model. ``grid``: every setting, method, duration and seed. ``sweep``: every learning rate."""
    families: list[Family] = field(default_factory=list, init=False)
    _outside_sweep: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.blocks.update({BASE: [], GRID: [], SWEEP: []})
        self._base_family()
        for name, setting in self.study.settings.items():
            for method in self.study.methods:
                # a method without a rate is one whose sweep has not chosen yet: see `require`
                if rate := setting.learning_rates.get(method):
                    for seed in self.study.seeds:
                        self._family(name, method, seed, [(rate, duration) for duration in setting.durations])
        self._outside_sweep.update(self.products)
        for name, setting in self.study.settings.items():
            if setting.sweep and self.study.sweep:
                for method, rates in setting.sweep.learning_rates.items():
                    for seed in self.study.sweep.seeds:
                        self._swept_family(name, method, seed, [(rate, setting.sweep.duration) for rate in rates])

    # -- data and base model ------------------------------------------------------------------

    def records(self, name: str) -> Product:
        """The records of a dataset.

        Raises:
            UserError: the dataset comes from outside and has no entry in ``config/data.lock``.
        """
        dataset = self.study.datasets[name]
        if isinstance(dataset, GeneratedDataset):
            place: str = dataset.generator
            spec = {**dataset.model_dump(), "seed": self.study.data_seed, "versions": self._versions("data")}
        else:
            place = "file"
            entry = self.data_lock.get(name)
            if entry is None or entry.get("path") != dataset.path:
                raise UserError(
                    f"config/data.lock: dataset {name!r} ({dataset.path}) is not locked; "
                    f"run `python -m scripts.data.lock --study {self.name}` and commit the file"
                )
            spec = {"source": "path", "sha256": entry["sha256"], "versions": self._versions("data")}
        return self._add(f"data/records/{place}", {"kind": "records", **spec})

    @cached_property
    def tokenizer(self) -> Product:
        records = [self.records(name) for name in self.study.model.tokenizer.datasets]
        spec = {
            "kind": "tokenizer",
            "records": [product.fingerprint for product in records],
            "vocabulary": self.study.model.tokenizer.vocabulary,
            "versions": self._versions("data"),
        }
        return self._add("data/tokenizers/bpe", spec, *records)

    def _rows(self, name: str, dataset: str, spec: dict[str, Any]) -> Product:
        records = self.records(dataset)
        spec = {
            "kind": "rows",
            "records": records.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            **spec,
            "versions": self._versions("data"),
        }
        return self._add(f"data/rows/{name}", spec, records, self.tokenizer)

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
            spec |= {"packing_ratio": setting.packing_ratio, "max_epochs": setting.max_epochs}
        return self._rows(f"{setting_name}-seed{seed}", setting.dataset, spec)

    @cached_property
    def model(self) -> Product:
        model = self.study.model
        pretraining = model.pretraining
        rows = self._rows(
            f"pretraining-seed{pretraining.seed}",
            pretraining.dataset,
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
            "tokenizer": self.tokenizer.fingerprint,
            "rows": rows.fingerprint,
            "batches": round(pretraining.tokens / (pretraining.batch_rows * pretraining.sequence_length)),
            "learning_rate": pretraining.learning_rate,
            "warmup_fraction": pretraining.warmup_fraction,
            "weight_decay": pretraining.weight_decay,
            "seed": pretraining.seed,
            "versions": self._versions("pretrainer"),
        }
        return self._add("models/llama", spec, self.tokenizer, rows)

    # -- training -----------------------------------------------------------------------------

    def _recipe(self, setting_name: str, method: str, seed: int, rate: float, rows: Product) -> dict[str, Any]:
        """What a trunk and an IFT run have in common: everything but how long they train."""
        setting = self.study.settings[setting_name]
        adapter = self.study.methods[method].model_dump()
        if "modules" in adapter:
            adapter["modules"] = sorted(adapter["modules"])
        return {
            "model": self.model.fingerprint,
            "rows": rows.fingerprint,
            "method": adapter,
            "optimizer": {
                **self.study.optimizer.model_dump(),
                "learning_rate": rate,
                "weight_decay": setting.weight_decay,
            },
            "precision": self.study.precision,
            "seed": seed,
            "versions": self._versions("trainer"),
        }

    def _branch(
        self, setting_name: str, setting: ContinuedPretraining, method: str, seed: int, rate: float, tokens: int
    ) -> tuple[Product, list[Product]]:
        """CPT: the run of a duration and the legs that lead to it."""
        rows = self.rows(setting_name, seed)
        trunk = {
            **self._recipe(setting_name, method, seed, rate, rows),
            "warmup_batches": setting.warmup_batches,
            "first_leg": setting.batches(setting.first_leg),
        }
        place = f"{setting_name}/{method}"
        batches = setting.batches(tokens)
        cooldown = round(setting.cooldown * batches)
        legs: list[Product] = []
        end = setting.batches(setting.first_leg)
        while end <= batches - cooldown:
            label = format_tokens(end * setting.batch_tokens)
            spec = {"kind": "leg", "trunk": trunk, "batches": end}
            before = [legs[-1]] if legs else []
            legs.append(self._add(f"legs/{place}/{label}-seed{seed}", spec, self.model, rows, *before))
            end *= 2
        spec = {"kind": "run", "trunk": trunk, "batches": batches, "cooldown_batches": cooldown}
        label = f"{format_tokens(tokens)}-seed{seed}"
        return self._add(f"runs/{place}/{label}", spec, self.model, rows, *legs[-1:]), legs

    def _epochs(
        self, setting_name: str, setting: InstructionFinetuning, method: str, seed: int, rate: float, epochs: int
    ) -> Product:
        """IFT: the run of a duration."""
        rows = self.rows(setting_name, seed)
        spec = {
            "kind": "run",
            **self._recipe(setting_name, method, seed, rate, rows),
            "warmup_fraction": setting.warmup_fraction,
            "final_fraction": setting.final_fraction,
            "epochs": epochs,
        }
        return self._add(f"runs/{setting_name}/{method}/{epochs}-seed{seed}", spec, self.model, rows)

    # -- evaluation ---------------------------------------------------------------------------

    def _evaluation(self, subject: Product, task: str, dataset: str | None = None) -> Product:
        """A task asked of a model; its items are the study's for the task, or those of `dataset`."""
        settings: dict[str, Any] = {}
        if task not in (SOURCE_LOSS, TARGET_LOSS):
            settings = getattr(self.study.evaluation.tasks, task).model_dump()
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
        place = (
            f"{BASE}/{subject.key.removeprefix('models/')}"
            if subject.kind == "model"
            else subject.key.removeprefix("runs/")
        )
        inputs = dict.fromkeys([subject, self.model, records, *shots])
        return self._add(f"evaluations/{place}/{task}", spec, *inputs)

    def _benchmarks(self, subject: Product, learning: Iterable[str]) -> dict[str, Product]:
        """The forgetting tasks and the learning tasks, on their test items."""
        return {
            task: self._evaluation(subject, task)
            for task in dict.fromkeys([*self.study.evaluation.forgetting, *sorted(learning)])
        }

    def _source_loss(self, subject: Product) -> dict[str, Product]:
        held_out = self.study.evaluation.held_out
        return {SOURCE_LOSS: self._evaluation(subject, SOURCE_LOSS, held_out)} if held_out else {}

    def _base_family(self) -> None:
        settings = self.study.settings
        evaluations = self._benchmarks(self.model, {setting.learning for setting in settings.values()})
        losses = self._source_loss(self.model) | {
            f"{TARGET_LOSS}@{name}": self._evaluation(self.model, TARGET_LOSS, setting.held_out)
            for name, setting in settings.items()
            if setting.held_out
        }
        self.blocks[BASE].append(
            Condition(
                setting="",
                method=BASE,
                seed=0,
                duration="",
                amount=0,
                learning_rate=None,
                product=self.model.key,
                evaluations={task: product.key for task, product in {**evaluations, **losses}.items()},
            )
        )
        place = f"{BASE}/{self.model.key.removeprefix('models/')}"
        self._evaluated(BASE, "", place, None, evaluations.values())
        self._evaluated(LOSSES, "", f"{place}-losses", None, losses.values())

    def _family(self, setting_name: str, method: str, seed: int, cells: Sequence[tuple[float, int]]) -> None:
        """The conditions of the grid in one setting, of one method and seed: a cell is a rate and a duration."""
        setting = self.study.settings[setting_name]
        runs, trained = self._trained(setting_name, method, seed, cells, f"{setting_name}/{method}-seed{seed}")
        evaluated: list[Product] = []
        measured: list[Product] = []
        for run, (rate, amount) in zip(runs, cells, strict=True):
            evaluations = self._benchmarks(run, {setting.learning})
            losses = self._source_loss(run)
            if setting.held_out:
                losses[TARGET_LOSS] = self._evaluation(run, TARGET_LOSS, setting.held_out)
            evaluated.extend(evaluations.values())
            measured.extend(losses.values())
            self._condition(GRID, setting_name, method, seed, rate, amount, run, evaluations | losses)
        self._evaluated(GRID, setting_name, f"{setting_name}/{method}-seed{seed}", trained, evaluated)
        self._evaluated(LOSSES, setting_name, f"{setting_name}/{method}-losses-seed{seed}", trained, measured)

    def _swept_family(self, setting_name: str, method: str, seed: int, cells: Sequence[tuple[float, int]]) -> None:
        """The conditions of a sweep, asked the validation items in one job and the test items in another.

        Two jobs, so that rates are chosen without a test item being looked at.
        """
        assert self.study.sweep is not None
        learning = self.study.settings[setting_name].learning
        place = f"{setting_name}/{method}-sweep-seed{seed}"
        runs, trained = self._trained(setting_name, method, seed, cells, place)
        tested: list[Product] = []
        validated: list[Product] = []
        for run, (rate, amount) in zip(runs, cells, strict=True):
            evaluations = self._benchmarks(run, {learning})
            tested.extend(evaluations.values())
            validated.append(self._evaluation(run, learning, self.study.sweep.validation[learning]))
            evaluations[VALIDATION] = validated[-1]
            self._condition(SWEEP, setting_name, method, seed, rate, amount, run, evaluations)
        self._evaluated(SWEEP, setting_name, place, trained, tested)
        place = f"{setting_name}/{method}-validation-seed{seed}"
        self._evaluated(VALIDATION, setting_name, place, trained, validated)

    def _trained(
        self, setting_name: str, method: str, seed: int, cells: Sequence[tuple[float, int]], place: str
    ) -> tuple[list[Product], Product]:
        """The run of every cell, and the product that stands for all of them at family grain."""
        setting = self.study.settings[setting_name]
        runs: list[Product] = []
        members: dict[str, Product] = {}
        for rate, amount in cells:
            legs: list[Product] = []
            if isinstance(setting, ContinuedPretraining):
                run, legs = self._branch(setting_name, setting, method, seed, rate, amount)
            else:
                run = self._epochs(setting_name, setting, method, seed, rate, amount)
            runs.append(run)
            members |= {product.key: product for product in [*legs, run]}
        spec = {"kind": "trained", "members": sorted(run.key for run in runs)}
        rows = self.rows(setting_name, seed)
        return runs, self._add(f"families/trained/{place}", spec, self.model, rows, members=tuple(members))

    def _condition(
        self,
        block: str,
        setting_name: str,
        method: str,
        seed: int,
        rate: float,
        amount: int,
        run: Product,
        evaluations: Mapping[str, Product],
    ) -> None:
        is_cpt = isinstance(self.study.settings[setting_name], ContinuedPretraining)
        self.blocks[block].append(
            Condition(
                setting=setting_name,
                method=method,
                seed=seed,
                duration=format_tokens(amount) if is_cpt else str(amount),
                amount=amount,
                learning_rate=rate,
                product=run.key,
                evaluations={task: product.key for task, product in evaluations.items()},
            )
        )

    def _evaluated(
        self, block: str, setting_name: str, place: str, trained: Product | None, evaluations: Iterable[Product]
    ) -> None:
        """One job for `evaluations`, apart from what other artifacts need; none where there are none."""
        evaluations = list(evaluations)
        if not evaluations:
            return
        inputs = dict.fromkeys(
            self.products[key]
            for evaluation in evaluations
            for key in evaluation.inputs
            if trained is None or not key.startswith("runs/")
        )
        product = self._add(
            f"families/evaluated/{place}",
            {"kind": "evaluated", "members": sorted(product.key for product in evaluations)},
            *([trained] if trained else []),
            *inputs,
            members=tuple(product.key for product in evaluations),
        )
        self.families.append(Family(block, setting_name, product.key))

    # -- artifacts ----------------------------------------------------------------------------

    @cached_property
    def card(self) -> Product:
        """What artifacts say of the study itself. An input of every CSV, so that a new title redraws."""
        study = self.study
        settings = {
            name: {"label": setting.label, "regime": setting.regime, "learning": setting.learning}
            for name, setting in study.settings.items()
        }
        spec = {
            "kind": "card",
            "study": self.name,
            "title": study.title,
            "scale": study.scale,
            "model": study.model.label,
            "settings": settings,
        }
        return self._add(f"studies/{self.name}", spec)

    def conditions(self, block: str, setting: str | None = None) -> list[Condition]:
        """The base model and the conditions of a block, ``grid`` or ``sweep``; in one setting where it is given."""
        return [*self.blocks[BASE], *(c for c in self.blocks[block] if setting in (None, c.setting))]

    def tasks(self, condition: Condition, needs: Sequence[str], setting: str | None = None) -> list[str]:
        """What an artifact that needs ``learning``, ``forgetting``, ... reads of a condition's evaluations.

        Of the base model it is what the artifact's setting asks, or all settings together.
        """
        settings = [setting or condition.setting] if setting or condition.setting else list(self.study.settings)
        wanted: list[str] = []
        for need in needs:
            if need == "forgetting":
                wanted += self.study.evaluation.forgetting
            elif need == "learning":
                wanted += sorted({self.study.settings[name].learning for name in settings})
            elif need == TARGET_LOSS and condition.method == BASE:
                wanted += [f"{TARGET_LOSS}@{name}" for name in settings]
            else:
                wanted.append(need)
        return list(dict.fromkeys(wanted))

    def lack(self, needs: Sequence[str], block: str, setting: str | None = None) -> str | None:
        """Why the study does not have such an artifact, in one sentence; None where it does."""
        study = self.study
        if setting is not None and setting not in study.settings:
            return f"study {self.name!r} has no setting {setting!r}; it has {', '.join(study.settings)}"
        settings = {name: value for name, value in study.settings.items() if setting in (None, name)}
        if block == SWEEP and not any(value.sweep for value in settings.values()):
            return f"study {self.name!r} has no sweep over learning rates"
        if SOURCE_LOSS in needs and not study.evaluation.held_out:
            return f"study {self.name!r} has no records for the source loss (evaluation.held_out)"
        for name, value in settings.items():
            if TARGET_LOSS in needs and not value.held_out:
                return f"study {self.name!r} has no records for the target loss (settings.{name}.held_out)"
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
        for name, value in self.study.settings.items():
            missing = [method for method in self.study.methods if method not in value.learning_rates]
            if block == GRID and setting in (None, name) and missing:
                raise UserError(
                    f"settings.{name} of study {self.name!r} has no learning rate for {', '.join(missing)}: "
                    "`snakemake results/learning_rates.yaml` runs the sweep that chooses it, and "
                    "`python -m scripts.study.accept_rates` takes the choice over"
                )

    def artifact_manifests(self, needs: Sequence[str], block: str, setting: str | None, store: str) -> list[str]:
        """The manifests that an artifact's CSV is made from, at the study's grain.

        Raises:
            UserError: see `require`.
        """
        self.require(needs, block, setting)
        if self.study.grain == "family":
            losses = {SOURCE_LOSS, TARGET_LOSS}
            benchmarks = set() if losses.issuperset(needs) else {BASE, block}
            wanted = benchmarks | ({LOSSES} if losses.intersection(needs) else set())
            settings = {"", *(name for name in self.study.settings if setting in (None, name))}
            made = [f.evaluated for f in self.families if f.block in wanted and f.setting in settings]
        else:
            conditions = self.conditions(block, setting)
            made = [c.evaluations[task] for c in conditions for task in self.tasks(c, needs, setting)]
        return [f"{store}/{key}.json" for key in [self.card.key, *sorted(made)]]

    def validation_manifests(self, store: str) -> list[str]:
        """The manifests that learning rates are chosen from, at the study's grain.

        Raises:
            UserError: the study has no sweep.
        """
        self.require((), SWEEP)
        if self.study.grain == "family":
            made = [family.evaluated for family in self.families if family.block == VALIDATION]
        else:
            made = [condition.evaluations[VALIDATION] for condition in self.blocks[SWEEP]]
        return [f"{store}/{key}.json" for key in sorted(made)]

    def _versions(self, *names: str) -> dict[str, int]:
        return {name: self.versions[name] for name in names}

    def _add(self, name: str, spec: dict[str, Any], *inputs: Product, members: tuple[str, ...] = ()) -> Product:
        key = f"{name}-{fingerprint(spec)}"
        if key not in self.products:
            self.products[key] = Product(key, spec, tuple(product.key for product in inputs), members)
        return self.products[key]

    def __iter__(self) -> Iterator[Product]:
        return iter(self.products.values())
