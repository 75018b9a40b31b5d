"""The grid of a study: its conditions, and the spec, name and inputs of every product.

A product's key is its place in the store without ``.json``: ``runs/code-cpt/lora-r4/64K-seed0-3f2a9c0d1e5b``.
It ends in the fingerprint of its spec. Inputs are keys too, and a function of the product's own key and spec alone
(which is why what a study calls its datasets stands in no key: renaming one must not move what is made of it).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    product: str
    """Key of the run, or of the base model."""
    evaluations: Mapping[str, str]
    """Task to the evaluation's key."""


@dataclass(frozen=True)
class Family:
    """What one job trains and one job evaluates at family grain."""

    trained: str | None
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
    conditions: list[Condition] = field(default_factory=list, init=False)
    families: list[Family] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        tasks: list[str] = list(self.study.evaluation.forgetting)
        learning = {setting.learning for setting in self.study.settings.values()}
        self._base_family([*tasks, *sorted(learning - set(tasks))])
        for setting_name, setting in self.study.settings.items():
            wanted = [*tasks, *({setting.learning} - set(tasks))]
            for method in self.study.methods:
                for seed in self.study.seeds:
                    if isinstance(setting, ContinuedPretraining):
                        runs = self._branches(setting_name, setting, method, seed)
                    else:
                        runs = self._epochs(setting_name, setting, method, seed)
                    self._family(setting_name, method, seed, runs, wanted)

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

    def _recipe(self, setting_name: str, method: str, seed: int, rows: Product) -> dict[str, Any]:
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
                "learning_rate": setting.learning_rates[method],
                "weight_decay": setting.weight_decay,
            },
            "precision": self.study.precision,
            "seed": seed,
            "versions": self._versions("trainer"),
        }

    def _branches(
        self, setting_name: str, setting: ContinuedPretraining, method: str, seed: int
    ) -> list[tuple[Product, list[Product], int]]:
        """CPT: for each duration its run, the legs that lead to it, and the duration in tokens."""
        rows = self.rows(setting_name, seed)
        trunk = {
            **self._recipe(setting_name, method, seed, rows),
            "warmup_batches": setting.warmup_batches,
            "first_leg": setting.batches(setting.first_leg),
        }
        place = f"{setting_name}/{method}"
        runs = []
        for tokens in setting.durations:
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
            run = self._add(f"runs/{place}/{label}", spec, self.model, rows, *legs[-1:])
            runs.append((run, legs, tokens))
        return runs

    def _epochs(
        self, setting_name: str, setting: InstructionFinetuning, method: str, seed: int
    ) -> list[tuple[Product, list[Product], int]]:
        """IFT: for each duration its run (no legs) and the duration in epochs."""
        rows = self.rows(setting_name, seed)
        runs: list[tuple[Product, list[Product], int]] = []
        for epochs in setting.durations:
            spec = {
                "kind": "run",
                **self._recipe(setting_name, method, seed, rows),
                "warmup_fraction": setting.warmup_fraction,
                "final_fraction": setting.final_fraction,
                "epochs": epochs,
            }
            run = self._add(f"runs/{setting_name}/{method}/{epochs}-seed{seed}", spec, self.model, rows)
            runs.append((run, [], epochs))
        return runs

    # -- evaluation ---------------------------------------------------------------------------

    def _evaluation(self, subject: Product, task: str) -> Product:
        settings = getattr(self.study.evaluation.tasks, task).model_dump()
        records = self.records(settings.pop("dataset"))
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

    def _base_family(self, tasks: list[str]) -> None:
        evaluations = {task: self._evaluation(self.model, task) for task in tasks}
        self.conditions.append(
            Condition(
                setting="",
                method=BASE,
                seed=0,
                duration="",
                amount=0,
                product=self.model.key,
                evaluations={task: product.key for task, product in evaluations.items()},
            )
        )
        place = f"{BASE}/{self.model.key.removeprefix('models/')}"
        self.families.append(Family(None, self._evaluated(place, None, list(evaluations.values())).key))

    def _family(
        self,
        setting_name: str,
        method: str,
        seed: int,
        runs: list[tuple[Product, list[Product], int]],
        tasks: list[str],
    ) -> None:
        is_cpt = isinstance(self.study.settings[setting_name], ContinuedPretraining)
        evaluated: list[Product] = []
        members: dict[str, Product] = {}
        for run, legs, amount in runs:
            evaluations = {task: self._evaluation(run, task) for task in tasks}
            evaluated.extend(evaluations.values())
            members |= {product.key: product for product in [*legs, run]}
            self.conditions.append(
                Condition(
                    setting=setting_name,
                    method=method,
                    seed=seed,
                    duration=format_tokens(amount) if is_cpt else str(amount),
                    amount=amount,
                    product=run.key,
                    evaluations={task: product.key for task, product in evaluations.items()},
                )
            )
        place = f"{setting_name}/{method}-seed{seed}"
        trained = self._add(
            f"families/trained/{place}",
            {"kind": "trained", "members": sorted(run.key for run, _, _ in runs)},
            self.model,
            self.rows(setting_name, seed),
            members=tuple(members),
        )
        self.families.append(Family(trained.key, self._evaluated(place, trained, evaluated).key))

    def _evaluated(self, place: str, trained: Product | None, evaluations: list[Product]) -> Product:
        inputs = dict.fromkeys(
            self.products[key]
            for evaluation in evaluations
            for key in evaluation.inputs
            if trained is None or not key.startswith("runs/")
        )
        return self._add(
            f"families/evaluated/{place}",
            {"kind": "evaluated", "members": sorted(product.key for product in evaluations)},
            *([trained] if trained else []),
            *inputs,
            members=tuple(product.key for product in evaluations),
        )

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

    def tasks(self, condition: Condition, needs: Sequence[str]) -> list[str]:
        """The tasks that an artifact needing ``learning`` and/or ``forgetting`` reads of a condition."""
        wanted: list[str] = []
        if "forgetting" in needs:
            wanted += self.study.evaluation.forgetting
        if "learning" in needs:
            settings = self.study.settings.values()
            wanted += sorted(
                {setting.learning for setting in settings}
                if condition.method == BASE
                else {self.study.settings[condition.setting].learning}
            )
        return list(dict.fromkeys(wanted))

    # -- look-ups -----------------------------------------------------------------------------

    def find(self, name: str) -> Product:
        """The product called `name`: a key, or a key without its fingerprint or its leading ``runs/``.

        Raises:
            UserError: the study has no such product.
        """
        if name in self.products:
            return self.products[name]
        found = [p for p in self.products.values() if p.name in (name, f"runs/{name}")]
        if not found:
            places = ", ".join(sorted(c.product for c in self.conditions)[:3])
            raise UserError(f"study {self.name!r} has no product {name!r}; it has, among others, {places}")
        return found[0]

    def manifests(self, place: str, store: str) -> Callable[[Any], list[str]]:
        """For a rule that fills `place`: wildcards with a `key` to the manifests that its job reads."""
        return lambda wildcards: [f"{store}/{key}.json" for key in self.find(f"{place}/{wildcards.key}").inputs]

    def artifact_manifests(self, needs: Sequence[str], store: str) -> list[str]:
        """The manifests that an artifact's CSV is made from, at the study's grain."""
        if self.study.grain == "family":
            made = [family.evaluated for family in self.families]
        else:
            made = [c.evaluations[task] for c in self.conditions for task in self.tasks(c, needs)]
        return [f"{store}/{key}.json" for key in [self.card.key, *sorted(made)]]

    def _versions(self, *names: str) -> dict[str, int]:
        return {name: self.versions[name] for name in names}

    def _add(self, name: str, spec: dict[str, Any], *inputs: Product, members: tuple[str, ...] = ()) -> Product:
        key = f"{name}-{fingerprint(spec)}"
        if key not in self.products:
            self.products[key] = Product(key, spec, tuple(product.key for product in inputs), members)
        return self.products[key]

    def __iter__(self) -> Iterator[Product]:
        return iter(self.products.values())
