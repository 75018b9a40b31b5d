"""Writes ``config/data.lock``: what every outside source of a study is now, by hash or by commit.

python -m scripts.data.lock --study NAME
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml

from scripts.common import commands
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.components.making import DATA_LOCK, BuildContext
from scripts.components.models.hub import ModelEntry, lock_repository, still_true
from scripts.components.sources import Source
from scripts.components.sources.path import PathDataset
from scripts.components.templates import CHAT
from scripts.data import lengths
from scripts.data.encoding import Encoding
from scripts.data.hub import Repository, read_encoding
from scripts.plan.data import records_spec
from scripts.plan.grid import Grid
from scripts.store.codelock import read_code_lock
from scripts.store.temporary import temporary_directory
from scripts.study.datalock import duration_text, read, resolve_branches
from scripts.study.load import load_study
from scripts.study.schema import InstructionFinetuning, Study

_HEADER = (
    "# Identity of the data and models that come from outside. Written by `python -m scripts.data.lock --study NAME`;\n"
    "# commit it. A source without an entry is planned as not locked, and no job takes it.\n"
)
Entry = dict[str, Any]
Resolver = Callable[[Entry], tuple[Entry, str]]
"""From the entry that the lock has ({} if none) to what it should be, and what is still open ("" if nothing)."""


Check = Callable[[Entry], None]
"""Raises UserError where what an entry stands for is not as the study needs it."""


@dataclass
class Outside:
    """An outside source and where the study names it; what it is has to pass the checks."""

    where: str
    resolve: Resolver
    checks: dict[str, Check] = field(default_factory=dict)
    """By where in the study they are."""


@dataclass
class _Checkpoints:
    """Published checkpoints: which durations of which regime the study wants of a repository."""

    repository: str
    where: str
    durations: dict[str, set[int]] = field(default_factory=dict)


def main(arguments: argparse.Namespace) -> None:
    commands.belong_to(study=arguments.study)
    found = read(DATA_LOCK)
    lock = dict(found)
    problems = []
    study = load_study(arguments.study, lock={})  # what the lock says of the model may be what is wrong
    sources = outside(study, arguments.study, lock)
    for key, source in sources.items():
        before = lock.get(key)
        try:
            entry, still_open = source.resolve(before or {})
        except UserError as error:
            problems.append(f"{source.where}: {error}")
            continue
        if wrong := list(_wrong(source, entry)):
            problems += wrong
            continue
        if still_open:
            problems.append(f"{source.where}: {still_open}")
        print(f"{key}: {'as it was' if entry == before else 'locked' if before is None else 'changed'}")
        lock[key] = entry
    if not problems:
        found_wrong = [*_no_room(arguments.study, study, lock), *(chats := [*_no_chat(study, lock)])]
        # examples have no length in a template that cannot be used
        for key, problem in found_wrong + ([] if chats else [*_too_long(study, arguments.study, lock)]):
            problems.append(problem)
            lock.pop(key, None)
            lock |= {key: found[key]} if key in found else {}
    with atomic_path(DATA_LOCK) as new:
        text = yaml.safe_dump(lock, sort_keys=True, width=1000) if lock else ""
        new.write_text(_HEADER + text, encoding="utf-8")
    for problem in problems:
        print(f"not locked: {problem}", file=sys.stderr)
    if problems:
        raise UserError(
            f"{DATA_LOCK}: {len(problems)} of {len(sources)} outside sources of study {arguments.study} are not "
            "(wholly) locked, as said above; what the file had for them was left as it was"
        )
    study = load_study(arguments.study, lock=lock)
    Grid(study, arguments.study, {name: entry["version"] for name, entry in read_code_lock().items()}, lock)
    print(f"{DATA_LOCK}: {len(sources)} outside source{'s' * (len(sources) != 1)} of study {arguments.study} locked")


def outside(study: Study, study_name: str, lock: Mapping[str, Entry]) -> dict[str, Outside]:
    """Identity to source, of everything that a study takes from outside, in the order in which it has to be locked.

    Args:
        study_name: its own.
        lock: the entries, of which those of sources that stand before one are there when it is locked.
    """
    found: dict[str, Outside] = {}
    chosen = {f"datasets.{name}": dataset for name, dataset in study.datasets.items()}
    for where, choice in (chosen | {study.model.said_at: study.model}).items():
        if choice.identity is not None:
            resolve = _trainable(study) if choice is study.model else choice.lock
            source = found.setdefault(choice.identity, Outside(where, _whole(resolve)))
            if isinstance(choice, Source):
                source.checks[where] = partial(_check_records, study, study_name, where)
    for setting_name, setting in study.settings.items():
        if setting.tokenizer:
            resolve = partial(_lock_tokenizer, study, lock, setting.tokenizer)
            where = f"settings.{setting_name}.tokenizer"
            found.setdefault(ModelEntry.key(setting.tokenizer), Outside(where, _whole(resolve)))
    for checkpoints in _published(study):
        found[ModelEntry.key(checkpoints.repository)] = Outside(checkpoints.where, _branch_resolver(checkpoints))
    return found


def _lock_tokenizer(study: Study, lock: Mapping[str, Entry], repository: str, before: Entry) -> Entry:
    """Of a repository whose tokenizer is used with the study's base model, which the lock has by then, if ever."""
    said = getattr(study.model.shape, "vocabulary", None)
    locked = lock.get(study.model.identity or "", {}).get("architecture", {})
    return lock_repository(repository, locked.get("vocabulary", said), before)


def _wrong(source: Outside, entry: Entry) -> Iterator[str]:
    """What is wrong with the records of a source, a sentence for each dataset that is taken from it."""
    for where, check in source.checks.items():
        try:
            check(entry)
        except UserError as error:
            yield f"{where}: {error}"


def _check_records(study: Study, name: str, where: str, entry: Entry) -> None:
    """Reads the records of a dataset as far as they are at hand; see `Source.check`."""
    dataset: Source = study.datasets[where.partition(".")[2]]
    with _context(study, name, where, entry) as context:
        dataset.check(dataset.spec(entry, study.data_seed), context)


@contextmanager
def _context(study: Study, name: str, where: str, entry: Entry) -> Iterator[BuildContext]:
    """What reading the records of `datasets.NAME` is told."""
    dataset = where.partition(".")[2]
    with temporary_directory() as scratch:
        yield BuildContext(
            key=where,
            study=name,
            scratch=scratch,
            data_lock={study.datasets[dataset].identity or "": entry},
            inputs=lambda: [],
            uses=study.uses(dataset),
        )


def _no_room(name: str, study: Study, lock: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """What is wrong with a study now that its base model is known: what the lock calls the model, and the sentence."""
    try:
        load_study(name, lock=lock)
    except UserError as error:
        yield study.model.identity or "", str(error)


def _no_chat(study: Study, lock: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """What is wrong with chat templates that settings are to use: what the lock calls the tokenizer, and a sentence.

    Only where the tokenizer can be read.
    """
    for name, setting in study.settings.items():
        if not isinstance(setting, InstructionFinetuning) or setting.template != CHAT:
            continue
        key = ModelEntry.key(setting.tokenizer) if setting.tokenizer else study.model.identity or ""
        vocabulary = lock.get(study.model.identity or "", {}).get("architecture", {}).get("vocabulary")
        try:
            encoding = _encoding(study, setting, lock)
            size = encoding.in_template(CHAT).size if encoding else 0
        except UserError as error:
            yield key, f"settings.{name}.template: {error}"
            continue
        if vocabulary and size > vocabulary:
            said = f"the chat template of {key} writes the token {size - 1}, and the base model reads {vocabulary}"
            yield key, f"settings.{name}.template: {said}"


def _encoding(study: Study, setting: InstructionFinetuning, lock: Mapping[str, Entry]) -> Encoding | None:
    """The tokenizer that a setting is trained with; None where it cannot be read when it is locked."""
    if not setting.tokenizer:
        return study.model.read_encoding(lock.get(study.model.identity or "", {}), study.bos, study.join)
    revision = lock[ModelEntry.key(setting.tokenizer)]["revision"]
    return read_encoding(Repository("model", setting.tokenizer), revision, study.bos, study.join)


def _too_long(study: Study, name: str, lock: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """Says how many examples of files of one's own are longer than a row.

    Of those that cannot be trained on: what the lock calls the file, and the sentence that says why.

    Only where the tokenizer comes from outside and can be read: that which is made here is made of records.
    """
    for setting_name, setting in study.settings.items():
        dataset = study.datasets[setting.dataset]
        if not isinstance(setting, InstructionFinetuning) or not isinstance(dataset, PathDataset):
            continue
        entry, where = lock[dataset.identity], f"datasets.{setting.dataset}"
        encoding = _encoding(study, setting, lock)
        if encoding is None:
            continue
        with _context(study, name, where, entry) as context:
            records = dataset.placed(records_spec(study, setting.dataset, entry), context)
            try:
                encoding = encoding.in_template(setting.template)
                said = lengths.said(records, encoding, setting.packing, setting.sequence_length)
            except UserError as error:
                yield dataset.identity, f"settings.{setting_name}.dataset: {error}"
                continue
        if said:
            print(f"settings.{setting_name}.dataset: {said}", file=sys.stderr)


def _whole(lock: Callable[[Entry], Entry]) -> Resolver:
    """Of what is locked wholly or not at all."""
    return lambda before: (lock(before), "")


def _trainable(study: Study) -> Callable[[Entry], Entry]:
    """Of the base model: it is locked where the study's methods can train one of its architecture."""

    def lock(before: Entry) -> Entry:
        entry = study.model.lock(before)
        study.model.require_trainable(entry, study.methods, decomposed=study.spectra is not None)
        return entry

    return lock


def _published(study: Study) -> Iterator[_Checkpoints]:
    found: dict[str, _Checkpoints] = {}
    for name, setting in study.settings.items():
        for method, repository in setting.published.items():
            of = found.setdefault(repository, _Checkpoints(repository, f"settings.{name}.published.{method}"))
            of.durations.setdefault(setting.regime, set()).update(setting.durations)
    yield from found.values()


def _branch_resolver(checkpoints: _Checkpoints) -> Resolver:
    repository = Repository("model", checkpoints.repository)

    def resolve(before: Entry) -> tuple[Entry, str]:
        commits = repository.branches()
        # what stands in the lock stays: of another study, or of a person who chose one of several branches
        kept = {name for name in before.get("branches", {}) if name in commits}
        chosen = set(kept)
        unresolved = []
        for regime, durations in sorted(checkpoints.durations.items()):
            of_all = resolve_branches(repository.name, commits, durations, regime)
            of_kept = resolve_branches(repository.name, kept, durations, regime)
            chosen.update(name for duration, name in of_all.items() if duration not in of_kept)
            open_ones = sorted(durations - of_all.keys() - of_kept.keys())
            unresolved += [duration_text(duration, regime) for duration in open_ones]
        entry: Entry = {"revision": (revision := repository.commit())}
        entry = {**still_true(before, revision), **entry, "branches": {name: commits[name] for name in sorted(chosen)}}
        if not unresolved:
            return entry, ""
        return entry, (
            f"{repository}: no branch, or more than one, is named after {', '.join(unresolved)}; "
            f"it has the branches {', '.join(sorted(commits)) or 'none'}"
        )

    return resolve


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--study", required=True)
    run(main, parser)
