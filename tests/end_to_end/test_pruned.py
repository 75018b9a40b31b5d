"""Pruning frees bytes and starts nothing; a job that needs some of them says how they are made again."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House
from tests.end_to_end.truth import FIG2

pytestmark = pytest.mark.thorough


def smaller(study: dict[str, Any]) -> None:
    """One family of two leg ends and two branches, of which figure 2 asks all that is ever asked."""
    study["settings"].pop("math-ift")
    study["methods"].pop("lora-r2")
    for setting in study["settings"].values():
        setting["learning_rates"].pop("lora-r2")
        setting.pop("sweep")
        setting.pop("held_out")
    study.pop("sweep")
    study["evaluation"].pop("held_out")


def test_a_pruned_store(prepared: House, tmp_path: Path) -> None:
    house = prepared.copy(tmp_path)
    house.edit(smaller)
    house.run()
    made, steps = {**house.manifests("legs"), **house.manifests("runs")}, house.steps()
    assert len(made) == 4

    said = house.python("-m", "scripts.planning.prune", "--study", "smoke", "--store", house.store_root, "--delete")
    for key in made:
        assert f"python -m scripts.training.train {key}\n" in said
        assert not (house.store / key).exists()
    assert house.plan() == {}
    # the jobs of another grain find the same manifests
    house.edit(lambda study: study.update(grain="condition"))
    assert house.plan() == {}
    house.edit(lambda study: study.update(grain="family"))

    # a branch that starts from a leg end whose bytes are gone; the family's other members are not made again for it
    house.edit(lambda study: study["settings"]["code-cpt"].update(durations=[2560, 3840, 5120]))
    assert house.plan() == {"train_family": 1, "evaluate_family": 1, "collect": 1, "draw": 1}
    # it is said before any job starts
    logs = {path: path.stat().st_mtime_ns for path in (house.root / "results/logs").rglob("*.log")}
    (error,) = re.findall(r"^error: .*$", house.snakemake(FIG2, ok=False), re.MULTILINE)
    assert {path: path.stat().st_mtime_ns for path in (house.root / "results/logs").rglob("*.log")} == logs
    (leg,) = (key for key in made if "/2.048K-" in key)
    assert f"the bytes of {leg} are gone" in error
    command = re.search(r"`\S+python (.+?)`", error)
    assert command
    house.python(*command[1].split())
    house.run()
    assert house.plan() == {}
    # 8 steps of the leg, and 7 of the branch from there to 15
    assert house.steps() - steps == 8 + 7
    assert {key: house.manifests(key.split("/")[0])[key] for key in made} == made
    assert not any((house.store / key).exists() for key in made if key != leg)
