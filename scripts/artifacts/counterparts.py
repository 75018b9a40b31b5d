"""The paper's printed scores and their counterparts in a study: which are comparable, their errors, the verdicts.

A printed score has a counterpart in the study where that has a model of the same setting, method (rank, and alpha and
modules where the paper says them) and duration. The rule:

    agrees    |ours - published| <= 2 sqrt(e^2 + f^2), with e the published score's standard error and f ours
    differs   otherwise
    not run   no counterpart, not evaluated yet, or training diverged; so is everything in a demo, and with another base
              model

e is what the size of the evaluation implies, since the paper prints none: sqrt(p (1 - p) / n) for a score p on n items;
for the forgetting average, of which only the mean p is printed, the plain average of three such errors; where the paper
does not say how many items (MMLU, MT-bench) it is taken to be f. f is that of the evaluation: over seeds the scores'
mean has the mean variance over items (all seeds are asked the same ones) plus the variance over seeds divided by their
number. Two measurements of one truth differ in about one case of twenty.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from scripts.artifacts.printed import FORGETTING_ITEMS, ITEMS, MODULES
from scripts.artifacts.published import MEMORY, PublishedValue
from scripts.components.measures import FORGETTING
from scripts.evaluation.scores import plain_average
from scripts.launch.launch import Launch
from scripts.plan.conditions import SWEEP, Condition
from scripts.plan.evaluation import BASE
from scripts.plan.training import Change
from scripts.study.schema import Study

WIDTH = 2.0
"""How many combined standard errors a difference may have."""
FALSE = math.erfc(WIDTH / math.sqrt(2))
"""The share of differences that are larger by chance, where there is none."""
MODEL = "Llama-2-7B"
UNPLANNED, PENDING, DIVERGED = "the study has no such model", "not evaluated yet", "training diverged"


class Agreement(StrEnum):
    AGREES = "agrees"
    DIFFERS = "differs"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Score:
    """What the study found: a mean over its seeds, its standard error, the items behind it.

    `source` is `trained` here, or `published` where the model is the authors' checkpoint.
    """

    value: float
    stderr: float
    items: int
    seeds: int = 1
    source: str = "trained"
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """A printed score and its counterpart; `reason` says why there is none."""

    published: PublishedValue
    ours: Score | None
    reason: str = ""

    @property
    def value(self) -> float:
        return float(self.published.value)

    @property
    def published_stderr(self) -> float | None:
        """See `implied_stderr`; where that is not known it is taken to be ours."""
        implied = implied_stderr(self.published.metric, self.value)
        return self.ours.stderr if implied is None and self.ours else implied

    @property
    def difference(self) -> float | None:
        """Ours minus the published one."""
        return self.ours.value - self.value if self.ours else None

    @property
    def stderr(self) -> float | None:
        """Of the difference; the two were found independently."""
        published = self.published_stderr
        return math.hypot(published, self.ours.stderr) if self.ours and published is not None else None

    @property
    def verdict(self) -> Agreement:
        if self.difference is None or self.stderr is None:
            return Agreement.NOT_RUN
        return judged(self.difference, self.stderr)


def judged(difference: float, stderr: float) -> Agreement:
    """The rule, for a difference and its standard error."""
    return Agreement.AGREES if abs(difference) <= WIDTH * stderr else Agreement.DIFFERS


def implied_stderr(metric: str, value: float) -> float | None:
    """The standard error of a printed score, from the number of items alone; None where that is not known.

    sqrt(p (1 - p) / n). HumanEval's is an upper bound: each problem is the mean of 50 programs. Of the forgetting
    average each of the three accuracies is taken to be the mean, the only one that is printed.
    """
    if metric == FORGETTING:
        errors = [math.sqrt(value * (1 - value) / items) for items in FORGETTING_ITEMS.values()]
        return plain_average([value] * len(errors), errors)[1]
    return math.sqrt(value * (1 - value) / ITEMS[metric]) if metric in ITEMS else None


def compare(launch: Launch, values: Iterable[PublishedValue]) -> list[Compared]:
    """Every printed score with its counterpart in the study, in the order of `values`.

    The estimates of memory are no scores: tables S14 to S16 set them beside their formulae.

    Raises:
        UserError: a manifest is malformed.
    """
    sentence = incomparable(launch.grid.study)
    models = {} if sentence else _models(launch)
    compared = []
    for value in values:
        if value.metric != MEMORY:
            ours, reason = (None, sentence) if sentence else _counterpart(launch, models, value)
            compared.append(Compared(value, ours, reason))
    return compared


def incomparable(study: Study) -> str:
    """Why no number of the study is to be compared with the paper's, in one sentence; empty where they are."""
    if study.scale == "demo":
        return f"A demo's numbers are of {study.model.label} and not comparable with the paper's"
    if study.scale == "own":
        return "The study's model and data are its own (scale: own), so its numbers are not comparable with the paper's"
    if not any(_plain(MODEL) in _plain(name) for name in study.model.names):
        return f"The numbers are of {study.model.label}, and those of the paper of {MODEL}: they are not comparable"
    return ""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


Models = dict[tuple[str, str, int], dict[int, Condition]]
"""Setting, method and amount of training to the condition of every seed."""


def _models(launch: Launch) -> Models:
    """Every model of the study, with all that its blocks measure of it; the base model's setting is empty.

    Sweeps are left out, and so is what was trained in another way, or at another learning rate, than its setting says.
    """
    study, blocks = launch.grid.study, launch.grid.blocks
    models: Models = {}
    for condition in (condition for name, block in blocks.items() if name != SWEEP for condition in block):
        rates = study.settings[condition.setting].learning_rates if condition.setting else {}
        if condition.change == Change() and condition.learning_rate == rates.get(condition.method):
            seeds = models.setdefault((condition.setting, condition.method, condition.amount), {})
            known = seeds.setdefault(condition.seed, condition)
            seeds[condition.seed] = replace(known, evaluations={**condition.evaluations, **known.evaluations})
    return models


def _counterpart(launch: Launch, models: Models, value: PublishedValue) -> tuple[Score | None, str]:
    """What the study found, or why it has not."""
    study = launch.grid.study
    if value.method == "lora":
        return None, "the paper does not say which rank"
    if value.metric == FORGETTING and set(study.evaluation.forgetting) != set(FORGETTING_ITEMS):
        return None, f"the study's forgetting average is of {', '.join(study.evaluation.forgetting)}"
    keys = [(value.setting or "", method, value.amount or 0) for method in _methods(study, value)]
    there = [key for key in keys if key in models]
    if not there:
        return None, UNPLANNED
    # several methods that the paper's words fit: the one that is called as in the paper
    (_, method, _) = key = next((key for key in there if key[1] == value.method), there[0])
    if len(there) > 1 and method != value.method:
        return None, f"several of the study's methods are it: {', '.join(name for _, name, _ in there)}"
    conditions = list(models[key].values())
    if not any(_tasks(study, value.metric) <= set(condition.evaluations) for condition in conditions):
        return None, "the study does not measure it"
    found = [(c, score) for c in conditions if (score := _measured(launch, c, value.metric))]
    if not found:
        return None, DIVERGED if any(_diverged(launch, c, value.metric) for c in conditions) else PENDING
    is_published = any(condition.is_published for condition, _ in found)
    return Score(
        value=math.fsum(score[0] for _, score in found) / len(found),
        stderr=_over_seeds([score[0] for _, score in found], [score[1] for _, score in found]),
        items=found[0][1][2],
        seeds=len(found),
        source="published" if is_published else "trained",
        conditions=tuple(condition.product.fingerprint for condition, _ in found),
    ), ""


def _methods(study: Study, value: PublishedValue) -> list[str]:
    """The study's methods that are the published one, as far as the paper describes it."""
    if value.kind == BASE:
        return [BASE]
    fitting = []
    for name, method in study.methods.items():
        cells = method.cells()
        if (
            method.kind == value.kind
            and not method.variant
            and cells.get("rank") == value.rank
            and (value.alpha is None or cells["alpha"] == f"{value.alpha:g}")
            and (value.modules is None or cells["modules"] == MODULES[value.modules])
        ):
            fitting.append(name)
    return fitting


def _tasks(study: Study, metric: str) -> set[str]:
    return set(study.evaluation.forgetting) if metric == FORGETTING else {metric}


def _measured(launch: Launch, condition: Condition, metric: str) -> tuple[float, float, int] | None:
    """Value, standard error and number of items, or None where a manifest is not there or training diverged."""
    results = _results(launch, condition, metric)
    if len(results) < len(_tasks(launch.grid.study, metric)) or _diverged(launch, condition, metric):
        return None
    value, stderr = plain_average([r["value"] for r in results], [r["stderr"] for r in results])
    return value, stderr, sum(result["items"] for result in results)


def _diverged(launch: Launch, condition: Condition, metric: str) -> bool:
    return any("diverged" in result for result in _results(launch, condition, metric))


def _results(launch: Launch, condition: Condition, metric: str) -> list[dict[str, Any]]:
    """Those of the metric's tasks whose manifests are there."""
    keys = [condition.evaluations.get(task) for task in sorted(_tasks(launch.grid.study, metric))]
    manifests = [launch.store.read(key) if key else None for key in keys]
    return [manifest["results"] for manifest in manifests if manifest]


def _over_seeds(values: Sequence[float], stderrs: Sequence[float]) -> float:
    """Standard error of the mean over seeds: over the items, which are the same for all seeds, and over the seeds."""
    count = len(values)
    variance = math.fsum(error * error for error in stderrs) / count
    if count > 1:
        mean = math.fsum(values) / count
        variance += math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count
    return math.sqrt(variance)
