"""Models whose training diverged: in the CSV, on the figures, in the claims, beside the paper's scores."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import claims, counterparts
from scripts.artifacts.contrasts import ItemScores, Model
from scripts.artifacts.points import read_points
from scripts.common.errors import UserError
from tests.artifacts import kinds
from tests.artifacts.blocks import artifact, drawn, full, lora, row
from tests.artifacts.conftest import (
    Row,
    assert_all_apart,
    base_row,
    data,
    footer,
    learning_task,
    legend_entries,
    line,
    markers,
    write,
)
from tests.artifacts.test_claims import FORGETTING, filled
from tests.artifacts.test_comparison import FULL_20B, compared_with, evaluate, llama, of

RATES = (1e-5, 1e-4, 1e-3)
SWEEP = artifact("rates", "learning", name="figS1", by_rate=True)
FRONTIER = artifact("frontier", "learning", "forgetting", name="frontier", by_rate=True)
GONE = {"value": "", "stderr": "", "items": "", "state": "diverged"}
NOTHING = {"metric": "acc", "value": None, "stderr": None, "items": 0, "diverged": 12}
COLOURS = {"full": "#000000", "lora-r64-a32-all": "#6a5acd"}


def sweep(*diverged: tuple[str, float], seeds: tuple[int, ...] = (0,), chosen: float = 1e-4) -> list[Row]:
    """Two settings; `diverged` are methods and rates of the first, of seed 0."""
    rows = [base_row(metric, 0.12) for metric in ("humaneval", "gsm8k", "forgetting")]
    for setting in ("code-ift", "math-ift"):
        for method in (full(), lora(64, 32)):
            for rate in RATES:
                for seed in seeds:
                    for metric in (learning_task(setting), "forgetting"):
                        choice = "yes" if rate == chosen else "no"
                        made = row(method, setting, "2", metric, seed, rate=rate, chosen=choice)
                        gone = setting == "code-ift" and seed == 0 and (method["method"], rate) in diverged
                        rows.append(made | GONE if gone else made)
    return rows


def panels(made: Figure, setting: str) -> list[Axes]:
    return [ax for ax in made.axes if ax.get_label() == setting]


def crosses(ax: Axes) -> list[Line2D]:
    found = [each for each in ax.lines if each.get_gid() == "diverged"]
    assert all(each.get_marker() == "x" for each in found)
    return found


def pixels(ax: Axes, cross: Line2D) -> tuple[float, float]:
    """As shares of the panel's width and height."""
    (place,) = ax.transAxes.inverted().transform(cross.get_transform().transform(data(cross)))
    return float(place[0]), float(place[1])


# --- figures of learning rates


def test_a_rate_that_diverged_is_a_cross_at_the_bottom_in_its_methods_colour(tmp_path: Path) -> None:
    gone = (("full", 1e-3), ("lora-r64-a32-all", 1e-3))
    made = drawn(tmp_path, SWEEP, sweep(*gone))
    (ax,), (other,) = panels(made, "code-ift"), panels(made, "math-ift")
    found = {to_hex(cross.get_color()): cross for cross in crosses(ax)}
    assert set(found) == set(COLOURS.values())
    places = [pixels(ax, cross) for cross in found.values()]
    assert [float(cross.get_xdata()[0]) for cross in found.values()] == [1e-3, 1e-3]
    assert all(0 < y < 0.15 for _, y in places)
    assert len({y for _, y in places}) == 2, "one does not hide the other"
    assert ax.get_xlim()[0] < 1e-5 < 1e-3 < ax.get_xlim()[1]
    for method in COLOURS:
        assert [x for x, _ in data(line(ax, method))] == list(RATES[:2]), "never filled in"
    assert not crosses(other)
    assert "2 diverged" in footer(made)
    assert "not there yet" not in footer(made)
    assert re.search(r"LoRA \(r=64\) \d of 3, full finetuning \d of 3", footer(made))
    assert legend_entries(made)[-1] == "diverged, no score"
    assert_all_apart(made)


def test_a_method_that_always_diverged_has_its_crosses_and_its_colour(tmp_path: Path) -> None:
    gone = [("full", rate) for rate in RATES]
    rows = [each for each in sweep(*gone) if each.get("setting") in (None, "code-ift")]
    made = drawn(tmp_path, SWEEP, rows)
    (ax,) = panels(made, "code-ift")
    assert sorted(float(cross.get_xdata()[0]) for cross in crosses(ax)) == list(RATES)
    assert {to_hex(cross.get_color()) for cross in crosses(ax)} == {"#000000"}
    assert "full finetuning" in legend_entries(made)
    assert "full finetuning 0 of 3" in footer(made)
    frontier = drawn(tmp_path, FRONTIER, rows)
    assert "full finetuning 1.0e-5" not in footer(frontier)
    assert "full finetuning 1e-5 to 1e-3" in footer(frontier)


def test_where_one_seed_diverged_the_others_are_drawn_and_it_is_said(tmp_path: Path) -> None:
    rows = sweep(("full", 1e-3), seeds=(0, 1, 2))
    made = drawn(tmp_path, SWEEP, rows)
    (ax,) = panels(made, "code-ift")
    left = [each["value"] for each in rows if each.get("learning_rate") == 1e-3 and each["method"] == "full"
            and each["setting"] == "code-ift" and each["metric"] == "humaneval" and each["seed"] > 0]  # fmt: skip
    assert data(line(ax, "full"))[-1] == (1e-3, pytest.approx(numpy.mean(left)))
    assert len(crosses(ax)) == 1
    assert "1 diverged" in footer(made)


def test_on_a_plane_crosses_stand_in_the_corner(tmp_path: Path) -> None:
    made = drawn(tmp_path, FRONTIER, sweep(("full", 1e-3), ("lora-r64-a32-all", 1e-4), ("lora-r64-a32-all", 1e-3)))
    chosen, every = panels(made, "code-ift")
    assert {to_hex(cross.get_color()) for cross in crosses(chosen)} == {COLOURS["lora-r64-a32-all"]}
    assert len(markers(chosen)) == 1
    assert len(markers(every)) == 3
    places = [pixels(every, cross) for cross in crosses(every)]
    assert len(set(places)) == 3
    assert all(0 < x < 0.25 and 0 < y < 0.15 for x, y in places)
    sizes = [cross.get_markersize() for cross in crosses(every) if to_hex(cross.get_color()) != "#000000"]
    assert sizes == sorted(set(sizes)), "a higher rate is larger"
    assert "3 diverged" in footer(made)
    assert "diverged, no score" in legend_entries(made)
    assert_all_apart(made)


def test_without_divergence_nothing_speaks_of_it(tmp_path: Path) -> None:
    for what in (SWEEP, FRONTIER):
        made = drawn(tmp_path, what, sweep())
        assert not any(crosses(ax) for ax in made.axes)
        assert "diverged" not in footer(made) + " ".join(legend_entries(made))


# --- other figures and the CSV


def test_other_figures_leave_the_point_out_and_count_it(tmp_path: Path) -> None:
    rows = [base_row("humaneval", 0.12)]
    for duration in ("1", "2", "4"):
        for method in (full(), lora(64, 32)):
            made = row(method, "code-ift", duration, "humaneval")
            rows.append(made | GONE if (method["method"], duration) == ("full", "4") else made)
    what = artifact("learning_forgetting", "learning")
    made = drawn(tmp_path, what, rows)
    (ax,) = panels(made, "code-ift")
    assert [x for x, _ in data(line(ax, "full"))] == [1, 2]
    assert [x for x, _ in data(line(ax, "lora-r64-a32-all"))] == [1, 2, 4]
    assert not crosses(ax)
    assert "1 diverged" in footer(made)
    assert "not there yet" not in footer(made)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 0.3}, r"value: row 2 is of a model that diverged and must have none$"),
        ({"state": "lost"}, r"state: 'lost' in row 2 must be one of empty, diverged$"),
    ],
)
def test_a_state_that_cannot_be(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = [row(full(), "code-ift", "2", "humaneval") | GONE | change]
    with pytest.raises(UserError, match=said):
        read_points(write(tmp_path / "figure.csv", rows), ["learning"])


def test_the_csv_has_no_value_and_says_why(tmp_path: Path) -> None:
    launch = kinds.launch(tmp_path)
    conditions = kinds.conditions("grid")
    gone = next(one for one in conditions if one.setting == "code-cpt" and one.method == "full")
    for condition in conditions:
        for task, key in condition.evaluations.items():
            if "loss" not in task:
                kinds.put(
                    launch.store, key, NOTHING if condition == gone else {"value": 0.5, "stderr": 0.1, "items": 9}
                )
        if condition.setting.endswith("ift"):
            put_tokens(launch, condition.product)
    rows = kinds.collected(launch, "fig3", tmp_path / "fig3.csv")
    own = [each for each in rows if each["condition"] == gone.product[-12:] and each["source"] == "trained"]
    assert {each["metric"] for each in own} == {"humaneval", "forgetting", *FORGETTING}
    for each in rows:
        cells = each["value"], each["stderr"], each["items"], each["state"]
        assert (cells == ("", "", "", "diverged")) == (each in own)
    assert {each["evaluations"] for each in own} >= {gone.evaluations["humaneval"][-12:]}
    points = read_points(tmp_path / "fig3.csv", ["learning", "forgetting"])
    assert (points.diverged, points.missing) == (1, 0)


def put_tokens(launch: Any, key: str) -> None:
    kinds.put(launch.store, key, {"tokens": 1000})
    for leg in launch.grid.products[key].inputs:
        if leg.startswith("legs/"):
            put_tokens(launch, leg)


# --- claims and comparison


def test_a_cell_of_which_one_seed_diverged_has_no_scores() -> None:
    def model(method: str, seed: int, diverged: bool = False) -> Model:
        kind = "full" if method == "full" else "lora"
        scores = {} if diverged else {task: numpy.ones(3) * seed for task in ("gsm8k", *FORGETTING)}
        return Model("math-ift", method, kind, 0, "gsm8k", "1 epoch", 1, seed, f"{method}{seed}", scores, diverged)

    models = [model("full", 0), model("full", 1, diverged=True), model("lora", 0), model("lora", 1)]
    scores = ItemScores(models, FORGETTING)
    cells = {name: ("math-ift", name, 1) for name in ("full", "lora")}
    assert list(scores.models) == list(scores.arms) == [cells["lora"]]
    assert list(scores.trained) == [cells["full"], cells["lora"]]
    assert scores.diverged == {cells["full"]}
    assert scores.means().of("learning", cells["lora"]) == 0.5


def test_the_page_of_claims_says_what_diverged(tmp_path: Path) -> None:
    launch, _ = filled(tmp_path / "store")
    gone = next(c for c in launch.grid.conditions("grid") if (c.setting, c.method) == ("math-ift", "full"))
    for task in (*FORGETTING, "gsm8k"):
        launch.store.manifest_path(gone.evaluations[task]).unlink()
        shutil.rmtree(launch.store.directory(gone.evaluations[task]))  # where a copy of the manifest lies
        launch.store.make(launch.grid.products[gone.evaluations[task]], lambda out: dict(NOTHING), {})
    claims.main(launch, tmp_path / "claims.csv", tmp_path / "claims.md")
    page = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert "| trained models | 7, and the base model |" in page
    assert f"| not there, since training diverged | math-ift full {gone.duration} epoch seed 0 |" in page


def test_beside_the_paper_it_is_not_run_because_it_diverged(tmp_path: Path) -> None:
    launch = llama(tmp_path, seeds=[0, 1])

    def diverge(seed: int) -> None:
        key = of(launch, "code-cpt", "full", "20B", seed)["humaneval"]
        launch.store.make(launch.grid.products[key], lambda out: dict(NOTHING), {})

    diverge(0)
    one = compared_with(launch, FULL_20B)
    assert (one.verdict, one.reason, one.ours) == (counterparts.Agreement.NOT_RUN, "training diverged", None)
    evaluate(launch, of(launch, "code-cpt", "full", "20B", 1)["humaneval"], 0.3, 0.04)
    ours = compared_with(launch, FULL_20B).ours
    assert ours is not None
    assert (ours.value, ours.seeds) == (0.3, 1)
