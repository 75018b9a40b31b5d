"""The frontier figure from hand-made sweeps: what stands left and right, in which order, and what is grey."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from scripts.artifacts import frontier, style
from scripts.artifacts.points import read_points
from scripts.common.errors import UserError
from scripts.components.measures import SHOWN
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
    learning_task,
    legend_entries,
    line,
    markers,
    pick,
    reading,
    texts,
    tuned_row,
    write,
)

pytestmark = pytest.mark.arithmetic

BASE = {"humaneval": 0.11, "gsm8k": 0.17, "forgetting": 0.66}
RATES = {
    "full": (5e-5, 1e-4, 2e-4, 4e-4, 8e-4),
    "lora-r1": (0.001, 0.002, 0.004, 0.008, 0.016),
    "lora-r4": (0.001, 0.002, 0.004, 0.008, 0.016),
    "lora-r8": (5e-4, 0.001, 0.002, 0.004, 0.008),
}
CHOSEN = {"full": 4e-4, "lora-r1": 0.016, "lora-r4": 0.004, "lora-r8": 5e-4}


def sweep(
    settings: tuple[str, ...] = SETTINGS,
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = (0,),
    **common: Any,
) -> list[Row]:
    """Rows of a whole sweep, in no order; its hash-made values make lines that go to and fro."""
    rows = [base_row(metric, value, **common) for metric, value in BASE.items()] + [
        tuned_row(
            setting, method, "128K" if setting.endswith("cpt") else "2", metric, seed, rate,
            **{"chosen": "yes" if rate == CHOSEN[method] else "no", **common},
        )
        for setting in settings
        for method in methods
        for rate in RATES[method]
        for seed in seeds
        for metric in (learning_task(setting), "forgetting", "hellaswag")
    ]  # fmt: skip
    random.Random(0).shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Figure:
    """The sweep of all settings and methods, drawn once."""
    with style.whitegrid():
        return figure(tmp_path_factory.mktemp("whole"), "frontier", sweep())


def place(rows: list[Row], setting: str, method: str, rate: float) -> tuple[float, float]:
    x, y = (
        pick(rows, setting=setting, method=method, learning_rate=rate, metric=metric)
        for metric in ("forgetting", learning_task(setting))
    )
    return x, y


def pair(drawn: Figure, setting: str) -> tuple[Axes, Axes]:
    """The setting's panels: one rate, all rates."""
    left, right = (ax for ax in drawn.axes if ax.get_label() == setting)
    assert left.get_position().x1 < right.get_position().x0
    return left, right


def rings(ax: Axes) -> set[tuple[float, float]]:
    return {data(found)[0] for found in ax.lines if found.get_gid() == "chosen"}


def test_left_holds_the_chosen_rates_and_right_all_of_them_in_their_order(whole: Figure) -> None:
    rows = sweep()
    for setting in SETTINGS:
        left, right = pair(whole, setting)
        for method in METHODS:
            assert data(line(right, method)) == [place(rows, setting, method, rate) for rate in RATES[method]]
            assert data(line(left, method)) == [place(rows, setting, method, CHOSEN[method])]
        for ax, count in ((left, 1), (right, 5)):
            drawn_places = [data(line(ax, method)) for method in METHODS]
            assert sorted(data(marker)[0] for marker in markers(ax)) == sorted(p for one in drawn_places for p in one)
            assert len(markers(ax)) == 4 * count
            assert len(bars(ax)) == 8 * count
            assert rings(ax) == {place(rows, setting, method, CHOSEN[method]) for method in METHODS}
            assert data(line(ax, "base model")) == [(BASE["forgetting"], BASE[learning_task(setting)])]
        assert "forgets less" in left.get_xlabel()
        assert left.get_ylabel().startswith(style.axis_label(SHOWN[learning_task(setting)], "demo"))


def test_both_panels_of_a_setting_have_the_same_limits_and_hold_everything(whole: Figure) -> None:
    for setting in SETTINGS:
        left, right = pair(whole, setting)
        assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
        for found in [line(right, "base model"), *markers(right), *bars(right)]:
            assert all(right.viewLim.contains(x, y) for x, y in data(found))


def test_a_higher_rate_is_a_larger_point_and_as_large_on_both_sides(whole: Figure) -> None:
    rows = sweep()
    for setting in SETTINGS:
        left, right = ({data(m)[0]: m.get_markersize() for m in markers(ax)} for ax in pair(whole, setting))
        for method in METHODS:
            grown = [right[place(rows, setting, method, rate)] for rate in RATES[method]]
            assert grown == sorted(set(grown))
            assert (grown[0], grown[-1]) == pytest.approx((style.SMALL, style.LARGE))
        assert left.items() <= right.items()
    sizes = {handle.get_label(): handle.get_markersize() for handle in whole.legends[1].get_lines()}
    assert sizes["lowest"] == style.SMALL
    assert sizes["highest"] == style.LARGE


def test_grey_is_exactly_what_full_finetunings_line_matches_or_beats_in_both(whole: Figure) -> None:
    rows = sweep()
    rising = set()
    for setting in SETTINGS:
        stops = [place(rows, setting, "full", rate) for rate in RATES["full"]]
        rising |= {(a[0] < b[0]) == (a[1] < b[1]) for a, b in pairwise(stops)}
        dense = numpy.concatenate([numpy.linspace(a, b, 400) for a, b in pairwise(stops)])
        one = numpy.array([place(rows, setting, "full", CHOSEN["full"])])
        for ax, path in zip(pair(whole, setting), (one, dense), strict=True):
            grey = [patch for patch in ax.patches if patch.get_gid() == "as good"]
            assert {to_hex(patch.get_facecolor()) for patch in grey} == {frontier.SHADE}
            assert all(patch.get_zorder() < 0.5 for patch in grey), "the grid and all points lie over it"
            decided = 0
            for x in numpy.linspace(*ax.get_xlim(), 43)[1:-1]:
                for y in numpy.linspace(*ax.get_ylim(), 43)[1:-1]:
                    beaten = [bool((path >= (x + d, y + d)).all(axis=1).any()) for d in (0.002, -0.002)]
                    if beaten[0] == beaten[1]:
                        decided += 1
                        assert any(p.get_path().contains_point((x, y)) for p in grey) == beaten[0]
            assert decided > 1500
    assert rising == {True, False}, "lines of both kinds were seen"


def test_a_rate_whose_value_is_missing_is_not_drawn(tmp_path: Path) -> None:
    rows = sweep(settings=("code-cpt",))
    for row in rows:
        if (row["method"], row.get("learning_rate"), row["metric"]) in (
            ("full", 4e-4, "humaneval"), ("lora-r4", 0.001, "forgetting"),
        ):  # fmt: skip
            row["value"] = row["stderr"] = ""
    drawn = figure(tmp_path, "frontier", rows)
    left, right = pair(drawn, "code-cpt")
    kept = [place(rows, "code-cpt", "full", rate) for rate in RATES["full"] if rate != 4e-4]
    assert data(line(right, "full")) == kept
    assert len(data(line(right, "lora-r4"))) == 4
    assert data(line(left, "full")) == []
    assert not left.patches, "without full finetuning's point nothing is grey"
    assert len(markers(left)) == 3
    assert "18 points" not in footer(drawn)
    assert "2 more not there yet" in footer(drawn)


def test_several_seeds_are_a_mean_and_a_range_in_both_directions(tmp_path: Path) -> None:
    rows = sweep(settings=("math-ift",), methods=("lora-r8", "full"), seeds=(0, 1, 2))
    drawn = figure(tmp_path, "frontier", rows)
    _, ax = pair(drawn, "math-ift")
    for at, rate in zip(data(line(ax, "lora-r8")), RATES["lora-r8"], strict=True):
        for axis, metric in enumerate(("forgetting", "gsm8k")):
            values = [
                pick(rows, setting="math-ift", method="lora-r8", learning_rate=rate, metric=metric, seed=seed)
                for seed in range(3)
            ]
            assert at[axis] == pytest.approx(numpy.mean(values))
            assert [min(values), max(values)] in [sorted(end[axis] for end in data(bar)) for bar in bars(ax)]
    assert "Points of 3 seeds: mean" in footer(drawn)


def test_before_a_rate_is_chosen_the_left_side_says_so(tmp_path: Path) -> None:
    drawn = figure(tmp_path, "frontier", sweep(chosen="no"))
    for setting in SETTINGS:
        left, right = pair(drawn, setting)
        assert "no rate is chosen yet" in [text.get_text() for text in left.texts]
        assert not markers(left)
        assert not rings(right)
        assert left.get_xlim() == right.get_xlim()
    assert "no rate is chosen yet" not in [text.get_text() for text in right.texts]


@pytest.mark.parametrize("settings", [SETTINGS, ("code-cpt", "math-cpt"), ("math-ift",)])
def test_each_setting_has_a_row_of_two_titled_panels(tmp_path: Path, settings: tuple[str, ...]) -> None:
    drawn = figure(tmp_path, "frontier", sweep(settings=settings))
    assert [ax.get_label() for ax in drawn.axes] == [setting for setting in settings for _ in range(2)]
    assert [ax.texts[0].get_text() for ax in drawn.axes] == list("ABCDEFGH"[: 2 * len(settings)])
    tops = []
    for setting in settings:
        left, right = pair(drawn, setting)
        assert left.get_position().y0 == right.get_position().y0
        tops.append(left.get_position().y1)
        assert [ax.texts[1].get_text() for ax in (left, right)] == [
            setting[:4].title() + " " + setting[-3:].upper()
        ] * 2
        assert left.texts[2].get_text() == "one rate per method, as in the paper"
        assert right.texts[2].get_text() == "all rates of the sweep"
    assert tops == sorted(set(tops), reverse=True)
    assert_all_apart(drawn)


def test_nothing_overlaps_with_long_names_and_many_ranks(tmp_path: Path) -> None:
    title = "A study with a long title: " + "words " * 20
    rows = sweep(("code-cpt", "math-ift"), model="meta-llama/Llama-2-7b-hf", study_title=title)
    for rank in (2, 16, 32):
        rows += [
            {**row, "method": f"lora-r{rank}", "rank": rank, "learning_rate": row["learning_rate"] * rank}
            for row in rows
            if row["method"] == "lora-r8"
        ]
    assert_all_apart(figure(tmp_path, "frontier", rows, "0123456789-dirty"))


def test_the_page_says_how_to_read_it_and_what_was_trained(whole: Figure) -> None:
    assert reading(whole) == f"{frontier.READING} {frontier.GREY}"
    assert "DEMO STUDY: not the paper's numbers" in texts(whole)
    assert texts(whole).splitlines()[0] == REGISTRY["frontier"].title
    for part in (
        "frontier (beyond the paper)", "All points trained here", "Code CPT 128K tokens", "Math IFT 2 epochs",
        "LoRA (r=1) 1e-3 to 1.6e-2", "LoRA (r=8) 5e-4 to 8e-3", "full finetuning 5e-5 to 8e-4", "one standard error",
    ):  # fmt: skip
        assert part in footer(whole)
    assert legend_entries(whole) == [
        "LoRA (r=1)", "LoRA (r=4)", "LoRA (r=8)", "full finetuning", "base model", "A method's learning rates:",
        "lowest", "highest", "the study's choice", "matched or beaten by full finetuning",
    ]  # fmt: skip


def test_a_study_without_full_finetuning_or_base_model_names_neither(tmp_path: Path) -> None:
    rows = [row for row in sweep(methods=("lora-r1", "lora-r8")) if row["kind"] != "base"]
    drawn = figure(tmp_path, "frontier", rows)
    assert not [patch for ax in drawn.axes for patch in ax.patches]
    assert not [found for ax in drawn.axes for found in ax.lines if found.get_gid() == "base model"]
    assert not {"base model", "matched or beaten by full finetuning"} & set(legend_entries(drawn))
    assert "grey" not in reading(drawn).lower()


def test_a_rate_stands_once_in_a_sweep_and_only_there_beside_others(tmp_path: Path) -> None:
    rows = [row for row in sweep() if row["metric"] == "forgetting"]
    twice = next(row for row in rows if row["method"] == "full" and row["learning_rate"] == 4e-4)
    path = write(tmp_path / "twice.csv", [*rows, twice])
    with pytest.raises(UserError, match=r"full .* at learning rate 0\.0004 \(seed 0\) more than once"):
        read_points(path, ["forgetting"], by_rate=True)
    path = write(tmp_path / "sweep.csv", rows)
    assert sum(len(panel.points) for panel in read_points(path, ["forgetting"], by_rate=True).panels) == 80
    with pytest.raises(UserError, match="more than once"):
        read_points(path, ["forgetting"])
