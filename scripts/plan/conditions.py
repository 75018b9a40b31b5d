"""The conditions of a study by block, and the families whose jobs make them at family grain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scripts.components.measures import FORGETTING, LEARNING, SPECTRA, TARGET_LOSS
from scripts.plan.data import Data
from scripts.plan.evaluation import BASE, LOSSES, Measurements, groups, labels
from scripts.plan.product import Catalogue, Key, Product
from scripts.plan.training import UNCHANGED, Change, MethodFamily, Training
from scripts.study.schema import Cell, Study

GRID = "grid"
SWEEP = "sweep"
VALIDATION = "validation"


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
    product: Key
    """Key of the run, of the published checkpoint, or of the base model."""
    evaluations: Mapping[str, Key]
    """What is measured to its product's key: a task, ``source_loss``, ``target_loss`` (of the base model
    ``target_loss@SETTING``, one for each setting), ``spectra``, and in a sweep ``validation``, by which its rule
    chooses: by the rule of held-out losses that is the target loss."""
    change: Change = UNCHANGED

    @property
    def is_base(self) -> bool:
        return self.method == BASE

    @property
    def is_published(self) -> bool:
        """Whether its model is the authors' checkpoint."""
        return self.product.kind == "published"


class Conditions:
    """All conditions of a study, computed at once.

    Attributes:
        blocks: ``base``: the base model. ``grid``: the conditions of figures 1 to 3. ``sweep``: every learning rate of
            the sweep. And the study's own blocks.
        outside_sweep: keys of the products that are not the sweep's alone.
    """

    def __init__(self, study: Study, catalogue: Catalogue, data: Data, training: Training) -> None:
        self._study = study
        self._catalogue = catalogue
        self._data = data
        self._training = training
        self._measurements = Measurements(study, catalogue, data)
        self._made_by: dict[tuple[str, Key], Key] = {}
        """(``sweep`` or empty, a run's or evaluation's key) to the family whose job makes it at family grain."""
        self.blocks: dict[str, list[Condition]] = {BASE: [], GRID: [], SWEEP: [], **{name: [] for name in study.blocks}}
        self._base()
        for main in study.main_settings:
            self._cell(GRID, Cell(setting=main), [LEARNING, FORGETTING, LOSSES])
        # in an order of their own: which family makes what two blocks share must not depend on the order of keys
        for name in sorted(study.blocks):
            for cell in study.blocks[name].cells:
                self._cell(name, cell, study.blocks[name].measures)
        self.throughput: dict[str, Key] = {method: made.key for method, made in training.throughput().items()}
        """The benchmark of training speed: method to its product's key; empty where the study has none."""
        self.outside_sweep = set(catalogue.products)
        for name, setting in study.settings.items():
            if setting.sweep and study.sweep:
                for method, rates in setting.sweep.learning_rates.items():
                    for seed in study.sweep.seeds:
                        points = [(rate, setting.sweep.duration) for rate in rates]
                        self._swept(MethodFamily(name, method, seed), points)

    def makers(self, block: str, keys: Iterable[Key]) -> list[Key]:
        """What the jobs of a study write so that these products of a block's conditions are there, at its grain."""
        if self._study.grain == "condition":
            return sorted(set(keys))
        where = SWEEP if block == SWEEP else ""
        # the base model's are made for all blocks together
        return sorted({self._made_by.get((where, key)) or self._made_by.get(("", key), key) for key in keys})

    def _base(self) -> None:
        blocks = self._study.blocks.values()
        measures = dict.fromkeys([FORGETTING, LEARNING, LOSSES, *(m for block in blocks for m in block.measures)])
        model = self._data.model
        grouped = groups(self._study, measures, self._study.settings, of_base=True)
        evaluations = {label: self._measurements.of(model, label) for label in grouped}
        self.blocks[BASE].append(
            Condition(
                setting="",
                method=BASE,
                seed=0,
                duration="",
                amount=0,
                learning_rate=None,
                product=model.key,
                evaluations={label: product.key for label, product in evaluations.items()},
            )
        )
        made = [(grouped[label], product) for label, product in evaluations.items()]
        self._evaluated("", f"{BASE}/{model.key.within}{{}}", made)

    def _cell(self, block: str, cell: Cell, measures: Sequence[str]) -> None:
        """The conditions of a cell, for every seed. One that stood in an earlier block is the same condition."""
        study = self._study
        setting = study.settings[cell.setting]
        change = Change(
            weight_decay=None if cell.weight_decay == setting.weight_decay else cell.weight_decay,
            attention_dropout=cell.attention_dropout,
            optimizer=None if cell.optimizer == study.optimizer else cell.optimizer,
        )
        for method in cell.methods or study.main_methods:
            own = setting.learning_rates.get(method)
            # a method without a rate is one whose sweep has not chosen yet: see `scripts.plan.artifacts.require`
            rates = cell.learning_rates or ([own] if own else [])
            durations = cell.durations or setting.durations
            if method in setting.published:
                self._published(block, MethodFamily(cell.setting, method, 0), durations, own, measures)
                continue
            for seed in study.seeds:
                if points := [(rate, amount) for rate in rates for amount in durations]:
                    self._family(block, MethodFamily(cell.setting, method, seed, change), points, measures)

    def _family(
        self, block: str, family: MethodFamily, points: Sequence[tuple[float, int]], measures: Sequence[str]
    ) -> None:
        """The conditions of a family at points of learning rate and duration."""
        name = family.place + ("" if block == GRID else f"-{block}")
        made: list[tuple[str, Product]] = []
        runs = self._trained("", family, points, f"{name}-seed{family.seed}")
        for run, (rate, amount) in zip(runs, points, strict=True):
            made += self._measured(block, family, rate, amount, run, measures)
        self._evaluated("", f"{name}{{}}-seed{family.seed}", made)

    def _published(
        self, block: str, family: MethodFamily, durations: Sequence[int], rate: float | None, measures: Sequence[str]
    ) -> None:
        """The conditions whose models are the authors' checkpoints: of one seed that nobody names."""
        made: list[tuple[str, Product]] = []
        for amount in durations:
            checkpoint = self._training.published(family.setting, family.method, amount)
            made += self._measured(block, family, rate, amount, checkpoint, measures)
        self._evaluated("", f"{family.place}-{block}{{}}-published", made)

    def _swept(self, family: MethodFamily, points: Sequence[tuple[float, int]]) -> None:
        """The conditions of a sweep, asked what decides in one job and the test items in another.

        Two jobs, so that rates are chosen without a test item being looked at. They are apart from the grid's, which
        may be planned only once the sweep has chosen.
        """
        sweep = self._study.sweep
        assert sweep is not None
        learning = self._study.settings[family.setting].learning
        tested: list[tuple[str, Product]] = []
        validated: list[tuple[str, Product]] = []
        runs = self._trained(SWEEP, family, points, f"{family.place}-sweep-seed{family.seed}")
        for run, (rate, amount) in zip(runs, points, strict=True):
            asked = [
                label
                for measure in (FORGETTING, LEARNING)
                for label in labels(self._study, measure, [family.setting], of_base=False)
            ]
            evaluations = {label: self._measurements.of(run, label, family.setting) for label in dict.fromkeys(asked)}
            tested += [("", product) for product in evaluations.values()]
            if sweep.by_loss:
                evaluations[TARGET_LOSS] = self._measurements.of(run, TARGET_LOSS, family.setting)
                evaluations[VALIDATION] = evaluations[TARGET_LOSS]
            else:
                items = sweep.validation[learning]
                evaluations[VALIDATION] = self._measurements.evaluation(run, learning, family.setting, items)
            validated.append(("", evaluations[VALIDATION]))
            self._condition(SWEEP, family, rate, amount, run, evaluations)
        self._evaluated(SWEEP, f"{family.place}-sweep{{}}-seed{family.seed}", tested)
        self._evaluated(SWEEP, f"{family.place}-validation{{}}-seed{family.seed}", validated)

    def _measured(
        self, block: str, family: MethodFamily, rate: float | None, amount: int, run: Product, measures: Sequence[str]
    ) -> list[tuple[str, Product]]:
        """Adds a condition; returns what is measured of it, each with the group that it is made in."""
        grouped = groups(self._study, measures, [family.setting], of_base=False)
        evaluations = {label: self._measurements.of(run, label, family.setting) for label in grouped}
        self._condition(block, family, rate, amount, run, evaluations)
        return [(grouped[label], product) for label, product in evaluations.items()]

    def _condition(
        self,
        block: str,
        family: MethodFamily,
        rate: float | None,
        amount: int,
        run: Product,
        evaluations: Mapping[str, Product],
    ) -> None:
        self.blocks[block].append(
            Condition(
                setting=family.setting,
                method=family.method,
                seed=family.seed,
                duration=self._study.settings[family.setting].duration_label(amount),
                amount=amount,
                learning_rate=rate,
                product=run.key,
                evaluations={label: product.key for label, product in evaluations.items()},
                change=family.change,
            )
        )

    def _trained(
        self, where: str, family: MethodFamily, points: Sequence[tuple[float, int]], place: str
    ) -> list[Product]:
        """The run of every point. What no family trains yet becomes a family, at family grain one job."""
        runs: list[Product] = []
        legs_of: dict[Key, list[Product]] = {}
        for rate, amount in points:
            run, legs = self._training.run(family, rate, amount)
            runs.append(run)
            legs_of[run.key] = legs
        if new := [run for run in runs if (where, run.key) not in self._made_by]:
            members = dict.fromkeys(product.key for run in new for product in [*legs_of[run.key], run])
            spec = {"kind": "trained", "members": sorted(run.key for run in new)}
            rows = self._data.rows(family.setting, family.seed)
            made = self._catalogue.add(
                f"families/trained/{place}", spec, self._data.model, rows, members=tuple(members)
            )
            self._made_by.update({(where, run.key): made.key for run in new})
        return runs

    def _evaluated(self, where: str, place: str, made: Iterable[tuple[str, Product]]) -> None:
        """One family for each group of measurements that no family makes yet; `{}` in `place` stands for its name."""
        grouped: dict[str, list[Product]] = {}
        for group, product in made:
            if (where, product.key) not in self._made_by:
                grouped.setdefault(group, []).append(product)
        for group, products in grouped.items():
            # what a model writes is made by the job that judges it
            members = [one for product in products for one in [*self._samples_of(product), product]]
            inputs = dict.fromkeys(
                # at family grain a run is made by its family
                self._made_by.get((where, key), key)
                for member in members
                for key in member.inputs
                if key.kind != "samples"
            )
            kind = "decomposed" if group == SPECTRA else "evaluated"
            suffix = f"-{group.replace('_', '-')}" if group and kind == "evaluated" else ""
            family = self._catalogue.add(
                f"families/{kind}/{place.format(suffix)}",
                {"kind": kind, "members": sorted(product.key for product in products)},
                *(self._catalogue.products[key] for key in inputs),
                members=tuple(dict.fromkeys(member.key for member in members)),
            )
            self._made_by.update({(where, member.key): family.key for member in members})

    def _samples_of(self, evaluation: Product) -> list[Product]:
        return [self._catalogue.products[key] for key in evaluation.inputs_of("samples")]
