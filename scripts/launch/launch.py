"""A launch is frozen: what the head process validated is what every job sees, whatever happens to the files.

The head puts the study, the code versions, the hashes of the code behind them, the data lock and the store
into one environment variable. Jobs read that and never the YAML.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from scripts.common.environment import LAUNCH
from scripts.common.errors import UserError
from scripts.common.files import atomic_path
from scripts.components.making import not_locked
from scripts.launch import chosen
from scripts.launch.arithmetic import make_strict
from scripts.launch.site import load_site, require_devices
from scripts.plan.grid import Grid
from scripts.plan.product import Key, Product
from scripts.plan.specs import code_behind
from scripts.store.codelock import changed, combined, module_hashes, read_code_lock
from scripts.store.fingerprint import canonical
from scripts.store.store import Store
from scripts.study import datalock
from scripts.study.load import load_study
from scripts.study.schema import Devices, Study

RESULTS = "results"
STUDIES = f"{RESULTS}/studies"
"""Where each study has results of its own, whichever study was asked for last."""


@dataclass(frozen=True)
class Launch:
    """Everything that names, inputs and content of products follow from, and the process that started it all."""

    name: str
    study: dict[str, Any]
    code: dict[str, dict[str, Any]]
    """Code version to its integer (`version`), its `modules` and the `hashes` that they had at the launch."""
    data_lock: dict[str, dict[str, Any]]
    store_root: str
    head: int
    """Process id of the head; a job that runs below it ends with it."""
    site: dict[str, Any] = field(default_factory=dict)
    """Of the cluster; see `scripts.launch.site`."""
    results: str = RESULTS
    """Directory of the files with plain names: that of whichever study is asked for, or one of this study alone."""

    @cached_property
    def grid(self) -> Grid:
        versions = {name: entry["version"] for name, entry in self.code.items()}
        return Grid(Study.model_validate(self.study, context=self.data_lock), self.name, versions, self.data_lock)

    @property
    def strict_arithmetic(self) -> bool:
        """See `Resources.strict_arithmetic`; without computing the grid."""
        return bool(self.study["resources"]["strict_arithmetic"])

    @property
    def store(self) -> Store:
        return Store(Path(self.store_root))

    @property
    def seen_store(self) -> str:
        """The store as Snakemake sees it: under a name of the study's own where results are the study's own.

        Snakemake locks the names of all that it is about to make, so two launches that need one missing product would
        lock each other out. Our own lock lets one make it, and the other find it.
        """
        return self.store_root if self.results == RESULTS else f"{self.results}/store"

    def freeze(self) -> None:
        """Puts the launch where this process's children find it."""
        os.environ[LAUNCH] = canonical(asdict(self))

    def require_locked(self, keys: Iterable[str]) -> None:
        """Ends a launch that would need what nobody has said the identity of.

        Args:
            keys: of the products that are to be made, or the ends of their keys.

        Raises:
            UserError: one of them comes from outside and has no entry in ``config/data.lock``.
        """
        fingerprints = {Key(key).fingerprint for key in keys}
        names = sorted({name for key, name in self.grid.unlocked.items() if Key(key).fingerprint in fingerprints})
        if names:
            raise not_locked(names, self.name)

    def evaluated(self, made: Callable[[Key], bool]) -> list[Key]:
        """Keys of the evaluations of every block that are made."""
        conditions = [condition for block in self.grid.blocks.values() for condition in block]
        keys = dict.fromkeys(key for condition in conditions for key in condition.evaluations.values())
        return list(filter(made, keys))

    def code_of(self, product: Product) -> dict[str, Any]:
        """The code versions behind a product with their hashes, after checking the code as it is now.

        Raises:
            UserError: the code is not what the launch started with.
        """
        code = {}
        for name in code_behind(product.spec):
            entry = self.code[name]
            if modules := changed(entry["hashes"], _hashes_now(tuple(entry["modules"]))):
                raise UserError(
                    f"{product.key}: the code behind {name!r} changed after this launch started "
                    f"({', '.join(modules)}); nothing was made, start Snakemake again"
                )
            code[name] = {"version": entry["version"], "hash": combined(entry["hashes"])}
        return code


@cache
def _hashes_now(modules: tuple[str, ...]) -> dict[str, str]:
    """Asked once a process: what it has imported by then is what it goes on with."""
    return module_hashes(modules)


def new_launch(
    study: str,
    store: object,
    grain: str | None = None,
    results: str = RESULTS,
    devices: Mapping[str, Any] | None = None,
) -> Launch:
    """A launch of a study as its files are now, its names all computed (so every mistake shows here).

    Args:
        study: its name.
        store: the store's directory as it is said, or None for that of the site, or else the one in the checkout.
        grain: instead of the study's; see `Study.grain`.
        results: see `Launch.results`.
        devices: instead of the study's and the site's; see `Resources.devices`.

    Raises:
        UserError: one sentence: file, key, what is wrong, what is allowed.
    """
    code = read_code_lock()
    for entry in code.values():
        entry["hashes"] = module_hashes(entry["modules"])
    site = load_site()
    loaded = load_study(study)
    if said := devices or site.devices:
        loaded = loaded.model_copy(update={"resources": loaded.resources.on(Devices.model_validate(said))})
    launch = Launch(
        name=study,
        study=loaded.model_dump(mode="json") | ({"grain": grain} if grain else {}),
        code=code,
        data_lock=datalock.read(),
        store_root=chosen.store_of(store, site),
        head=os.getpid(),
        site=asdict(site),
        results=results,
    )
    launch.grid  # noqa: B018  (computing it validates what the grid alone can see)
    return launch


def frozen_launch() -> Launch | None:
    """The launch that this process runs under, or None when a person runs it by hand."""
    text = os.environ.get(LAUNCH)
    if not text:
        return None
    try:
        launch = Launch(**json.loads(text))
        Study.model_validate(launch.study, context=launch.data_lock)
        return launch
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the environment variable {LAUNCH} holds no launch of this version of the code; `unset {LAUNCH}`, which "
            "only jobs of a launch need"
        ) from error


def launch_by_hand(study: str | None, store: str | None) -> Launch:
    """The launch of a command that a person types: the named study, or the one in ``config/config.yaml``."""
    config = chosen.configured()
    name = chosen.study_of(config.get("study") if study is None else study)
    launch = new_launch(name, chosen.store_in(config) if store is None else store)
    chosen.say_if_new(launch.store_root)
    return launch


def begin(config: Mapping[str, Any], root: str, command: Sequence[str], *, is_head: bool) -> Launch:
    """The launch of a Snakemake process: the head makes it from the files and freezes it, a job's own reads it.

    Also prepares the environment that rules' commands inherit.

    Args:
        config: what `config/config.yaml`, profile and `--config` say.
        root: the checkout.
        command: the words of the command line. Snakemake tells its targets only after the launch has begun, and a
            target below `results/studies/NAME` says which study it is of.
        is_head: whether this is the process that a person started.

    Raises:
        UserError: see `new_launch`; targets of two studies are asked for.
    """
    # `python` in a rule is the interpreter that runs Snakemake, and finds `scripts` from wherever it is started
    _put_first("PATH", os.path.dirname(sys.executable))
    _put_first("PYTHONPATH", root)
    # jobs read what is in the store and never wait for a hub
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    launch = frozen_launch()
    # a head that waited for an earlier launch's jobs has executed itself again: it is the same process, and launch
    if launch is None or (is_head and launch.head != os.getpid()):
        _check(config)
        name, results = _named(command) or (chosen.study_of(config.get("study")), RESULTS)
        launch = new_launch(name, chosen.store_in(config), config.get("grain"), results, config.get("devices"))
        chosen.say_if_new(launch.store_root)
        launch.freeze()
        if launch.results != RESULTS:
            _link(Path(launch.seen_store), Path(launch.store_root))
    chosen.belong_to(launch.name, launch.store_root)
    if launch.strict_arithmetic:
        make_strict()
    return launch


def _named(command: Iterable[str]) -> tuple[str, str] | None:
    """The study that targets are of by their paths, and the directory of its results; None where they do not say."""
    names = {word.split("/")[2] for word in command if word.startswith(f"{STUDIES}/") and word.count("/") > 2}
    if len(names) > 1:
        raise UserError(f"{STUDIES}: one command makes the files of one study, not of {' and '.join(sorted(names))}")
    return next(((name, f"{STUDIES}/{name}") for name in names), None)


def _link(link: Path, store: Path) -> None:
    """Makes `link` lead to a store, whatever it led to before; the store need not be there yet."""
    target = os.path.relpath(store, link.parent) if not store.is_absolute() else str(store)
    if not link.is_symlink() or os.readlink(link) != target:
        with atomic_path(link) as new:
            new.symlink_to(target)


def _check(config: Mapping[str, Any]) -> None:
    """Raises UserError where a key is none of those that `--config` knows, or has a value that it cannot have."""
    known = ("study", "store", "grain", "cluster", "on_live_jobs", "budget_gpu_hours", "devices")
    if unknown := sorted(set(config) - set(known)):
        raise UserError(f"--config: unknown key {', '.join(unknown)}; allowed are {', '.join(known)}")
    for key, allowed in (
        ("grain", ("condition", "family")),
        ("cluster", (True, False)),
        ("on_live_jobs", ("wait", "stop")),
    ):
        if config.get(key, allowed[0]) not in allowed:
            raise UserError(f"--config: {key} must be {' or '.join(map(str, allowed))}, not {config[key]}")
    budget = config.get("budget_gpu_hours", 0)
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 <= budget < math.inf:
        raise UserError(f"--config: budget_gpu_hours must be a number of hours, not {budget!r}")
    if "devices" in config:
        require_devices(config["devices"], "--config: devices")


def _put_first(variable: str, directory: str) -> None:
    others = [path for path in os.environ.get(variable, "").split(os.pathsep) if path and path != directory]
    os.environ[variable] = os.pathsep.join([directory, *others])
