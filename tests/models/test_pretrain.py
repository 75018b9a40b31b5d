"""The base model: shipped weights are taken where they are the wanted ones, and are what the rule makes."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from scripts.common.errors import UserError
from scripts.components.models import pretrained
from scripts.components.models.pretrained import SHIPPED
from scripts.data.products import context_of, make_data
from scripts.launch.launch import Launch, launch_by_hand
from scripts.models.products import builder
from scripts.store.fingerprint import file_sha256

pytestmark = pytest.mark.arithmetic


@pytest.fixture
def demo(tmp_path: Path) -> Launch:
    return launch_by_hand("demo", str(tmp_path / "store"))


def built(launch: Launch, out: Path) -> dict[str, Any]:
    """Makes the base model of a launch's study; its results."""
    model = launch.grid.model
    return builder(model.spec)(model.spec, context_of(launch, model), out)


def test_the_shipped_weights_are_those_of_the_demo_study(demo: Launch) -> None:
    """When this fails, remake and ship them: the slow test below says how."""
    key = demo.grid.model.key
    manifest_path = SHIPPED / f"{key}.json"
    assert manifest_path.is_file(), (
        f"the demo study wants {key}, which is not shipped; "
        f"make it with `snakemake results/store/{key}.json`, then `python -m scripts.models.ship --study demo`"
    )
    manifest = json.loads(manifest_path.read_text())
    assert manifest["spec"] == demo.grid.model.spec
    assert len(list((SHIPPED / "models").iterdir())) == 2  # no out-of-date ones beside them
    for name, file in manifest["files"].items():
        assert file_sha256(SHIPPED / key / name) == file["sha256"]


def test_shipped_weights_are_taken(demo: Launch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    results = built(demo, out)
    assert results["taken"] == "shipped with the project"
    shipped = load_file(SHIPPED / demo.grid.model.key / "model.safetensors")
    taken = load_file(out / "model.safetensors")
    assert shipped.keys() == taken.keys()
    assert all(np.array_equal(shipped[name], taken[name]) for name in shipped)
    assert sum(weight.size for weight in taken.values()) < 10**6


def test_changed_shipped_weights_are_refused(demo: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    shutil.copytree(SHIPPED, shipped)
    weights = shipped / demo.grid.model.key / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    monkeypatch.setattr(pretrained, "SHIPPED", shipped)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        built(demo, tmp_path)


@pytest.mark.slow
def test_remade_weights_are_the_shipped_ones(demo: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrains the demo's base model (minutes on one core): `make test-all ARGS="-m slow tests/models"`.

    Bit-equality holds for the same processor, thread count and versions; elsewhere the losses agree.
    """
    assert os.environ.get("OMP_NUM_THREADS") == "1", "set OMP_NUM_THREADS=1, as the rule's jobs have it"
    model = demo.grid.model
    for key in demo.grid.products:
        if key in model.inputs or any(key in demo.grid.products[other].inputs for other in model.inputs):
            make_data(demo, key)
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "nothing-shipped")
    results = built(demo, out)
    manifest = json.loads((SHIPPED / f"{model.key}.json").read_text())
    remade = [loss for _, loss in results["losses"]]
    shipped = [loss for _, loss in manifest["results"]["losses"]]
    assert remade == pytest.approx(shipped, rel=0.02)
    same = file_sha256(out / "model.safetensors") == manifest["files"]["model.safetensors"]["sha256"]
    print(f"bit-equal to the shipped weights: {same}; last loss {remade[-1]}, shipped {shipped[-1]}")
