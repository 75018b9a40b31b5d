"""The paper's printed numbers over a study's own: the CSVs of the paper's grid, and what a reader sees of them."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import collect, style
from scripts.artifacts.points import artifact_fingerprint
from scripts.artifacts.printed import printed_rows
from scripts.artifacts.published import load_published
from scripts.common.errors import UserError
from scripts.components.models.hub import HubModel
from scripts.launch.launch import new_launch
from scripts.plan.grid import Grid
from tests.artifacts import kinds
from tests.artifacts.blocks import artifact, drawn, full, lora, row
from tests.artifacts.conftest import (
    LABELS,
    REGISTRY,
    SETTINGS,
    Row,
    assert_all_apart,
    base_row,
    data,
    figure,
    footer,
    legend_entries,
    line,
    markers,
    pick,
)
from tests.plan.paper_tables import CELLS, METRICS
from tests.plan.paper_tables import SETTINGS as SETTING_OF

NAMES = ("fig1", "fig3")
NEEDS = {"fig1": ("learning",), "fig3": ("forgetting", "learning")}
COLOURS = {"lora-r16": "#dda0dd", "lora-r64": "#6a5acd", "lora-r256": "#00008b", "full": "#000000"}
VALUES = load_published()

Model = tuple[str, str, str]
"""Setting, method and duration."""


def printed_table() -> dict[str, dict[Model, float]]:
    """Tables S1 to S8: need to model to its number."""
    table: dict[str, dict[Model, float]] = {"learning": {}, "forgetting": {}}
    for name, cells in CELLS.items():
        if SETTING_OF[name] in SETTINGS:
            need = "forgetting" if METRICS[name] == "forgetting" else "learning"
            table[need] |= {(SETTING_OF[name], *cell): float(number) for cell, number in cells.items()}
    return table


TABLE = printed_table()


def of_grid(name: str, grid: Grid) -> Any:
    """A launch whose every product is there, with made-up scores that are better than the paper's."""

    def require(key: str) -> dict[str, Any]:
        value = random.Random(key).uniform(0.7, 0.9)
        return {"results": {"value": value, "stderr": 0.02, "items": 100, "tokens": 1000}}

    return kinds.launch_of(name, grid, SimpleNamespace(require=require, read=require, is_made=lambda key: True))


@pytest.fixture(scope="module")
def launch() -> Any:
    return of_grid("paper", kinds.grid())


@pytest.fixture(scope="module")
def rows(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    """Artifact to the rows of its CSV."""
    place = tmp_path_factory.mktemp("collected")
    return {name: kinds.collected(launch, name, place / f"{name}.csv") for name in NAMES}


@pytest.fixture(scope="module")
def figures(rows: dict[str, list[Row]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    """Artifact to its picture."""
    place = tmp_path_factory.mktemp("figures")
    with style.whitegrid():
        return {name: figure(place, name, rows[name]) for name in NAMES}


def diamonds(ax: Axes) -> list[Line2D]:
    return [found for found in ax.lines if found.get_gid() == "printed"]


def model(of_row: Row) -> Model:
    return of_row["setting"], of_row["method"], of_row["duration"]


# --- the CSV


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_the_grid_has_the_papers_number_beside_its_own(name: str, rows: dict[str, list[Row]]) -> None:
    found = [each for each in rows[name] if each["kind"] != "base"]
    for need in NEEDS[name]:
        of_need = [each for each in found if (each["metric"] == "forgetting") == (need == "forgetting")]
        if name == "fig3":
            of_need = [each for each in of_need if each["metric"] in ("humaneval", "gsm8k", "forgetting")]
        trained, printed = (
            {model(each): float(each["value"]) for each in of_need if each["source"] == source}
            for source in ("trained", "printed")
        )
        assert len(trained) == len(printed) == 104
        assert set(trained) == set(printed)
        assert printed == TABLE[need]
        assert all(value >= 0.7 for value in trained.values())
    assert {each["source"] for each in rows[name] if each["kind"] == "base"} == {"trained"}
    assert {each["stderr"] for each in found if each["source"] == "printed"} == {""}
    for column in ("study", "study_title", "model", "scale"):
        assert len({each[column] for each in rows[name]}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"duration": "3B"},
        {"alpha": 64},
        {"method": "lora-r32"},
        {"modules": "all-but-gate"},
        {"setting": "code-ift"},
    ],
    ids=["duration", "alpha", "rank", "modules", "setting"],
)
def test_a_printed_number_without_a_counterpart_is_left_out(
    launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    (one,) = [each for each in VALUES if (each.artifact, each.method, each.duration) == ("tableS1", "lora-r64", "20B")]
    unsaid = one.model_copy(update={"alpha": None, "modules": None})
    for value, count in ((one, 1), (unsaid, 1), (one.model_copy(update=change), 0)):
        monkeypatch.setattr(collect, "load_published", lambda value=value: [value])
        found = kinds.collected(launch, "fig1", tmp_path / "fig1.csv")
        assert [each["source"] for each in found].count("printed") == count


def test_a_printed_number_has_the_studys_name_of_its_method(tmp_path: Path) -> None:
    """The first edition says of its best adapters the rank and the modules; alpha is 32 on code and 512 on math."""
    made = of_grid("paper-v1", new_launch("paper-v1", "nowhere").grid)
    found = kinds.collected(made, "v1/fig2", tmp_path / "fig2.csv")
    printed = {model(each): each["value"] for each in found if each["source"] == "printed"}
    assert {each: value for each, value in printed.items() if each[0] != "math-cpt"} == {
        ("code-cpt", "full", "1B"): "0.172",
        ("code-cpt", "full", "20B"): "0.263",
        ("code-cpt", "lora-r256-all", "16B"): "0.175",
        ("code-ift", "full", "2"): "0.464",
        ("code-ift", "full", "8"): "0.497",
        ("code-ift", "lora-r256-all", "4"): "0.407",
        ("math-ift", "full", "2"): "0.640",
        ("math-ift", "full", "4"): "0.642",
        ("math-ift", "lora-r256-all-alpha512", "4"): "0.622",
    }
    assert printed["math-cpt", "full", "4.3B"] == "0.191"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": "demo"}, "A demo's numbers are of Llama-2-7B and not comparable"),
        ({"model": "Pythia-1B"}, "The numbers are of Pythia-1B, and those of the paper of Llama-2-7B"),
    ],
)
def test_a_study_that_is_not_comparable_is_one_sentence(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    study = kinds.grid().study
    assert isinstance(study.model, HubModel)
    named = {"label": changes.get("model", study.model.label), "repository": "somebody/model"}
    scale = changes.get("scale", study.scale)
    other = study.model_copy(update={"scale": scale, "model": study.model.model_copy(update=named)})
    with pytest.raises(UserError, match=f"^study 'other', overlay: {said}") as raised:
        kinds.collected(of_grid("other", kinds.grid_of(other)), "fig1", tmp_path / "fig1.csv")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_without_overlay_there_is_no_printed_number(tmp_path: Path) -> None:
    plain = kinds.grid_of(kinds.grid().study.model_copy(update={"overlay": False}))
    found = kinds.collected(of_grid("plain", plain), "fig1", tmp_path / "fig1.csv")
    assert len(found) == 106
    assert {each["source"] for each in found} == {"trained"}


def test_a_table_shows_the_studys_numbers_alone(launch: Any, tmp_path: Path) -> None:
    assert {each["source"] for each in kinds.collected(launch, "tableS1", tmp_path / "tableS1.csv")} == {"trained"}


# --- the picture


@pytest.mark.parametrize("name", NAMES)
def test_printed_numbers_are_hollow_and_joined_by_nothing(
    name: str, rows: dict[str, list[Row]], figures: dict[str, Figure]
) -> None:
    amount = {each["duration"]: float(each["duration_value"]) for each in rows[name] if each["duration"]}
    for ax in figures[name].axes:
        setting = ax.get_label()
        of_setting = [model for model in TABLE["learning"] if model[0] == setting]

        def at(model: Model) -> tuple[float, ...]:
            y = TABLE[NEEDS[name][-1]][model]
            return (TABLE["forgetting"][model] if name == "fig3" else amount[model[2]], y)

        shown = diamonds(ax)
        assert sorted((*data(one)[0], to_hex(one.get_markeredgecolor())) for one in shown) == sorted(
            (*at(model), COLOURS[model[1]]) for model in of_setting
        )
        for one in shown:
            assert len(data(one)) == 1
            assert one.get_marker() == "D"
            assert one.get_markerfacecolor() == "none"
            assert one.get_linestyle() == "None"
            assert ax.viewLim.contains(*data(one)[0])
        # the study's own points are far above the paper's
        own = [data(line(ax, method)) for method in COLOURS]
        assert all(y >= 0.7 for points in own for _, y in points)
        assert sorted(point for points in own for point in points) == sorted(data(marker)[0] for marker in markers(ax))
        assert all(ax.viewLim.contains(*data(marker)[0]) for marker in markers(ax))
        assert {marker.get_markeredgecolor() for marker in markers(ax)} == {"white"}


@pytest.mark.parametrize("name", NAMES)
def test_the_page_counts_and_names_both_kinds(
    name: str, rows: dict[str, list[Row]], figures: dict[str, Figure]
) -> None:
    page = figures[name]
    assert "104 points trained here, 104 points printed in the paper" in footer(page)
    assert f"fingerprint {artifact_fingerprint(each['condition'] for each in rows[name])}" in footer(page)
    methods = ["LoRA (r=16)", "LoRA (r=64)", "LoRA (r=256)", "full finetuning", "base model"]
    assert legend_entries(page)[:6] == [*methods, "printed in the paper"]
    assert legend_entries(page).count("printed in the paper") == 1
    assert "trained here" not in legend_entries(page), "a circle is filled and a diamond hollow"
    entries = [entry for legend in page.legends for entry in zip(legend.get_texts(), legend.get_lines(), strict=True)]
    (handle,) = [one for text, one in entries if text.get_text() == "printed in the paper"]
    assert (handle.get_marker(), handle.get_markerfacecolor()) == ("D", "none")
    assert_all_apart(page)


def test_a_trade_offs_diamonds_grow_with_duration(figures: dict[str, Figure]) -> None:
    for ax in figures["fig3"].axes:
        sizes = {data(one)[0]: one.get_markersize() for one in diamonds(ax)}
        for method in COLOURS:
            of_method = [model for model in TABLE["learning"] if model[:2] == (ax.get_label(), method)]
            grown = [sizes[TABLE["forgetting"][model], TABLE["learning"][model]] for model in of_method]
            assert grown == sorted(set(grown))


def printed_too(rows: list[Row], value: float) -> list[Row]:
    """The rows, and a printed number below each of a finetuned model, in the order of the rows."""
    tuned = [each for each in rows if each["kind"] != "base"]
    return rows + [
        {**each, "value": value + place / 1000, "stderr": "", "source": "printed", "seed": "", "condition": f"p{place}"}
        for place, each in enumerate(tuned)
    ]


def test_a_band_has_diamonds_in_its_colour(tmp_path: Path) -> None:
    adapters = [lora(rank, 32, modules) for rank in (16, 256) for modules in ("attention", "all without gate")]
    made = [base_row("humaneval", 0.4)] + [
        row(method, "code-ift", epochs, "humaneval") for method in (full(), *adapters) for epochs in ("1", "2", "4")
    ]
    rows = printed_too(made, 0.05)
    page = drawn(tmp_path, artifact("bands", "learning", name="v1/fig2", edition="v1"), rows)
    (ax,) = page.axes
    purple = to_hex(line(ax, "LoRA").get_color())
    assert {(*data(one)[0], to_hex(one.get_markeredgecolor())) for one in diamonds(ax)} == {
        (LABELS[each["duration"]], each["value"], "#000000" if each["kind"] == "full" else purple)
        for each in rows
        if each["source"] == "printed"
    }
    assert len(diamonds(ax)) == 15
    assert all(ax.viewLim.contains(*data(one)[0]) for one in diamonds(ax))
    # lowest, mean and highest are the study's own
    own = [pick(made, method=method["method"], duration="2") for method in adapters]
    assert data(line(ax, "LoRA, lowest"))[1] == (2, min(own))
    assert data(line(ax, "LoRA, highest"))[1] == (2, max(own))
    assert data(line(ax, "LoRA"))[1] == pytest.approx((2, sum(own) / 4))
    assert legend_entries(page)[-2:] == ["base model", "printed in the paper"]
    assert "15 points trained here, 15 points printed in the paper" in footer(page)
    assert "4 configurations" in footer(page)
    assert_all_apart(page)


def test_where_the_studys_own_number_is_missing_the_papers_is_not_drawn(tmp_path: Path) -> None:
    own = [
        row(method, "code-ift", epochs, metric)
        for method in (full(), lora(16))
        for epochs in ("1", "2", "4")
        for metric in ("humaneval", "forgetting")
    ]
    rows = printed_too(own, 0.05)
    gone = [{**each, "value": ""} for each in own if each["kind"] == "lora" or each["duration"] == "4"]
    here = [each for each in own if each["kind"] == "full" and each["duration"] != "4"]
    for needs in (["learning"], ["learning", "forgetting"]):
        kind = "learning_forgetting" if len(needs) == 1 else "tradeoff"
        page = drawn(tmp_path, artifact(kind, *needs), [*here, *gone, *rows[len(own) :]])
        assert [len(diamonds(ax)) for ax in page.axes] == [2]
        assert "2 points trained here, 2 points printed in the paper; 4 more not there yet" in footer(page)


def test_published_checkpoints_and_printed_numbers_are_told_apart(tmp_path: Path) -> None:
    own = [row(method, "code-ift", epochs, "humaneval") for method in (full(), lora(16)) for epochs in ("1", "2")]
    own = [{**each, "source": "published" if each["kind"] == "full" else "trained"} for each in own]
    page = drawn(tmp_path, artifact("learning_forgetting", "learning"), printed_too(own, 0.05))
    assert "2 points trained here, 2 points from published checkpoints, 4 points printed in the paper" in footer(page)
    assert legend_entries(page)[-3:] == ["trained here", "from published checkpoints", "printed in the paper"]


def test_every_figure_that_the_paper_prints_numbers_of_draws_them() -> None:
    """So that none counts in its footer what it does not show."""
    kinds_of = {REGISTRY[name].kind for name in REGISTRY if not REGISTRY[name].is_table and printed_rows(name, VALUES)}
    assert kinds_of == {"learning_forgetting", "tradeoff", "bands"}
