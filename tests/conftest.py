"""A copy of the house in a directory of its own, and what tests do to it."""

import fcntl
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

from scripts.common import commands
from scripts.launch.launch import launch_by_hand
from tests.warm import Warm

# no test fails because the machine was slow
settings.register_profile("house", deadline=None)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parents[1]
WARM = Warm()
PARTS = ["Snakefile", "rules", "scripts", "config", "envs", "profiles"]


@dataclass
class House:
    """A checkout (without its environment), a store, and which modules are quick ones."""

    root: Path
    store_root: str = "results/store"
    study: str = "smoke"
    standins: str = "loop,harness"

    @property
    def store(self) -> Path:
        return self.root / self.store_root

    @property
    def log(self) -> Path:
        return self.store / "standin.log"

    @property
    def forks(self) -> bool:
        """Whether jobs may be forks of the tests' process: not where they compute with models."""
        return bool(self.standins)

    def environment(self) -> dict[str, str]:
        environment = {key: value for key, value in os.environ.items() if key != "FORGETTING_LAUNCH"}
        environment.pop("PYTHONPATH", None)
        quick = {"PYTHONPATH": str(ROOT / "tests" / "standins"), "STANDIN_LOG": str(self.log)}
        return environment | quick | {"STANDINS": self.standins}

    def command(self, *targets: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *self._words(*targets)]

    def _words(self, *targets: str) -> list[str]:
        config = ["--config", f"study={self.study}", f"store={self.store_root}"]
        return [*(targets or ["results/figures/fig2.pdf"]), *config]

    def snakemake(self, *arguments: str, ok: bool = True) -> str:
        """Runs Snakemake and returns all that it said."""
        return self.python("-m", "snakemake", *self._words(*arguments), ok=ok)

    def python(self, *arguments: str, ok: bool = True) -> str:
        """Runs a command line of the project by hand and returns all that it said."""
        status, said = WARM.python(arguments, self.root, self.environment(), jobs=self.forks)
        assert (status == 0) == ok, said
        return said

    def plan(self, *targets: str) -> dict[str, int]:
        """Jobs by rule that a dry-run announces."""
        said = self._announced(*targets)
        return {} if "Nothing to be done" in said else counts(said)

    def planned(self, place: str, *targets: str) -> list[str]:
        """The manifests in a place of the store that making the figure, or other targets, would write."""
        said = self._announced(*targets)
        return sorted(set(re.findall(rf"{self.store_root}/{place}/\S+-[0-9a-f]{{12}}\.json", said)))

    def _announced(self, *targets: str) -> str:
        return self.snakemake(*(targets or ["results/figures/fig2.pdf"]), "-n")

    def run(self, *targets: str) -> Counter[str]:
        """Makes the figure; returns how often what was trained (by product name) and evaluated."""
        before = self.log.read_text() if self.log.exists() else ""
        self.snakemake(*(targets or ["results/figures/fig2.pdf"]))
        new = self.log.read_text()[len(before) :] if self.log.exists() else ""
        return Counter(line.rsplit(" ", 1)[0] for line in new.splitlines())

    def steps(self) -> int:
        """Optimizer steps trained so far."""
        return sum(int(line.split()[-1]) for line in self.log.read_text().splitlines() if line.startswith("trained"))

    def csv(self, name: str = "fig2") -> str:
        return (self.root / f"results/figures/{name}.csv").read_text()

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Changes the study's YAML file."""
        path = self.study_file
        study = yaml.safe_load(path.read_text())
        change(study)
        path.write_text(yaml.safe_dump(study, sort_keys=False))

    @property
    def study_file(self) -> Path:
        return self.root / "config" / "studies" / f"{self.study}.yaml"

    def hold(self) -> None:
        """From now on each attempt of the slow loop waits in its third step, until it is released or asked to end."""
        (self.root / "held").mkdir()

    def release(self) -> None:
        """Frees all that wait, and holds no other one; in one go, as some may be about to wait."""
        shutil.rmtree((self.root / "held").rename(self.root / "released"))

    def clone(self, where: Path, *, keep_store: bool) -> "House":
        """A fresh checkout of the same files; with this store, or with a copy of only its data and base model."""
        root = copy_checkout(self.root, where / "clone")
        if keep_store:
            return House(root, str(self.store), self.study, self.standins)
        house = House(root, study=self.study, standins=self.standins)
        for place in ("data", "models"):
            shutil.copytree(self.store / place, house.store / place)
        return house

    def copy(self, where: Path) -> "House":
        """The same state elsewhere: checkout, Snakemake's own records, results, store."""
        shutil.copytree(self.root, where / "house", symlinks=True)
        return House(where / "house", study=self.study, standins=self.standins)

    def manifests(self, place: str) -> dict[str, dict[str, Any]]:
        """Key to manifest, of all products in a place of the store."""
        found = {}
        for path in sorted((self.store / place).rglob("*-????????????.json")):
            key = str(path.relative_to(self.store))[: -len(".json")]
            found[key] = json.loads(path.read_text())
        return found


class SharedHouse(House):
    """One that other tests take copies of: what a test makes or changes would be there for all that come after it."""

    def python(self, *arguments: str, ok: bool = True) -> str:
        raise AssertionError(f"{self.root} is shared: take a copy of it")

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        raise AssertionError(f"{self.root} is shared: take a copy of it")

    def clone(self, where: Path, *, keep_store: bool) -> House:
        assert not keep_store, f"{self.store} is shared: take a copy of it"
        return super().clone(where, keep_store=False)


def counts(said: str) -> dict[str, int]:
    """Jobs by rule, in the last table that Snakemake printed of them."""
    table = said[said.rindex("Job stats:") :]
    found = {rule: int(count) for rule, count in re.findall(r"^([a-z_]+) +(\d+)$", table, re.MULTILINE)}
    found.pop("total")
    return found


def copy_checkout(source: Path, target: Path) -> Path:
    """The committed part of a checkout, as a fresh clone would have it."""
    target.mkdir(parents=True)
    for part in PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source / part, target / part)
    return target


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], House]) -> SharedHouse:
    """The house that `make` makes in an empty directory; of pytest's workers one makes it, the others wait for it."""
    own = factory.getbasetemp()
    where = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with open(f"{where}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = where / "done.json"
        if not done.exists():
            shutil.rmtree(where, ignore_errors=True)
            where.mkdir()
            done.write_text(json.dumps(asdict(make(where)), default=str))
        fields = json.loads(done.read_text())
    return SharedHouse(**fields | {"root": Path(fields["root"])})


@pytest.fixture(autouse=True)
def _of_no_launch() -> None:
    """What a test has made this process's commands be for ends with it."""
    commands.belong_to()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> House:
    """The smoke study with its data and base model made for real, and nothing trained yet."""

    def make(where: Path) -> House:
        house = House(copy_checkout(ROOT, where / "house"))
        data = [p for p in launch_by_hand(house.study, house.store_root).grid if p.kind in ("records", "rows", "model")]
        house.snakemake(*(f"{house.store_root}/{product.key}.json" for product in data))
        return house

    return once(tmp_path_factory, "prepared", make)
