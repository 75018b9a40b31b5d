"""Command lines that messages print: they work when they are pasted where the process that prints them was started."""

import os
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from scripts.common.errors import UserError
from scripts.common.files import ROOT, project, read_yaml

CONFIG = project("config/config.yaml")
OPTIONS = ("study", "store")
"""What most commands of the project take, and Snakemake as `--config`."""
_CONFIG = ("--config", "-C")
_DRY = ("-n", "--dry-run", "--dryrun")
"""Options of Snakemake."""

_meant: dict[str, str] = {}


def belong_to(study: str | None = None, store: str | None = None) -> None:
    """From now on commands are for this study and this store; None: those that are meant when nothing is said."""
    _meant.clear()
    _meant.update({key: value for key, value in (("study", study), ("store", store)) if value is not None})


def study_meant() -> str | None:
    """The study that commands are for; None where nobody can know."""
    return _meant.get("study") or _configured_study()


def python_command(module: str, *arguments: str, study: str | None = None, options: Collection[str] = OPTIONS) -> str:
    """The command line of a module of `scripts`.

    Args:
        module: `scripts.training.train`.
        arguments: what stands behind it.
        study: another study than the process's.
        options: those of `OPTIONS` that the module takes.
    """
    said = [word for key, value in _said(study).items() if key in options for word in (f"--{key}", value)]
    path = [] if _in_root() else [f"PYTHONPATH={shlex.quote(str(ROOT))}"]
    return " ".join([*path, shlex.join([_program(sys.executable), "-m", module, *arguments, *said])])


def snakemake_command(*targets: str, study: str | None = None) -> str:
    """The command line of Snakemake that makes the targets; `study` is another one than the process's."""
    words = [*_snakemake(), *([] if _in_root() else ["--snakefile", str(ROOT / "Snakefile")])]
    said = [f"{key}={value}" for key, value in _said(study).items()]
    return shlex.join([*words, *targets, *(["--config", *said] if said else [])])


def snakemake_again(words: Sequence[str], setting: str) -> str:
    """A command line of Snakemake with one more setting in its configuration, and no dry-run.

    Args:
        words: the command line without the program.
        setting: `budget_gpu_hours=500`.
    """
    words = [word for word in words if word not in _DRY]
    # of two `--config` the second alone would count
    place = next((index for index, word in enumerate(words) if word in _CONFIG), None)
    if place is not None:
        return shlex.join([*_snakemake(), *words[: place + 1], setting, *words[place + 1 :]])
    return shlex.join([*_snakemake(), *words, _CONFIG[0], setting])


def _snakemake() -> list[str]:
    program = Path(sys.executable).with_name("snakemake")
    return [_program(str(program))] if program.exists() else [_program(sys.executable), "-m", "snakemake"]


def _said(study: str | None) -> dict[str, str]:
    meant = {**_meant, "study": study} if study else _meant
    return {
        key: meant[key] for key in OPTIONS if key in meant and (key != "study" or meant[key] != _configured_study())
    }


def _configured_study() -> str | None:
    try:
        study = read_yaml(CONFIG)["study"]
    except (UserError, LookupError, TypeError):
        return None  # whoever needs the file says what is wrong with it
    return study if isinstance(study, str) else None


def _in_root() -> bool:
    return Path.cwd() == ROOT


def _program(path: str) -> str:
    """As it is typed in the checkout, if it lies there."""
    return os.path.relpath(path, ROOT) if _in_root() and Path(path).is_relative_to(ROOT) else path
