"""The losses figure from hand-made CSVs: which loss stands where, at how many tokens, on which scale."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure

from scripts.artifacts import losses, style
from scripts.artifacts.points import read_points
from scripts.store.store import Store
from scripts.study.load import load_study
from scripts.study.schema import Study
from tests.artifacts import kinds
from tests.artifacts.conftest import (
    METHODS,
    REGISTRY,
    SETTINGS,
    Row,
    assert_all_apart,
    bars,
    base_row,
    data,
    figure,
    footer,
    legend_entries,
    line,
    markers,
    pick,
    reading,
    texts,
    tuned_row,
)

TARGETS = {"code-cpt": 0.61, "code-ift": 0.62, "math-cpt": 0.63, "math-ift": 0.64}
CPT, IFT = ("64K", "128K", "256K"), ("1", "2", "4")


def durations(setting: str) -> tuple[str, ...]:
    return CPT if setting.endswith("cpt") else IFT


def study(names: tuple[str, ...] = SETTINGS, seeds: tuple[int, ...] = (0,), **common: Any) -> list[Row]:
    """Rows of a study with the settings of these names."""
    rows = [base_row("source_loss", 0.41, **common)]
    rows += [base_row("target_loss", TARGETS[setting], setting=setting, **common) for setting in names]
    return rows + [
        tuned_row(setting, method, duration, metric, seed, **common)
        for setting in names
        for method in METHODS
        for duration in durations(setting)
        for seed in seeds
        for metric in ("source_loss", "target_loss")
    ]


def scaled(rows: list[Row], factor: float, **which: Any) -> list[Row]:
    return [{**row, "value": row["value"] * factor} if which.items() <= row.items() else row for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Figure:
    """The study of all settings and methods, drawn once."""
    with style.whitegrid():
        return figure(tmp_path_factory.mktemp("whole"), "losses", study())


def test_losses_that_decide_learning_rates_say_so(tmp_path: Path, whole: Figure) -> None:
    """`chosen_by` stands in the CSV of a study whose sweep chooses by them, and of no other."""
    study = load_study("smoke").model_dump(mode="json", exclude_unset=True)
    study["sweep"] = {"rule": "lowest_held_out_loss", "seeds": [0]}
    by_scores, by_losses = load_study("smoke"), Study.model_validate(study)
    for name, one in (("scores", by_scores), ("losses", by_losses)):
        made = kinds.launch_of("smoke", kinds.grid_of(one), Store(tmp_path / name))
        for condition in made.grid.conditions("grid"):
            losses_of = [key for label, key in condition.evaluations.items() if "loss" in label]
            for key in (condition.product, *losses_of):
                results = {"value": 0.5, "stderr": 0.1, "items": 4, "tokens": 1000}
                made.store.make(made.grid.products[key], lambda out, results=results: results, {})
        collected = kinds.collected(made, "losses", tmp_path / f"{name}.csv")
        assert {row.get("chosen_by") for row in collected} == {None if name == "scores" else "target_loss"}
    points = read_points(tmp_path / "losses.csv", REGISTRY["losses"].needs)
    drawn = losses.draw(REGISTRY["losses"], points, "abc1234")
    said = "sweep chooses learning rates by the target loss on these same held-out records"
    assert said in footer(drawn)
    assert said not in footer(whole)
    assert_all_apart(drawn)


def pair(drawn: Figure, setting: str) -> dict[str, Axes]:
    left, right = (ax for ax in drawn.axes if ax.get_label() == setting)
    assert left.get_position().x1 < right.get_position().x0
    assert left.get_position().y0 == right.get_position().y0
    return {"target_loss": left, "source_loss": right}


def rendered(drawn: Figure) -> RendererAgg:
    """What the figure is drawn with, after drawing it."""
    renderer = FigureCanvasAgg(drawn).get_renderer()
    drawn.draw(renderer)
    return renderer


def ticks(ax: Axes, renderer: RendererAgg) -> dict[str, float]:
    """Label to place of the ticks inside the panel; no two have the same label, and none touches the next."""
    low, high = ax.get_ylim()
    inside = [(label, at) for at, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True) if low <= at <= high]
    assert len({label.get_text() for label, _ in inside}) == len(inside)
    boxes = [label.get_window_extent(renderer) for label, _ in inside]
    assert all(below.y1 < above.y0 for below, above in pairwise(boxes))
    return {label.get_text(): at for label, at in inside}


def test_target_losses_stand_left_and_source_losses_right_at_their_tokens(tmp_path: Path) -> None:
    rows = study()
    drawn = figure(tmp_path, "losses", rows[::-1])
    assert len(drawn.axes) == 8
    for setting in SETTINGS:
        tokens = [64e3, 128e3, 256e3] if setting.endswith("cpt") else [57_613.0, 115_226.0, 230_452.0]
        for metric, ax in pair(drawn, setting).items():
            expected = {
                method: [
                    (at, pick(rows, setting=setting, method=method, duration=duration, metric=metric))
                    for at, duration in zip(tokens, durations(setting), strict=True)
                ]
                for method in METHODS
            }
            assert {method: data(line(ax, method)) for method in METHODS} == expected
            assert sorted(data(marker)[0] for marker in markers(ax)) == sorted(p for m in METHODS for p in expected[m])
            assert len(bars(ax)) == 12
            base = line(ax, "base model")
            assert list(base.get_ydata()) == [TARGETS[setting] if metric == "target_loss" else 0.41] * 2
            assert base.get_linestyle() == "--"
            low, high = ax.get_ylim()
            assert all(low < y < high for found in [base, *markers(ax), *bars(ax)] for _, y in data(found))
            assert ax.get_xscale() == "log"
            assert "bits per byte" in ax.get_ylabel()
            assert metric.split("_")[0].title() in ax.get_ylabel()


def test_ticks_name_the_tokens_and_the_epochs(tmp_path: Path, whole: Figure) -> None:
    for metric in ("target_loss", "source_loss"):
        cpt, ift = (pair(whole, setting)[metric] for setting in ("math-cpt", "math-ift"))
        assert [label.get_text() for label in cpt.get_xticklabels()] == ["64K", "128K", "256K"]
        assert cpt.get_xlabel() == "Training tokens"
        assert list(ift.get_xticks()) == [57_613, 115_226, 230_452]
        assert [label.get_text() for label in ift.get_xticklabels()] == ["57.6K", "115K", "230K"]
        assert ift.get_xlabel() == "Training tokens (1, 2 and 4 epochs)"
    one = [row for row in study(names=("code-ift",)) if row.get("duration") in ("1", None)]
    assert pair(figure(tmp_path, "losses", one), "code-ift")["source_loss"].get_xlabel() == "Training tokens (1 epoch)"


def test_source_panels_share_their_limits_and_target_panels_have_their_own(tmp_path: Path) -> None:
    rows = scaled(study(), 2.0, setting="math-cpt")
    drawn = figure(tmp_path, "losses", rows)
    assert len({pair(drawn, setting)["source_loss"].get_ylim() for setting in SETTINGS}) == 1
    assert len({pair(drawn, setting)["target_loss"].get_ylim() for setting in SETTINGS}) == 4


def test_losses_that_span_much_have_a_logarithmic_axis(tmp_path: Path, whole: Figure) -> None:
    assert {ax.get_yscale() for ax in whole.axes} == {"linear"}
    far = figure(tmp_path, "losses", scaled(study(), 20.0, setting="code-cpt", metric="source_loss", method="full"))
    renderer = rendered(far)
    for setting in SETTINGS:
        panels = pair(far, setting)
        assert panels["target_loss"].get_yscale() == "linear"
        assert panels["source_loss"].get_yscale() == "log"
        assert len(ticks(panels["source_loss"], renderer)) >= 4


@settings(max_examples=25, deadline=None)
@given(low=st.floats(0.05, 5.0), ratio=st.floats(1.0, 100.0), logarithmic=st.booleans())
def test_any_losses_lie_inside_an_axis_whose_labels_are_its_losses(low: float, ratio: float, logarithmic: bool) -> None:
    with style.whitegrid():
        drawn = Figure(figsize=(4, style.PANEL))
        ax = drawn.add_axes((0.1, 0, 0.9, 1))
        style.loss_axis(ax, low, low * ratio, logarithmic)
    bottom, top = ax.get_ylim()
    assert bottom < low
    assert low * ratio < top
    shown = ticks(ax, rendered(drawn))
    assert len(shown) >= 3
    assert [float(text) for text in shown] == pytest.approx(list(shown.values()), abs=1e-9)


def test_several_seeds_are_a_mean_and_a_range(tmp_path: Path) -> None:
    rows = study(names=("code-ift",), seeds=(0, 1, 2))
    for row in rows:
        if row["seed"] == 2 and row["kind"] != "base":
            row["tokens"] += 300 * row["duration_value"]
    drawn = figure(tmp_path, "losses", rows)
    for metric, ax in pair(drawn, "code-ift").items():
        for at, duration in zip(data(line(ax, "lora-r4")), IFT, strict=True):
            values = [pick(rows, method="lora-r4", duration=duration, metric=metric, seed=seed) for seed in range(3)]
            assert at == (pytest.approx(57_713 * float(duration)), pytest.approx(numpy.mean(values)))
            assert [min(values), max(values)] in [sorted(end for _, end in data(bar)) for bar in bars(ax)]
    assert "Points of 3 seeds: mean" in footer(drawn)


def test_a_condition_without_one_of_its_losses_is_not_drawn(tmp_path: Path) -> None:
    rows = study(names=("code-cpt", "math-ift"))
    for row in rows:
        if (row.get("setting"), row["method"], row.get("duration"), row["metric"]) == (
            "code-cpt", "full", "128K", "source_loss",
        ):  # fmt: skip
            row["value"] = row["stderr"] = ""
    drawn = figure(tmp_path, "losses", rows)
    for ax in pair(drawn, "code-cpt").values():
        assert [x for x, _ in data(line(ax, "full"))] == [64e3, 256e3]
        assert len(markers(ax)) == 11
    assert "1 more not there yet" in footer(drawn)


def test_a_study_without_a_base_model_has_no_line_for_it(tmp_path: Path) -> None:
    drawn = figure(tmp_path, "losses", [row for row in study() if row["kind"] != "base"])
    assert not [found for ax in drawn.axes for found in ax.lines if found.get_gid() == "base model"]
    assert "base model" not in legend_entries(drawn)


@pytest.mark.parametrize("names", [SETTINGS, ("math-cpt",)])
def test_the_page_is_titled_and_nothing_overlaps(tmp_path: Path, names: tuple[str, ...]) -> None:
    rows = study(names, study_title="A study with a long title: " + "words " * 20)
    drawn = figure(tmp_path, "losses", scaled(rows, 30.0, metric="source_loss", method="full"), "0123456789-dirty")
    assert_all_apart(drawn)
    assert [ax.texts[2].get_text() for ax in drawn.axes] == [
        "learned: the finetuning data", "forgotten: the pretraining data",
    ] * len(names)  # fmt: skip
    assert "lower is better in both" in reading(drawn)
    assert "DEMO STUDY: not the paper's numbers" in texts(drawn)
    assert "losses (beyond the paper)" in footer(drawn)
    assert legend_entries(drawn) == ["LoRA (r=1)", "LoRA (r=4)", "LoRA (r=8)", "full finetuning", "base model"]


def test_only_a_demo_says_demo_on_its_axes(tmp_path: Path, whole: Figure) -> None:
    drawn = figure(tmp_path, "losses", study(scale="paper", study_title="The main grid"))
    assert {ax.get_ylabel() for ax in drawn.axes} == {"Target loss, bits per byte", "Source loss, bits per byte"}
    assert "(demo)" in whole.axes[0].get_ylabel()
