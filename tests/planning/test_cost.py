"""What a study has cost, against sums by hand of what manifests say."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.launch.launch import Launch, new_launch
from scripts.planning import cost

TRAINED = {"device": "NVIDIA H100 80GB HBM3", "devices": 32}


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """The paper's study, of which a leg of full finetuning, an evaluation and its verdicts are there."""
    launch = new_launch("paper", str(tmp_path))
    leg = launch.grid.find("code-cpt/full/20B-seed0").inputs_of("leg")[0]
    attempts = [{**TRAINED, "memory_bytes": 61 * 10**9}, {**TRAINED, "memory_bytes": 64 * 10**9}]
    training = {"attempts": attempts, "device_seconds": 400_000.0, "wall_seconds": 12_500.0}
    put(launch, leg, {"seconds": 9_000.0, "training": training}, {"tokens": 1})
    asked = next(one for one in launch.grid if one.kind == "evaluation" and "/hellaswag-" in one.key)
    put(launch, asked.key, {"seconds": 600.0, "evaluation": {"device": TRAINED["device"], "devices": 2}}, {})
    return launch


def put(launch: Launch, key: str, provenance: dict[str, Any], results: dict[str, Any]) -> None:
    product = launch.grid.products[key]
    path = launch.store.manifest_path(key)
    path.parent.mkdir(parents=True)
    said = {"key": key, "spec": product.spec, "inputs": [], "files": {}, "provenance": provenance, "results": results}
    path.write_text(json.dumps(said))


def test_stages(launch: Launch) -> None:
    training, evaluation = cost.stages(launch)
    assert (training.name, training.gpus, training.products, training.memory) == ("training", 32, 1, 64 * 10**9)
    assert training.used == 400_000
    # the last leg before the branch: from 6.4B to 12.8B tokens, 46.873 GFLOP each, 40 % of 989 TFLOP/s expected
    operations = 6.4e9 * 46.873e9
    assert training.planned == pytest.approx(operations / (0.4 * 989e12) + 32 * 120, rel=1e-2)
    assert training.utilization == pytest.approx(operations / 989e12 / 400_000, rel=1e-2)
    # half as much again as it is expected to take, and twice as long as a start
    assert training.asked == pytest.approx(32 * (1.5 * training.planned / 32 + 240), rel=1e-2)
    assert (evaluation.name, evaluation.used, evaluation.utilization) == ("evaluation", 1_200.0, None)
    assert evaluation.asked == 720 * 60


def test_page(launch: Launch, tmp_path: Path) -> None:
    cost.write(launch, tmp_path)
    lines = (tmp_path / "cost.md").read_text().splitlines()
    rows = {cells[1].strip(): [cell.strip() for cell in cells] for line in lines if (cells := line.split("|"))[2:]}
    # 6.4e9 * 46.873e9 FLOP over 0.4 * 989e12 is 210.6 hours, and a start of 32 GPUs 1.1; batches are whole
    assert rows["training"][3:6] == ["32 GPUs", "211.4", "319.5"]
    assert rows["training"][6:10] == ["111.1", "0.53", "76%", "64.0 GB"]
    assert rows["all"][2] == "2"
    empty = new_launch("paper", str(tmp_path / "nothing"))
    cost.write(empty, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
