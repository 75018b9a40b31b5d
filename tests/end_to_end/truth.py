"""What the tests of reruns share: the smoke study's jobs, and whether its figure is true."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from tests.conftest import PARTS, House, copy_checkout

FIG2 = "results/figures/fig2.pdf"
# the smoke study: 2 settings x 2 methods x 2 durations; CPT has 2 legs a method; fig2 asks 3 tasks a model and the base
RUNS, LEGS, EVALUATIONS = 8, 4, 8 * 3 + 3

_REFERENCES: dict[str, str] = {}
"""Content of a checkout to the data that it makes: several events end at the same checkout."""

_MAKE = """
import sys
from pathlib import Path
from scripts.artifacts import collect
from scripts.data.products import make_data
from scripts.evaluation import evaluate
from scripts.launch.launch import new_launch
from scripts.models import products
from scripts.plan.registry import find_artifact
from scripts.training import train

launch = new_launch(sys.argv[1], "results/store", "family")
grid = launch.grid
makers = {"model": products.make_model, "trained": train.main, "evaluated": evaluate.main}

def make(key):
    if not launch.store.is_made(key):
        for read in grid.products[key].inputs:
            make(read)
        makers.get(key.kind, make_data)(launch, key)

for key in grid.makers("grid", find_artifact("fig2").measurements(grid, launch.store.is_made)):
    make(key)
collect.main(launch, "fig2", Path("results/figures/fig2.csv"))
"""
"""Makes the CSV of figure 2 in one process, without Snakemake."""


def condition_grain(study: dict[str, Any]) -> None:
    study["grain"] = "condition"


def check_truth(house: House, prepared: House, tmp_path: Path) -> None:
    """Asking again is nothing; and the data equal those of a checkout that trains everything anew.

    Args:
        house: to be checked.
        prepared: has the data and the base model that every study of these tests begins with, as they were made first.
        tmp_path: where the other checkout may lie.
    """
    assert house.plan() == {}
    content = _content(house)
    if content not in _REFERENCES:
        root = copy_checkout(house.root, tmp_path / "reference")
        for place in ("data", "models"):
            shutil.copytree(prepared.store / place, root / "results/store" / place)
        reference = House(root, study=house.study, standins=house.standins)
        reference.python("-c", _MAKE, house.study)
        _REFERENCES[content] = reference.csv()
    assert sorted(house.csv().splitlines()) == sorted(_REFERENCES[content].splitlines())


def _content(house: House) -> str:
    digest = hashlib.sha256(house.study.encode())
    for path in sorted(path for part in PARTS for path in (house.root / part, *(house.root / part).rglob("*"))):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"\n{path.relative_to(house.root)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
