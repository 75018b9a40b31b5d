"""What is measured of a model: evaluations and spectra."""

from collections.abc import Iterable
from typing import Any, Literal

from scripts.components.asking.answers import Conversations
from scripts.components.measures import (
    DIVERSITY,
    FORGETTING,
    LANGUAGE_UNDERSTANDING,
    LEARNING,
    MEASURES,
    SOURCE_LOSS,
    SPECTRA,
    TARGET_LOSS,
)
from scripts.components.part import unusual
from scripts.plan import specs
from scripts.plan.data import Data
from scripts.plan.product import PLACES, Catalogue, Key, Product
from scripts.study.schema import InstructionFinetuning, Study

BASE = "base"
"""The method of the base model, which is not trained."""
LOSSES = "losses"
"""The held-out losses that a study has records for."""


def labels(study: Study, measure: str, settings: Iterable[str], *, of_base: bool) -> list[str]:
    """What a condition's measurements are called that a measure is made of: tasks, held-out losses, spectra.

    Args:
        measure: one of `Block.measures`, `losses`, or a task.
        settings: of the condition; of the base model all that count, and a target loss has a label for each.
        of_base: whether it is the base model, which has no spectra.
    """
    if measure == FORGETTING:
        return list(study.evaluation.forgetting)
    if measure == LEARNING:
        taught = {name: study.settings[name].learning for name in settings}
        losses = [name for name, task in taught.items() if task == TARGET_LOSS]
        return sorted({*taught.values()} - {TARGET_LOSS}) + _target(study, losses, of_base)
    if measure in MEASURES and (tasks := MEASURES[measure].tasks):
        return list(tasks)
    if measure == LOSSES:
        return [*labels(study, SOURCE_LOSS, settings, of_base=of_base), *_target(study, settings, of_base)]
    if measure == SOURCE_LOSS:
        return [SOURCE_LOSS] if study.evaluation.held_out else []
    if measure == TARGET_LOSS:
        return _target(study, settings, of_base)
    return [] if measure == SPECTRA and of_base else [measure]


def _target(study: Study, settings: Iterable[str], of_base: bool) -> list[str]:
    named = [name for name in settings if study.settings[name].held_out]
    return [f"{TARGET_LOSS}@{name}" for name in named] if of_base else [TARGET_LOSS] * bool(named)


def groups(study: Study, measures: Iterable[str], settings: Iterable[str], *, of_base: bool) -> dict[str, str]:
    """Label to the group of measurements that one job makes at family grain; see `labels`.

    Groups are apart so that a figure of one measure does not wait for another: the benchmarks (no name), the held-out
    losses, and each measure that few figures show.
    """
    settings = list(settings)
    found: dict[str, str] = {}
    for measure in measures:
        for label in labels(study, measure, settings, of_base=of_base):
            if measure in (FORGETTING, LEARNING):
                found[label] = ""
            elif measure in (DIVERSITY, LANGUAGE_UNDERSTANDING):
                found.setdefault(label, "" if measure == DIVERSITY else measure)
            else:
                found.setdefault(label, LOSSES if measure in (LOSSES, SOURCE_LOSS, TARGET_LOSS) else measure)
    return found


class Measurements:
    """The products that measure a model."""

    def __init__(self, study: Study, catalogue: Catalogue, data: Data) -> None:
        self._study = study
        self._catalogue = catalogue
        self._data = data

    def of(self, subject: Product, label: str, setting: str | None = None) -> Product:
        """The product behind a label of `labels`, of a model that was trained in a setting."""
        task, _, of_setting = label.partition("@")
        if task == SPECTRA:
            return self._spectra(subject)
        asked_in = of_setting or setting
        if task == SOURCE_LOSS:
            return self.evaluation(subject, task, asked_in, self._study.evaluation.held_out)
        if task == TARGET_LOSS:
            return self.evaluation(subject, task, asked_in, self._study.settings[asked_in or ""].held_out)
        return self.evaluation(subject, task, asked_in)

    def evaluation(self, subject: Product, task: str, setting: str | None, dataset: str | None = None) -> Product:
        """The evaluation of a model by a task; its items are the study's for the task, or those of `dataset`.

        What a model writes is a product of its own, an input: it does not depend on how it is judged.

        It is asked with the tokenizer of the setting and, where the task takes the text of instruction finetuning, in
        its template; without a setting, with the base model's and in the plain one.
        """
        about, settings = self._study.evaluation.task(task), self._study.evaluation.tasks.of(task)
        asked: dict[str, Any] = settings.asked() if settings else {}
        tested, source = asked.pop("dataset", None), asked.pop("shots_from", None)
        records = self._data.records(dataset or tested)
        shots = [self._data.records(source)] if source else []
        asked |= self._data.reading(*(("bos",) if settings else ("bos", "join")))
        own = self._study.settings[setting] if setting else None
        in_template = task == TARGET_LOSS or isinstance(about.answers, Conversations)
        if isinstance(own, InstructionFinetuning) and in_template:
            asked |= unusual(own, "template")
        tokenizers = [self._data.tokenizer(own.tokenizer)] if own and own.tokenizer else []
        if tokenizers:
            asked["tokenizer"] = tokenizers[0].fingerprint
        place = _place(subject.key)
        kind: Literal["samples", "evaluation"] = "samples" if about.writes else "evaluation"
        judging: dict[str, Any] = {}
        if settings and about.writes:
            judging = {key: asked[key] for key in settings.judging | settings.in_both if key in asked}
            asked = {key: value for key, value in asked.items() if key not in settings.judging}
        spec = specs.Asked(
            kind=kind,
            subject=subject.fingerprint,
            task=task,
            records=records.fingerprint,
            shots_records=shots[0].fingerprint if shots else None,
            seed=self._study.evaluation.seed,
            precision=self._study.precision,
            versions=specs.versions(kind, self._catalogue.versions, task=about),
            settings=asked,
        )
        inputs = dict.fromkeys([subject, self._data.model, records, *shots, *tokenizers])
        found = self._catalogue.add(f"{PLACES[kind]}/{place}/{task}", spec.spec(), *inputs)
        if kind == "evaluation":
            return found
        judged = specs.Judged(
            subject=subject.fingerprint,
            task=task,
            records=records.fingerprint,
            sampled=found.fingerprint,
            versions=specs.versions("evaluation", self._catalogue.versions, task=about),
            settings=judging,
        )
        return self._catalogue.add(f"evaluations/{place}/{task}", judged.spec(), found, records)

    def _spectra(self, run: Product) -> Product:
        assert self._study.spectra is not None
        spec = {
            "kind": "spectra",
            "subject": run.fingerprint,
            "whole": sorted(self._study.spectra.whole),
            "versions": specs.versions("spectra", self._catalogue.versions),
        }
        return self._catalogue.add(f"spectra/{_place(run.key)}", spec, run, self._data.model)


def _place(subject: Key) -> str:
    """Where what is measured of a model lies: the model's place without the kind of thing that it is."""
    return f"{BASE}/{subject.within}" if subject.kind == "model" else subject.within
