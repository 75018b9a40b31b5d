"""What jobs are expected to take, against the operations counted by hand, and against what a store has measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.launch.launch import Launch, new_launch
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.planning.estimate import Estimate
from scripts.store.store import Store
from scripts.study.load import load_study

H100 = 0.4 * 989e12
"""FLOP/s that training and reading are expected to reach."""


@pytest.fixture(scope="module")
def paper() -> Launch:
    return new_launch("paper", "nowhere")


@pytest.fixture(scope="module")
def smoke() -> Grid:
    return Grid(load_study("smoke"), "smoke", {"data": 1, "pretrainer": 1, "trainer": 1, "evaluation": 1}, {})


def expected(launch: Launch, name: str, made: set[str] | None = None) -> float:
    """Seconds of work, without the 120 of a start."""
    estimate = Estimate(launch.grid, launch.store)
    return estimate.seconds(launch.grid.find(name), made or set()) - 120


def test_four_conditions_of_the_paper_by_hand(paper: Launch) -> None:
    """On 32 H100. Llama-2-7B has 6,738,415,616 parameters, 32 layers, a width of 4,096, rows of 4,096 tokens:

    attention takes 12 * 32 * 4,096 * 4,096 = 6,442,450,944 operations a token; a LoRA of rank r trains
    32 r (4 * 8,192 + 3 * 15,104) = 2,498,560 r parameters.
    """
    attention, full, frozen = 6_442_450_944, 6 * 6_738_415_616, 4 * 6_738_415_616
    branch = 7_200_000_000  # of 20B tokens: the leg that it starts from ends at 12.8B
    hours = expected(paper, "code-cpt/full/20B-seed0") * 32 / 3600
    assert hours == pytest.approx(branch * (full + attention) / H100 / 3600, rel=5e-3)
    assert hours == pytest.approx(237.0, abs=1.0)
    hours = expected(paper, "code-cpt/lora-r16/20B-seed0") * 32 / 3600
    assert hours == pytest.approx(branch * (frozen + 6 * 16 * 2_498_560 + attention) / H100 / 3600, rel=5e-3)
    assert hours == pytest.approx(170.1, abs=1.0)
    hours = expected(paper, "math-cpt/lora-r256/20B-seed0") * 32 / 3600
    assert hours == pytest.approx(branch * (frozen + 6 * 256 * 2_498_560 + attention) / H100 / 3600, rel=5e-3)
    assert hours == pytest.approx(188.3, abs=1.0)
    tokens = 2 * 193 * 192 * 4096
    hours = expected(paper, "code-ift/lora-r64/2-seed0") * 32 / 3600
    assert hours == pytest.approx(tokens * (frozen + 6 * 64 * 2_498_560 + attention) / H100 / 3600, rel=5e-3)
    assert hours == pytest.approx(7.3, abs=0.1)


def test_a_trunk_and_its_branches_of_the_paper(paper: Launch) -> None:
    """Eight durations, 51.75B tokens if each began anew: the trunk has 12.8B, the branches what is missing of each."""
    estimate = Estimate(paper.grid, paper.store)
    members = paper.grid.find("families/trained/code-cpt/full-seed0").members
    tokens = [estimate.tokens(paper.grid.products[key]) or 0.0 for key in members]
    assert sum(tokens) == pytest.approx(26.4e9, rel=5e-3)
    hours = sum(estimate.work(paper.grid.products[key]) for key in members) * 32 / 3600
    assert hours == pytest.approx(868, abs=5)


def test_instruction_finetuning_counts_packed_rows(smoke: Grid, tmp_path: Path) -> None:
    # 200 examples, 1.5 in a row of 96 tokens, 2 epochs, batches of 4 rows that take 6
    estimate = Estimate(smoke, Store(tmp_path))
    assert estimate.tokens(smoke.find("math-ift/full/2-seed0")) == 2 * (200 // 6) * 4 * 96


def test_an_epoch_of_magicoder_has_193_batches(paper: Launch) -> None:
    """As in the paper (appendix A): 192 rows of 4,096 tokens, six of which take 18 of its 111,183 examples."""
    estimate = Estimate(paper.grid, paper.store)
    assert estimate.tokens(paper.grid.find("code-ift/full/4-seed0")) == 4 * 193 * 192 * 4096


def test_a_branch_costs_what_it_trains_itself(smoke: Grid, tmp_path: Path) -> None:
    # 4 rows of 64 tokens; 20 batches, of which 16 lie before its leg's end
    estimate = Estimate(smoke, Store(tmp_path))
    assert estimate.tokens(smoke.find("code-cpt/full/5.12K-seed0")) == 4 * 4 * 64


def test_a_family_costs_its_missing_members(smoke: Grid, tmp_path: Path) -> None:
    estimate = Estimate(smoke, Store(tmp_path))
    family = smoke.find("families/trained/code-cpt/full-seed0")
    alone = {key: estimate.seconds(smoke.products[key], set()) - 5 for key in family.members}
    assert estimate.seconds(family, set()) == pytest.approx(5 + sum(alone.values()))
    legs = {key for key in family.members if key.startswith("legs/")}
    assert legs
    assert estimate.seconds(family, legs) == pytest.approx(5 + sum(alone[key] for key in alone if key not in legs))


def find(grid: Grid, kind: str, task: str) -> Product:
    """What is asked of the base model."""
    return next(
        one for one in grid if one.kind == kind and one.key.within.startswith("base/") and f"/{task}-" in one.key
    )


def test_evaluations_cost_what_is_read_and_written(paper: Launch) -> None:
    """By the lengths of the benchmarks' own items in Llama-2's tokens, about."""
    estimate = Estimate(paper.grid, paper.store)
    seconds = {
        name: estimate.seconds(find(paper.grid, kind, name), set()) - 120
        for name, kind in (("hellaswag", "evaluation"), ("arc_challenge", "evaluation"), ("humaneval", "samples"))
    }
    # 10,042 items, ten shots of 382 characters, and 804 of its own: 1,321 tokens at 2 N operations and attention
    assert seconds["hellaswag"] == pytest.approx(10_042 * 1_321 * (2 * 6.738e9 + 0.69e9) / H100, rel=0.02)
    assert seconds["arc_challenge"] < seconds["hellaswag"] / 4
    # 50 programs of some 52 tokens for each of 164 problems, at a tenth of the peak
    assert seconds["humaneval"] == pytest.approx(164 * 50 * 51.7 * 13.5e9 / 98.9e12, rel=0.1)


def test_other_devices_take_other_times_for_the_same_products(paper: Launch) -> None:
    one = new_launch("paper", "nowhere", devices={"kind": "h100-80gb", "gpus": 1})
    assert set(one.grid.products) == set(paper.grid.products)
    name = "code-cpt/full/20B-seed0"
    assert expected(one, name) == pytest.approx(32 * expected(paper, name))
    older = new_launch("paper", "nowhere", devices={"kind": "a100-80gb", "nodes": 4, "gpus": 8})
    assert expected(older, name) == pytest.approx(expected(paper, name) * 989 / 312)
    assert one.grid.study.resources.jobs.evaluation.gpus == 1
    cpu = new_launch("paper", "nowhere", devices={"kind": "cpu"})
    assert cpu.grid.study.resources.jobs.evaluation.gpus == 0


def test_spectra_cost_a_decomposition_of_every_matrix(paper: Launch) -> None:
    """Over 3 hours of a core for a fully finetuned 7B model; four cores are counted."""
    products = [one for one in paper.grid if one.kind == "spectra"]
    assert products
    estimate = Estimate(paper.grid, paper.store)
    whole = estimate.work(products[0])
    assert whole * 4 > 3 * 3600 * 0.95
    # of an adapter the factors alone: 2,498,560 rows and columns of 224 matrices, 2 * 16^2 operations each; what is
    # decomposed beside the difference stays
    run = paper.grid.find("code-cpt/lora-r16/20B-seed0")
    spec = {**products[0].spec, "subject": run.key.fingerprint}
    adapter = replace(products[0], spec=spec, inputs=(run.key, paper.grid.model.key))
    # two of 4,096 x 4,096, 8/3 n^3 operations each, if a matrix is decomposed as a whole, twice
    alone = len(spec["whole"]) * 2 * 8 / 3 * 4096**3 / 8e9 / 4
    rows_and_columns = 32 * (4 * 8192 + 3 * 15104)
    assert estimate.work(adapter) - alone == pytest.approx(2 * 16**2 * rows_and_columns / 8e9 / 4, rel=1e-6)


def manifest(product: Product, **said: Any) -> dict[str, Any]:
    return {"key": product.key, "spec": product.spec, "inputs": [], "files": {}, "results": {}, **said}


@pytest.mark.parametrize(("gpu", "counts"), [("NVIDIA H100 80GB HBM3", True), ("NVIDIA A100-SXM4-80GB", False)])
def test_what_was_measured_takes_the_place_of_the_model(tmp_path: Path, gpu: str, counts: bool) -> None:
    """Of training alike, and on the kind of device that is planned with: 5,000 tokens a second of a GPU."""
    launch = new_launch("paper", str(tmp_path))
    leg = next(one for one in launch.grid if one.kind == "leg" and one.key.startswith("legs/code-cpt/full/"))
    path = launch.store.manifest_path(leg.key)
    path.parent.mkdir(parents=True)
    training = {"attempts": [{"device": gpu, "devices": 8}], "device_seconds": 2_000.0, "wall_seconds": 250.0}
    told = manifest(leg, results={"tokens": 10_000_000}, provenance={"seconds": 260.0, "training": training})
    path.write_text(json.dumps(told))
    assert leg.key in launch.store.made([leg.key])
    name = "code-cpt/full/20B-seed0"
    by_model = expected(new_launch("paper", "nowhere"), name)
    assert expected(launch, name) == (pytest.approx(7.2e9 / 5_000 / 32, rel=5e-3) if counts else by_model)
    other = "code-cpt/lora-r16/20B-seed0"
    assert expected(launch, other) == expected(new_launch("paper", "nowhere"), other)
