"""What did not change does not run: events that change or add conditions, and a figure that is true to the study.

See test_reruns.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House
from tests.end_to_end.truth import check_truth

pytestmark = pytest.mark.thorough


def test_learning_rate_changed_and_back(house: House, tmp_path: Path) -> None:
    before = house.csv()
    house.edit(lambda study: study["settings"]["code-cpt"]["learning_rates"].update(full=5.0e-4))
    assert house.plan() == {"train_leg": 2, "train_run": 2, "evaluate": 6, "collect": 1, "draw": 1}
    house.run()
    check_truth(house, tmp_path)
    assert house.csv() != before
    house.edit(lambda study: study["settings"]["code-cpt"]["learning_rates"].update(full=4.0e-4))
    assert house.plan() == {"collect": 1, "draw": 1}
    assert not house.run()
    assert house.csv() == before
    assert house.plan() == {}


def test_rank_and_alpha_swapped_between_methods(house: House, tmp_path: Path) -> None:
    def add(study: dict[str, Any]) -> None:
        study["methods"]["lora-r4"] = {"kind": "lora", "rank": 4, "alpha": 8.0}
        for setting in study["settings"].values():
            setting["learning_rates"]["lora-r4"] = setting["learning_rates"]["lora-r2"]

    def swap(study: dict[str, Any]) -> None:
        methods = study["methods"]
        methods["lora-r2"], methods["lora-r4"] = methods["lora-r4"], methods["lora-r2"]

    house.edit(add)
    house.run()
    before = house.csv()
    house.edit(swap)
    assert house.plan() == {"train_leg": 4, "train_run": 8, "evaluate": 24, "collect": 1, "draw": 1}
    house.run()
    assert house.csv() != before
    check_truth(house, tmp_path)


def test_alpha_alone_swapped_with_rank(house: House) -> None:
    # the same two numbers under each other's names: a set of values would not see it
    house.edit(lambda study: study["methods"]["lora-r2"].update(rank=4, alpha=2.0))
    assert house.plan() == {"train_leg": 2, "train_run": 4, "evaluate": 12, "collect": 1, "draw": 1}


def test_bytes_deleted_and_condition_added(house: House, tmp_path: Path) -> None:
    hashes = {key: manifest["files"] for key, manifest in house.manifests("data/rows").items()}
    for key in hashes:
        shutil.rmtree(house.store / key)
    house.edit(lambda study: study["settings"]["math-ift"]["durations"].append(3))
    assert house.plan() == {"train_run": 2, "evaluate": 6, "collect": 1, "draw": 1}
    trained = house.run()
    assert sum(name.startswith("trained") for name in trained) == 2
    check_truth(house, tmp_path)
    assert {key: manifest["files"] for key, manifest in house.manifests("data/rows").items()} == hashes


def test_duration_added_between_and_removed(house: House, tmp_path: Path) -> None:
    before = house.csv()
    house.edit(lambda study: study["settings"]["code-cpt"].update(durations=[2560, 3840, 5120]))
    assert house.plan() == {"train_run": 2, "evaluate": 6, "collect": 1, "draw": 1}
    house.run()
    check_truth(house, tmp_path)
    house.edit(lambda study: study["settings"]["code-cpt"].update(durations=[2560, 5120]))
    assert house.plan() == {"collect": 1, "draw": 1}
    assert not house.run()
    assert house.csv() == before
    assert house.plan() == {}


def test_family_grain_trains_only_what_is_new(prepared: House, tmp_path: Path) -> None:
    house = prepared.copy(tmp_path)
    house.run()
    # code-cpt, each method: legs to 8 and 16 batches, branches 8->10 and 16->20; math-ift: epochs 1 and 2
    steps = house.steps()
    house.edit(lambda study: study["settings"]["code-cpt"].update(durations=[2560, 3840, 5120]))
    assert house.plan() == {"train_family": 2, "evaluate_family": 2, "collect": 1, "draw": 1}
    done = house.run()
    # 3840 tokens are 15 batches: from the leg end at 8 (the cooldown starts at 12), so 7 steps for each method
    assert house.steps() - steps == 2 * 7
    assert sum(name.startswith("evaluated") for name in done) == 2 * 4
    assert house.plan() == {}
