"""Differences between models that were asked the same items: estimates, standard errors, verdicts.

A statistic is any function of the models' mean scores. Two sources of chance are told apart:

Items. The delete-one jackknife (Efron and Stein 1981, "The jackknife estimate of variance", Annals of Statistics 9):
an item is left out for every model at once, so that models are compared item by item. Tasks are independent strata,
and the variances of strata add. For a difference of two means this is the standard error of a paired t test.

Seeds. The statistic is computed for each seed by itself; its sample variance over seeds, divided by their number, is
added. What one seed does with one item is then in both terms, so the sum errs on the wide side if at all.

Degrees of freedom of the sum: Welch-Satterthwaite (Satterthwaite 1946, "An approximate distribution of estimates of
variance components", Biometrics Bulletin 2), n - 1 for each task and S - 1 for the seeds.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

import numpy
from numpy.typing import NDArray
from scipy import stats

from scripts.plan.evaluation import BASE

FloatArray = NDArray[numpy.float64]
Arm = tuple[str, str, float]
"""Setting, method, duration, whatever the seed. The base model is (setting, "base", 0) in every setting."""
Measure = Literal["learning", "forgetting"]

ERROR = 0.05
"""How often, at most, a comparison may be judged wrongly in either direction."""
POWER = 0.80
MARGIN = 0.02
"""An advantage below this is not worth the claim."""
EQUAL = 0.05
"""Two scores that differ by less are about equal."""
NO_SPREAD = 1e-9
"""A standard error below this is one of nothing but rounding."""


@dataclass(frozen=True)
class Model:
    """One trained model, or the base model (`setting` empty), with its score on every item of every task.

    One that diverged has no scores.
    """

    setting: str
    method: str
    kind: str
    rank: int
    learning_task: str
    duration: str
    """As a reader would say it: `64K tokens`, `2 epochs`."""
    duration_value: float
    seed: int
    fingerprint: str
    scores: Mapping[str, FloatArray]
    """Task to the scores of its items, in the same order for every model."""
    diverged: bool = False
    role: str = ""
    """Domain and regime of its setting, as `code-cpt`; empty where the setting is called so."""


def _arm(model: Model) -> Arm:
    return model.setting, model.method, model.duration_value


class Means:
    """Mean scores of every arm, for any number of replicates at a time.

    Args:
        scores: whose means they are.
        by_task: task to shape (arms, replicates), or (arms, 1) for the same in each.
    """

    def __init__(self, scores: "ItemScores", by_task: Mapping[str, FloatArray]) -> None:
        self._scores = scores
        self._by_task = by_task

    def of(self, measure: Measure, arm: Arm) -> FloatArray:
        """Shape (replicates,): the mean on the learning task, or the plain mean of the forgetting tasks' means."""
        tasks = self._scores.tasks(measure, arm)
        row = self._scores.arms[arm]
        total = sum((self._by_task[task][row] for task in tasks), start=numpy.zeros(1))
        return total / len(tasks)


class Statistic(Protocol):
    """A number computed from mean scores of some arms."""

    @property
    def arms(self) -> Collection[Arm]: ...

    @property
    def measures(self) -> tuple[Measure, ...]: ...

    def __call__(self, means: Means) -> FloatArray:
        """Shape (replicates,)."""
        ...


class ItemScores:
    """Every model's score on every item, arranged by arm and seed.

    An arm with a model that diverged has no scores: the mean over the seeds that did not would be of the luckier ones.
    It is not among `models`; `trained` has a model of every trained arm, and `diverged` the arms that are so.

    Args:
        models: of every setting and seed; the base model once.
        forgetting: the tasks whose mean accuracy is the forgetting average.

    Raises:
        ValueError: a model is there twice, a seed of it is not, or models were asked different numbers of items.
    """

    def __init__(self, models: Collection[Model], forgetting: Sequence[str]) -> None:
        self._forgetting = tuple(forgetting)
        trained = [model for model in models if model.kind != BASE]
        self._learning = {model.setting: model.learning_task for model in trained}
        self.seeds = tuple(sorted({model.seed for model in trained}))
        self.trained: dict[Arm, Model] = {}
        for model in trained:
            self.trained.setdefault(_arm(model), model)
        self.diverged = {_arm(model) for model in trained if model.diverged}
        self.models: dict[Arm, dict[int, Model]] = {}
        for model in (model for model in trained if _arm(model) not in self.diverged):
            place = self.models.setdefault(_arm(model), {})
            if model.seed in place:
                raise ValueError(f"{model.setting} {model.method} {model.duration} seed {model.seed} is there twice")
            place[model.seed] = model
        for base in (model for model in models if model.kind == BASE):
            # it was not trained, so no seed of it differs from another
            self.models |= {(s, BASE, 0.0): dict.fromkeys(self.seeds, base) for s in self._learning}
        for arm, by_seed in self.models.items():
            if set(by_seed) != set(self.seeds):
                raise ValueError(f"{arm} is not there for every seed")
        self.arms = {arm: row for row, arm in enumerate(self.models)}
        tasks = dict.fromkeys([*self._forgetting, *self._learning.values()])
        values = {task: self._stacked(task) for task in tasks}
        self.items = {task: scores.shape[2] for task, scores in values.items()}
        by_item = {task: scores.mean(axis=1) for task, scores in values.items()}
        self._means = {task: scores.mean(axis=1, keepdims=True) for task, scores in by_item.items()}
        self._by_seed = {task: scores.mean(axis=2) for task, scores in values.items()}
        self._left_out = {
            task: (scores.sum(axis=1, keepdims=True) - scores) / (self.items[task] - 1)
            for task, scores in by_item.items()
        }

    def _stacked(self, task: str) -> FloatArray:
        """Shape (arms, seeds, items); not a number where an arm is not asked the task."""
        asked = [arm for arm in self.arms if task in (*self._forgetting, self._learning[arm[0]])]
        rows = [[self.models[arm][seed].scores[task] for seed in self.seeds] for arm in asked]
        lengths = {len(scores) for row in rows for scores in row}
        if len(lengths) != 1 or min(lengths) < 2:
            raise ValueError(f"{task}: all models must be asked the same items, at least two, not {sorted(lengths)}")
        values = numpy.full((len(self.arms), len(self.seeds), lengths.pop()), numpy.nan)
        values[[self.arms[arm] for arm in asked]] = rows
        return values

    def means(self) -> Means:
        """Over all items and seeds; one replicate."""
        return Means(self, self._means)

    def means_by_seed(self) -> Means:
        """Over all items; a replicate for each seed."""
        return Means(self, self._by_seed)

    def means_without(self, task: str) -> Means:
        """Over all seeds; a replicate for each item of `task`, with that item left out for every model."""
        return Means(self, self._means | {task: self._left_out[task]})

    def tasks(self, measure: Measure, arm: Arm) -> tuple[str, ...]:
        """The tasks that are averaged."""
        return self._forgetting if measure == "forgetting" else (self._learning[arm[0]],)


@dataclass(frozen=True)
class Effect:
    """A statistic with its standard error."""

    value: float
    stderr_items: float
    stderr_seeds: float | None
    """None with one seed: then nothing is known of the spread over seeds."""
    df: float
    seeds: int
    items: int

    @property
    def stderr(self) -> float:
        return math.hypot(self.stderr_items, self.stderr_seeds or 0.0)

    def lower(self, level: float = ERROR) -> float:
        """One-sided lower confidence bound; too high with a probability of `level`."""
        return self.value - self._quantile(1 - level) * self.stderr

    def upper(self, level: float = ERROR) -> float:
        """One-sided upper confidence bound; too low with a probability of `level`."""
        return self.value + self._quantile(1 - level) * self.stderr

    @property
    def detectable(self) -> float:
        """The smallest true difference that a one-sided test at 5 % finds with a probability of 80 %."""
        return (self._quantile(1 - ERROR) + self._quantile(POWER)) * self.stderr

    def _quantile(self, probability: float) -> float:
        return float(stats.t.ppf(probability, self.df))


def estimate(scores: ItemScores, statistic: Statistic) -> Effect:
    """The statistic on all items and seeds, with its standard error; see the top of this module.

    Where the items show no spread at all, every one of n saying the same, a standard error of 0 would claim to know
    everything. It is then 2/n: the bounds lie about 3/n from the estimate, the rule of three (Hanley and
    Lippman-Hand 1983, "If nothing goes wrong, is everything all right?", JAMA 249).
    """
    tasks = {task for measure in statistic.measures for arm in statistic.arms for task in scores.tasks(measure, arm)}
    items = [scores.items[task] for task in sorted(tasks)]
    parts: list[tuple[float, int]] = []  # variance, degrees of freedom
    for task, n in zip(sorted(tasks), items, strict=True):
        replicates = statistic(scores.means_without(task))
        parts.append(((n - 1) / n * float(((replicates - replicates.mean()) ** 2).sum()), n - 1))
    if sum(variance for variance, _ in parts) < NO_SPREAD**2:
        parts = [((2 / min(items)) ** 2, min(items) - 1)]
    variance_items = sum(variance for variance, _ in parts)

    stderr_seeds = None
    if (count := len(scores.seeds)) > 1:
        parts.append((float(statistic(scores.means_by_seed()).var(ddof=1)) / count, count - 1))
        stderr_seeds = math.sqrt(parts[-1][0])
    total = sum(variance for variance, _ in parts)
    return Effect(
        value=float(statistic(scores.means())[0]),
        stderr_items=math.sqrt(variance_items),
        stderr_seeds=stderr_seeds,
        df=total**2 / sum(variance**2 / df for variance, df in parts),
        seeds=count,
        items=sum(items),
    )


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of one measure over arms."""

    measure: Measure
    weights: Mapping[Arm, float]

    @property
    def arms(self) -> Collection[Arm]:
        return self.weights.keys()

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (self.measure,)

    def __call__(self, means: Means) -> FloatArray:
        return sum((w * means.of(self.measure, arm) for arm, w in self.weights.items()), start=numpy.zeros(1))

    def __sub__(self, other: "Contrast") -> "Contrast":
        arms = dict.fromkeys([*self.weights, *other.weights])
        return Contrast(self.measure, {c: self.weights.get(c, 0.0) - other.weights.get(c, 0.0) for c in arms})


def mean_of(measure: Measure, arms: Collection[Arm]) -> Contrast:
    """The plain mean over arms; two of them subtracted are a difference."""
    return Contrast(measure, dict.fromkeys(arms, 1 / len(arms)))


@dataclass(frozen=True)
class EqualLearning:
    """How much more LoRA keeps than full finetuning had kept when it had learned as much.

    Full finetuning's path leads from the base model through its durations, straight from one to the next. Each
    LoRA model is compared with the place where the path first reaches the model's learning: forgetting average of
    the model minus that of the place; the mean over the models is the statistic. Where, in a replicate, the path does
    not reach that far, the place is where it has learned most.
    """

    compared: tuple[Arm, ...]
    path: tuple[tuple[Arm, ...], ...]
    """The base model, then full finetuning at each duration (the mean, where there are several such methods)."""

    @property
    def arms(self) -> Collection[Arm]:
        return [*self.compared, *(arm for place in self.path for arm in place)]

    @property
    def measures(self) -> tuple[Measure, ...]:
        return ("learning", "forgetting")

    def __call__(self, means: Means) -> FloatArray:
        learned, kept = (
            [mean_of(measure, place)(means) for place in self.path] for measure in ("learning", "forgetting")
        )
        differences = [
            means.of("forgetting", arm) - kept_when_reached(means.of("learning", arm), learned, kept)
            for arm in self.compared
        ]
        return sum(differences, start=numpy.zeros(1)) / len(differences)


def equal_learning(
    scores: ItemScores, adapters: Collection[Sequence[Arm]], path: tuple[tuple[Arm, ...], ...]
) -> EqualLearning | None:
    """The comparison at equal learning; None where no model can be compared.

    Both sides stop in time. Of full finetuning that is the *first* place that reaches a learning; so a LoRA model is
    compared if it has learned more than the base model and every shorter training of its own method. And it must
    not have learned more than full finetuning ever does. Which models these are is decided once, on all items and
    seeds, so that leaving out an item moves the statistic a little and never by a whole model.

    Args:
        scores: of all models.
        adapters: for each LoRA method its arms, in order of duration.
        path: see `EqualLearning`.
    """
    means = scores.means()
    learned = [float(mean_of("learning", place)(means)[0]) for place in path]
    compared = []
    for arms in adapters:
        best = learned[0]
        for arm in arms:
            level = float(means.of("learning", arm)[0])
            if best < level <= max(learned):
                compared.append(arm)
            best = max(best, level)
    return EqualLearning(tuple(compared), path) if compared else None


def kept_when_reached(level: FloatArray, learned: Sequence[FloatArray], kept: Sequence[FloatArray]) -> FloatArray:
    """What a path has kept where it first reaches `level`.

    Args:
        level: shape (replicates,), or (1,) for the same in each.
        learned, kept: the path's places in order, each of such a shape.
    """
    level, *places = numpy.broadcast_arrays(level, *learned, *kept)
    x, y = numpy.array(places[: len(learned)]), numpy.array(places[len(learned) :])
    result: FloatArray = numpy.take_along_axis(y, x.argmax(axis=0)[None], axis=0)[0]
    missing = numpy.ones(level.shape, dtype=bool)
    for place in range(len(x)):
        here = missing & (level <= x[place])
        if place == 0:
            result[here] = y[0, here]
        else:
            # the place before is below the level, or it would have been reached there
            share = (level[here] - x[place - 1, here]) / (x[place, here] - x[place - 1, here])
            result[here] = y[place - 1, here] + share * (y[place, here] - y[place - 1, here])
        missing &= ~here
    return result


class Verdict(StrEnum):
    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "cannot be said"


def judge_more(estimate: Effect, level: float = ERROR) -> Verdict:
    """Is the difference above 0? It fails where it is surely below `MARGIN`.

    Args:
        estimate: the difference, in the claim's direction.
        level: of the test that it fails: 5 % divided by the number of comparisons of the claim.
    """
    if estimate.lower() > 0:
        return Verdict.HOLDS
    return Verdict.FAILS if estimate.upper(level) < MARGIN else Verdict.OPEN


def judge_equal(estimate: Effect, level: float = ERROR) -> Verdict:
    """Is the difference within `EQUAL` of 0? It fails where it is surely further away; `level` as in `judge_more`.

    Two one-sided tests: Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach
    for assessing the equivalence of average bioavailability", J. Pharmacokinetics and Biopharmaceutics 15.
    """
    if estimate.lower() > -EQUAL and estimate.upper() < EQUAL:
        return Verdict.HOLDS
    outside = estimate.lower(level) > EQUAL or estimate.upper(level) < -EQUAL
    return Verdict.FAILS if outside else Verdict.OPEN


def judge_all(verdicts: Collection[Verdict]) -> Verdict:
    """The verdict on a claim of several comparisons.

    It holds where all hold, which needs no correction (intersection-union test: Berger 1982, "Multiparameter
    hypothesis testing and acceptance sampling", Technometrics 24), and fails where one fails.
    """
    if all(verdict is Verdict.HOLDS for verdict in verdicts):
        return Verdict.HOLDS
    return Verdict.FAILS if Verdict.FAILS in verdicts else Verdict.OPEN
