"""Which study and which store are meant: what is said, or else stands in ``config/config.yaml`` or is the site's."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.common import commands
from scripts.common.commands import CONFIG
from scripts.common.errors import UserError
from scripts.common.files import read_yaml
from scripts.launch.site import Site, load_site

STORE = "results/store"
"""The store that is meant where nobody says another one, in the directory where a launch is started."""
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def configured() -> Mapping[str, Any]:
    """What ``config/config.yaml`` says.

    Raises:
        UserError: it cannot be read, or holds no keys and values.
    """
    config = read_yaml(CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{CONFIG}: must hold keys and values, such as `study: demo`")
    return config


def study_of(said: object) -> str:
    """The name of a study, as `study` of a configuration, or of a command line, has it.

    Raises:
        UserError: it is empty, or no text.
    """
    if said is None or said == "":
        raise UserError(f"the name of the study is empty; {CONFIG} or the command line must say one, such as demo")
    said = _as_written(said)
    if not isinstance(said, str):
        raise UserError(f"the name of the study must be text, not {said!r}")
    return said


def store_in(config: Mapping[str, Any]) -> object:
    """What a configuration says of the store; None: nothing.

    Raises:
        UserError: it says that it is empty, as a shell does that has put nothing in place of a variable.
    """
    if "store" in config and config["store"] is None:
        raise UserError(f"the store is empty; {CONFIG} or the command line must say a directory, or nothing of it")
    return config.get("store")


def store_of(said: object, site: Site | None = None) -> str:
    """The directory of a store: what is said (None: nothing), or the site's, or the checkout's own.

    Raises:
        UserError: it is empty, or no directory, or cannot be made, or names a variable that is not set.
    """
    said = _as_written(said)
    if said is not None and (not isinstance(said, str) or not said.strip()):
        raise UserError(f"the store must be a directory, not {said!r}")
    store = _expanded(said or (site or load_site()).store or STORE)
    _require_place(Path(store))
    return store


def _as_written(said: object) -> object:
    """Snakemake reads `study=2024` as a number."""
    return str(said) if isinstance(said, int) and not isinstance(said, bool) else said


def say_if_new(store: str) -> None:
    """Says that a store that a person chose is not there yet: it may be a slip of the pen."""
    if store != STORE and not Path(store).exists():
        print(f"store {store} is new: nothing is in it yet", file=sys.stderr, flush=True)


def belong_to(study: str | None, store: str) -> None:
    """From now on the commands that messages print are for this study and store; see `scripts.common.commands`."""
    try:
        meant = store_of(store_in(configured()))
    except UserError:
        meant = None  # the files have changed since the launch
    commands.belong_to(study, None if store == meant else store)


def _expanded(said: str) -> str:
    """With `~` and variables of the environment."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            raise UserError(f"store {said}: the environment variable {name} is not set")
        return os.environ[name]

    path = os.path.expanduser(_VARIABLE.sub(value, said))
    if path.startswith("~"):
        raise UserError(f"store {said}: there is no home directory {path.partition('/')[0]}")
    if found := next((sign for sign in "{}\0\n" if sign in path), None):
        raise UserError(f"store {said!r}: a store's name has no {found!r}")
    return str(Path(path))


def _require_place(root: Path) -> None:
    """Raises UserError where the store neither is a directory nor can be made one."""
    try:
        there = next(place for place in (root, *root.absolute().parents) if place.exists() or place.is_symlink())
        if not there.is_dir():
            what = "is" if there == root else f"cannot be made: {there} is"
            raise UserError(f"store {root}: {what} no directory")
        if there != root and not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"store {root}: cannot be made: {there} is not writable")
    except OSError as error:
        raise UserError(f"store {root}: {error.strerror}") from error
