"""Five events of test_reruns with the real training loop and the real evaluation, from copies of one store.

And the way back: numbers are made again, in another checkout and store, from what is said of them.
"""

import csv
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House

FIG2 = "results/figures/fig2.pdf"


def smaller(study: dict[str, Any]) -> None:
    """Each setting with one duration; both grains, both regimes and both methods stay."""
    study["settings"]["code-cpt"]["durations"] = [2560]
    study["settings"]["math-ift"]["durations"] = [1]


@pytest.fixture(scope="module")
def made(prepared: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    house = prepared.copy(tmp_path_factory.mktemp("made"))
    house.standins = ""
    house.edit(smaller)
    house.snakemake(FIG2)
    assert (house.root / FIG2).read_bytes().startswith(b"%PDF")
    return house


@pytest.fixture
def house(made: House, tmp_path: Path) -> House:
    return made.copy(tmp_path)


def weights(house: House) -> dict[str, Any]:
    return {key: manifest["files"] for key, manifest in house.manifests("runs").items()}


def test_fresh_clone(house: House, tmp_path: Path) -> None:
    clone = house.clone(tmp_path, keep_store=True)
    assert clone.plan() == {"collect": 1, "draw": 1}
    clone.snakemake(FIG2)
    assert clone.csv() == house.csv()
    assert clone.plan() == {}


def test_learning_rate_changed_and_back(house: House) -> None:
    before, trained = house.csv(), weights(house)
    house.edit(lambda study: study["settings"]["math-ift"]["learning_rates"].update(full=1.0e-3))
    assert house.plan() == {"train_family": 1, "evaluate_family": 1, "collect": 1, "draw": 1}
    house.snakemake(FIG2)
    assert house.plan() == {}
    after = weights(house)
    assert len(after) == len(trained) + 1
    (new,) = after.keys() - trained.keys()
    old = next(key for key in trained if key.startswith("runs/math-ift/full/"))
    assert after[new]["model.safetensors"] != trained[old]["model.safetensors"]
    house.edit(lambda study: study["settings"]["math-ift"]["learning_rates"].update(full=4.0e-4))
    assert house.plan() == {"collect": 1, "draw": 1}
    house.snakemake(FIG2)
    assert house.csv() == before


def test_duration_added_between(house: House) -> None:
    """The new branch starts at a leg end that is there: only its own steps are trained."""
    legs = house.manifests("legs")
    house.edit(lambda study: study["settings"]["code-cpt"].update(durations=[2560, 3072]))
    assert house.plan() == {"train_family": 2, "evaluate_family": 2, "collect": 1, "draw": 1}
    house.snakemake(FIG2)
    assert house.plan() == {}
    assert house.manifests("legs") == legs
    rows = [line.split(",") for line in house.csv().splitlines()]
    assert sum("3.072K" in row and "forgetting" in row for row in rows) == 2


def test_bytes_deleted_and_made_again(house: House) -> None:
    hashes = {key: manifest["files"] for key, manifest in house.manifests("data/rows").items()}
    for key in hashes:
        shutil.rmtree(house.store / key)
    house.edit(lambda study: study["settings"]["math-ift"].update(durations=[1, 2]))
    house.snakemake(FIG2)
    assert house.plan() == {}
    assert {key: manifest["files"] for key, manifest in house.manifests("data/rows").items()} == hashes


def test_condition_grain_finds_and_adds(house: House) -> None:
    house.edit(lambda study: study.update(grain="condition"))
    assert house.plan() == {}
    house.edit(lambda study: study["settings"]["math-ift"].update(durations=[1, 2]))
    # two methods with one epoch count more, three tasks each
    assert house.plan() == {"train_run": 2, "evaluate": 6, "collect": 1, "draw": 1}

    def drop(study: dict[str, Any]) -> None:
        study["methods"].pop("lora-r2")
        for setting in study["settings"].values():
            setting["learning_rates"].pop("lora-r2")
            setting["sweep"]["learning_rates"].pop("lora-r2")

    house.edit(drop)
    assert house.plan() == {"train_run": 1, "evaluate": 3, "collect": 1, "draw": 1}
    house.snakemake(FIG2)
    assert house.plan() == {}


@pytest.mark.thorough
def test_three_numbers_made_again_from_their_explanation_alone(house: House, tmp_path: Path) -> None:
    """Of a model's forgetting average, which leads to the evaluations that it is of; bit for bit."""
    rows = list(csv.DictReader(house.csv().splitlines()))
    number, row = next(
        (number, row)
        for number, row in enumerate(rows, 1)
        if (row["method"], row["setting"], row["metric"]) == ("lora-r2", "code-cpt", "forgetting")
    )
    said = house.python("-m", "scripts.planning.explain", "results/figures/fig2.csv", "--row", str(number))
    command = re.findall("`(.*)`", said)[-1]

    clone = house.clone(tmp_path, keep_store=False)
    assert not clone.manifests("runs")
    program, *words = shlex.split(command)
    assert Path(program).name == "snakemake"
    clone.python("-m", "snakemake", *words)
    evaluations = clone.manifests("evaluations")
    values = [manifest["results"]["value"] for manifest in evaluations.values()]
    assert len(values) == 3
    assert sum(values) / 3 == pytest.approx(float(row["value"]), rel=1e-12)
    for place in ("legs", "runs", "evaluations"):
        before, again = house.manifests(place), clone.manifests(place)
        assert again
        assert {key: manifest["files"] for key, manifest in again.items()} == {
            key: before[key]["files"] for key in again
        }
    assert "are whole" in clone.python("-m", "scripts.planning.verify", "--study", clone.study)
