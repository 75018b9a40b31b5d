"""The room that a study needs, against arithmetic by hand from published shapes, and against transformers and peft."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.common.commands import python_command
from scripts.components.models.pretrained import SHIPPED
from scripts.launch import chosen
from scripts.launch.launch import launch_by_hand
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.planning import disk
from scripts.planning.disk import Forecast, checkpoint_bytes, forecast, product_bytes
from scripts.planning.estimate import Estimate
from scripts.planning.progress import ProgressLines
from scripts.store.store import Store
from scripts.study.load import load_study

LLAMA_7B = 6_738_415_616
ALL_MODULES_R16 = 39_976_960  # 32 layers of 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))


@pytest.fixture(scope="module")
def paper() -> Grid:
    return launch_by_hand("paper", "results/store").grid


@pytest.fixture(scope="module")
def smoke() -> Grid:
    return launch_by_hand("smoke", "results/store").grid


def members(grid: Grid, family: str) -> list[Product]:
    return [grid.products[key] for key in grid.find(f"families/trained/{family}").members]


def legs(grid: Grid, family: str) -> list[Product]:
    return [product for product in members(grid, family) if product.kind == "leg"]


def test_parameters_of_published_shapes(paper: Grid) -> None:
    assert paper.study.model.parameters == LLAMA_7B
    assert load_study("paper-v1-13b").model.parameters == 13_015_864_320


def test_parameters_of_a_model_that_is_pretrained_here() -> None:
    """Its embedding is its output layer, too, and is one tensor of the file."""
    from safetensors import safe_open

    (file,) = SHIPPED.glob("models/*/model.safetensors")
    with safe_open(file, framework="numpy") as weights:
        sizes = [weights.get_tensor(name).size for name in weights.keys()]  # noqa: SIM118
    assert load_study("demo").model.parameters == sum(sizes)


def test_a_leg_end_of_a_fully_finetuned_7b_model(paper: Grid) -> None:
    leg, run = legs(paper, "code-cpt/full-seed0")[0], paper.find("runs/code-cpt/full/20B-seed0")
    assert product_bytes(paper, leg) == 53_907_324_928  # 4 bytes a weight, and 4 a momentum
    assert product_bytes(paper, run) == 26_953_662_464
    assert checkpoint_bytes(paper, leg) == checkpoint_bytes(paper, run) == 3 * 53_907_324_928


def test_adamw_has_two_numbers_a_weight(paper: Grid) -> None:
    (family,) = (p for p in paper if p.name == "families/trained/code-ift/full-adamw-optimizers-seed0")
    run = paper.products[family.members[0]]
    assert product_bytes(paper, run) == 4 * LLAMA_7B
    assert checkpoint_bytes(paper, run) == 3 * 12 * LLAMA_7B


def test_an_adapter_is_kept_alone(paper: Grid) -> None:
    assert product_bytes(paper, paper.find("runs/code-cpt/lora-r16/20B-seed0")) == 4 * ALL_MODULES_R16
    assert product_bytes(paper, legs(paper, "code-cpt/lora-r16-seed0")[0]) == 8 * ALL_MODULES_R16
    attention = paper.find("runs/code-ift/lora-r64-attention/4-seed0")
    assert product_bytes(paper, attention) == 4 * 32 * 64 * 4 * (4096 + 4096)


def test_pissa_is_written_as_twice_the_rank(paper: Grid) -> None:
    leg = legs(paper, "code-cpt/lora-r16-seed0")[0]
    trunk = leg.spec["trunk"]
    method = {key: value for key, value in trunk["method"].items() if key != "dropout"}
    spec = leg.spec | {"trunk": trunk | {"method": method | {"initialization": "pissa"}}}
    changed = Product.of(leg.key, spec, leg.inputs)
    assert product_bytes(paper, changed) == (8 + 4) * ALL_MODULES_R16
    assert checkpoint_bytes(paper, changed) == checkpoint_bytes(paper, leg)


def test_what_the_hub_has_is_half_as_wide() -> None:
    """The paper's authors give 13.5 GB for a full checkpoint and 80 MB for an adapter of rank 16."""
    grid = launch_by_hand("released", "results/store").grid
    full, adapter = (
        next(p for p in grid if p.kind == "published" and f"/code-cpt/{method}/" in p.key)
        for method in ("full", "lora-r16")
    )
    assert product_bytes(grid, full) == product_bytes(grid, grid.model) == 2 * LLAMA_7B
    assert product_bytes(grid, adapter) == 2 * ALL_MODULES_R16


def test_a_family_of_the_paper(paper: Grid) -> None:
    """Leg ends at 0.2B, 0.4B, ... 12.8B (16B is 80 % of the longest), and eight branches."""
    jobs = members(paper, "code-cpt/full-seed0")
    alone = forecast(paper, jobs, set(), 1)
    weights = 4 * LLAMA_7B
    # the most at a time: a leg end, and the three checkpoints of what goes on from it
    assert alone == Forecast(legs=7 * 2 * weights, models=8 * weights, checkpoints=6 * weights, pruned=8 * weights)
    assert alone.total == (14 + 8 + 6) * weights
    assert forecast(paper, jobs, set(), 2).checkpoints == 2 * 6 * weights
    # no leg end is to be written, and those that are there count as room that is taken
    assert forecast(paper, jobs, {leg.key for leg in legs(paper, "code-cpt/full-seed0")}, 1) == Forecast(
        0, 8 * weights, 6 * weights, 6 * weights
    )


def test_a_leg_end_waits_for_all_that_start_from_it(paper: Grid) -> None:
    """0.5B and 1B: cooldowns begin at 0.4B and 0.8B, so that both branches and a leg start from leg ends."""
    weights = 4 * LLAMA_7B
    jobs = [
        *legs(paper, "code-cpt/full-seed0")[:2],
        *(paper.find(f"runs/code-cpt/full/{end}-seed0") for end in ("0.25B", "0.5B")),
    ]
    # 0.2B is trained, then its branch 0.25B, then 0.4B from it, then 0.5B from that, whatever order they are given in
    assert forecast(paper, jobs[::-1], set(), 1).pruned == (2 + 6) * weights


def test_a_family_that_is_one_job_is_pruned_after_it(smoke: Grid) -> None:
    """Two leg ends and two branches; the last branch is trained while the other three are there."""
    family = smoke.find("families/trained/code-cpt/full-seed0")
    # 400 tokens; 4 * 32 * 32 + 3 * 32 * 64 of a layer, and three norms
    weights = 4 * (400 * 32 + 4 * 32 * 32 + 3 * 32 * 64 + 3 * 32)
    assert forecast(smoke, [family], set(), 2) == Forecast(
        legs=2 * 2 * weights, models=2 * weights, checkpoints=6 * weights, pruned=(2 + 1 + 2 + 6) * weights
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_960_000, "100 MB"),
        (999_600, "1.0 MB"),
        (53_907_324_928, "53.9 GB"),
        (5.4e15, "5400 TB"),
    ],
)
def test_spoken(size: float, text: str) -> None:
    assert disk.spoken(size) == text


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Path, int]]:
    """Directory to what is free there; a directory without an entry is not to be asked for."""
    room: dict[Path, int] = {}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=room[Path(place)]))
    return room


def test_sentences(free: dict[Path, int], tmp_path: Path) -> None:
    """The disk of a store that is not there yet is that of the nearest directory that is."""
    coming = Forecast(legs=4_000_000, models=2_000_000, checkpoints=1_500_000, pruned=3_200_000)
    store = tmp_path / "results" / "store"
    free[tmp_path] = 7_500_000
    (line,) = disk.sentences(coming, store)
    assert "up to 7.5 MB" in line
    assert "3.2 MB if" in line
    assert f"7.5 MB are free in {store}" in line
    free[tmp_path] = 7_400_000
    # of the store, and of every study
    chosen.belong_to("smoke", str(store))
    prune = python_command("scripts.planning.prune", "--delete", "--store", str(store), options=())
    assert f"unless `{prune}`" in disk.sentences(coming, store)[1]
    free[tmp_path] = 3_100_000
    (_, warning) = disk.sentences(coming, store)
    assert warning.startswith("Warning: ")
    assert f"even with `{prune}`" in warning
    assert disk.sentences(Forecast(), store) == []


def test_a_launch_says_the_room_of_the_jobs_that_will_run(
    paper: Grid, tmp_path: Path, free: dict[Path, int], caplog: pytest.LogCaptureFixture
) -> None:
    free[tmp_path] = 10**15

    def job(number: int, rule: str, key: str) -> Any:
        wildcards = SimpleNamespace(key=key.partition("/")[2])
        return SimpleNamespace(jobid=number, rule=SimpleNamespace(name=rule), wildcards=wildcards)

    run = paper.find("runs/code-ift/full/4-seed0")
    evaluation = next(p for p in paper if p.kind == "evaluation" and run.key in p.inputs)
    progress = ProgressLines(Estimate(paper, Store(tmp_path)), {"train_run": "runs", "evaluate": "evaluations"})
    logger = logging.getLogger("test-disk")
    with caplog.at_level(logging.INFO, "test-disk"):
        progress.start([job(1, "train_run", run.key), job(2, "evaluate", evaluation.key)], 4, logger)
    logger.removeHandler(progress)
    (line,) = (message for message in caplog.messages if message.startswith("Disk: "))
    assert "up to 189 GB" in line  # 26,953,662,464 of weights, 161,721,974,784 of checkpoints


def test_the_command_lists_families(
    paper: Grid, tmp_path: Path, free: dict[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    free[tmp_path] = 10**12
    disk.main(launch_by_hand("paper", str(tmp_path)), 1)
    said = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "code-cpt/full-seed0 377 GB 216 GB 162 GB 755 GB 216 GB" in lines
    assert "code-ift/lora-r16-seed0 - 800 MB 959 MB 1.8 GB 959 MB" in lines
    assert any(line.startswith("study paper 1.0 TB ") for line in lines)
    assert lines[-1].startswith("Warning: ")


def test_the_command_counts_what_a_target_needs(
    paper: Grid, tmp_path: Path, free: dict[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Figure 6: one trunk of full finetuning, its eight branches, and the base model of 13.5 GB."""
    free[tmp_path] = 10**12
    disk.main(launch_by_hand("paper", str(tmp_path)), 1, "fig6")
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said[0].startswith("leg ends models")
    assert said[1:4] == [
        "models/hub/llama-2-7b-hf.not-locked - 13.5 GB - 13.5 GB 13.5 GB",
        "code-cpt/full-seed0 377 GB 216 GB 162 GB 755 GB 216 GB",
        "fig6 377 GB 229 GB 162 GB 768 GB 229 GB",
    ]
    assert len(said) == 5
