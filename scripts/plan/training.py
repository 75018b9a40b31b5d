"""Legs, runs, published checkpoints and the benchmark of speed."""

from collections.abc import Mapping
from dataclasses import dataclass

from scripts.common.quantities import format_tokens
from scripts.components.models.hub import ModelEntry
from scripts.components.optimizers import AnyOptimizer
from scripts.components.part import unusual
from scripts.plan import specs
from scripts.plan.data import Data
from scripts.plan.product import Catalogue, Product
from scripts.study import datalock
from scripts.study.schema import ContinuedPretraining, InstructionFinetuning, Study


@dataclass(frozen=True)
class Change:
    """In what a condition differs from its setting and its method; None: in nothing."""

    weight_decay: float | None = None
    attention_dropout: float | None = None
    optimizer: AnyOptimizer | None = None

    @property
    def words(self) -> list[str]:
        """As figures call it: `weight decay 5e-05`, `AdamW`."""
        found = []
        if self.weight_decay is not None:
            found.append(f"weight decay {self.weight_decay:g}")
        if self.attention_dropout is not None:
            found.append(f"attention dropout {self.attention_dropout:g}")
        if self.optimizer is not None:
            found.append(self.optimizer.label)
        return found

    @property
    def suffix(self) -> str:
        """What stands behind the method in a path; empty where there is no change."""
        return "".join(f"-{word.lower().replace(' ', '-')}" for word in self.words)


UNCHANGED = Change()


@dataclass(frozen=True)
class MethodFamily:
    """What the conditions of a family have in common: they differ in learning rate and duration alone."""

    setting: str
    method: str
    seed: int
    change: Change = UNCHANGED

    @property
    def place(self) -> str:
        """The directory of its products: ``code-cpt/lora-r4-weight-decay-0.001``."""
        return f"{self.setting}/{self.method}{self.change.suffix}"


class Training:
    """What a study trains."""

    def __init__(self, study: Study, catalogue: Catalogue, data: Data) -> None:
        self._study = study
        self._catalogue = catalogue
        self._data = data

    def run(self, family: MethodFamily, rate: float, amount: int) -> tuple[Product, list[Product]]:
        """The run of a duration, and the legs that lead to it.

        Args:
            rate: peak learning rate.
            amount: tokens (CPT) or epochs (IFT).
        """
        setting = self._study.settings[family.setting]
        if isinstance(setting, ContinuedPretraining):
            return self._branch(setting, family, rate, amount)
        return self._epochs(setting, family, rate, amount)

    def _branch(
        self, setting: ContinuedPretraining, family: MethodFamily, rate: float, tokens: int
    ) -> tuple[Product, list[Product]]:
        recipe, first_leg = self._recipe(family, rate), setting.batches(setting.first_leg)
        batches = setting.batches(tokens)
        cooldown = round(setting.cooldown * batches)
        legs: list[Product] = []
        end = first_leg
        while end <= batches - cooldown:
            tokens_then = format_tokens(end * setting.batch_tokens)
            label = f"{end}-batches" if tokens_then.isdigit() else tokens_then
            trunk = specs.Trapezoid(setting.warmup_batches, first_leg)
            legs.append(self._add(family, specs.Trained("leg", recipe, trunk, end), label, legs))
            end *= 2
        schedule = specs.Trapezoid(setting.warmup_batches, first_leg, cooldown, **unusual(setting, "short_branch"))
        spec = specs.Trained("run", recipe, schedule, batches)
        return self._add(family, spec, format_tokens(tokens), legs), legs

    def _epochs(
        self, setting: InstructionFinetuning, family: MethodFamily, rate: float, epochs: int
    ) -> tuple[Product, list[Product]]:
        recipe = self._recipe(family, rate)
        whole = max(setting.durations) if setting.hot else None
        schedule = specs.Cosine(setting.warmup_fraction, setting.final_fraction, whole)
        legs: list[Product] = []
        for end in sorted(setting.durations)[:-1] if setting.hot else ():
            if end <= epochs:
                legs.append(self._add(family, specs.Trained("leg", recipe, schedule, end), str(end), legs))
        return self._add(family, specs.Trained("run", recipe, schedule, epochs), str(epochs), legs), legs

    def _add(self, family: MethodFamily, spec: specs.Trained, label: str, legs: list[Product]) -> Product:
        name = f"{spec.kind}s/{family.place}/{label}-seed{family.seed}"
        rows = self._data.rows(family.setting, family.seed)
        return self._catalogue.add(name, spec.spec(), self._data.model, rows, *legs[-1:])

    def _recipe(self, family: MethodFamily, rate: float) -> specs.Recipe:
        setting, change = self._study.settings[family.setting], family.change
        optimizer = change.optimizer or self._study.optimizer
        decay = setting.weight_decay if change.weight_decay is None else change.weight_decay
        dropout = change.attention_dropout
        return specs.Recipe(
            model=self._data.model.fingerprint,
            rows=self._data.rows(family.setting, family.seed).fingerprint,
            method=self._study.methods[family.method].spec(),
            optimizer={**optimizer.model_dump(), "learning_rate": rate, "weight_decay": decay},
            precision=self._study.precision,
            seed=family.seed,
            versions=specs.versions("run", self._catalogue.versions),
            # a row draws for itself; what was trained under the bare rate drew for all rows of a pass together
            attention_dropout=None if dropout is None else {"rate": dropout, "drawn_by": "row"},
            **unusual(setting, "attention", "loss", "lag"),
        )

    def published(self, setting_name: str, method: str, amount: int) -> Product:
        """A checkpoint that the paper's authors published: a branch of a repository."""
        setting = self._study.settings[setting_name]
        repository = setting.published[method]
        identity = ModelEntry.key(repository)
        commits: Mapping[str, str] = self._catalogue.entry(identity).get("branches", {})
        branches = datalock.resolve_branches(repository, commits, setting.durations, setting.regime)
        branch = branches.get(amount)
        shape = self._study.model.shape
        spec = {
            "kind": "published",
            "repository": repository,
            "branch": branch,
            "revision": commits[branch] if branch else None,
            "duration": amount,
            "model": self._data.model.fingerprint,
            "architecture": shape.model_dump() if shape else None,
            "method": self._study.methods[method].spec(),
        }
        named = f"{identity} (branch of {datalock.duration_text(amount, setting.regime)})"
        name = f"published/{setting_name}/{method}/{setting.duration_label(amount)}"
        return self._catalogue.add_outside(name, spec, named, self._data.model, locked=branch is not None)

    def throughput(self) -> dict[str, Product]:
        """The benchmark of training speed by method; empty where the study has none."""
        benchmark = self._study.throughput
        if benchmark is None:
            return {}
        made = {}
        for method in benchmark.methods:
            spec = {
                "kind": "throughput",
                "model": self._data.model.fingerprint,
                "method": self._study.methods[method].spec(),
                "optimizer": self._study.optimizer.model_dump(),
                "precision": self._study.precision,
                **benchmark.model_dump(exclude={"methods"}),
                "versions": specs.versions("throughput", self._catalogue.versions),
            }
            made[method] = self._catalogue.add(f"throughput/{method}", spec, self._data.model)
        return made
