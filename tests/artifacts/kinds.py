"""The paper's study with a store to put made-up results in, and figures of no scores, collected and drawn."""

import csv
import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from matplotlib.figure import Figure

from scripts.artifacts import collect
from scripts.common.files import write_json
from scripts.launch.launch import new_launch
from scripts.plan.conditions import Condition
from scripts.plan.grid import Grid
from scripts.store.codelock import read_code_lock
from scripts.store.store import Store
from scripts.study.schema import Study
from tests.artifacts.conftest import REGISTRY

Row = dict[str, Any]


@cache
def grid() -> Grid:
    return new_launch("paper", "nowhere").grid


def grid_of(study: Study) -> Grid:
    """The products and conditions of a study that is the paper's but for something."""
    return Grid(study, "paper", {name: entry["version"] for name, entry in read_code_lock().items()}, {})


def launch(tmp_path: Path) -> Any:
    """As much of a launch of the paper's study as collecting asks for; its store is empty."""
    return launch_of("paper", grid(), Store(tmp_path / "store"))


def launch_of(name: str, grid: Grid, store: Any) -> Any:
    """As much of a launch as collecting asks for."""
    return SimpleNamespace(name=name, grid=grid, study=grid.study.model_dump(mode="json"), store=store)


def put(store: Store, key: str, results: Mapping[str, Any], **files: bytes) -> None:
    """A product that is there, with these results and bytes; `__` in a file's name stands for a dot."""
    named = {name.replace("__", "."): content for name, content in files.items()}
    for name, content in named.items():
        store.directory(key).mkdir(parents=True, exist_ok=True)
        (store.directory(key) / name).write_bytes(content)
    files_said = {name: {"bytes": len(one), "sha256": sha256(one).hexdigest()} for name, one in named.items()}
    spec = grid().products[key].spec
    write_json(store.manifest_path(key), {"key": key, "spec": spec, "files": files_said, "results": results})


def conditions(block: str) -> list[Condition]:
    return grid().conditions(block)


def collected(made: Any, name: str, path: Path) -> list[Row]:
    """The rows of the artifact's CSV, after collecting it."""
    collect.main(made, name, path)
    return rows(path)


def rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, changed: Iterable[Mapping[str, Any]]) -> Path:
    changed = list(changed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(changed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(changed)
    return path


def figure(path: Path, name: str, commit: str = "abc1234") -> Figure:
    """The artifact drawn from the CSV at `path`."""
    artifact = REGISTRY[name]
    kind = importlib.import_module(f"scripts.artifacts.{artifact.kind}")
    drawn = kind.draw(artifact, kind.read(path), commit)
    assert isinstance(drawn, Figure)
    return drawn
