"""Figures and tables of the paper's printed numbers: their CSVs, and what a reader sees of what is made from them."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from scripts.artifacts import bands, draw, learning_forgetting, memory_table, printed, tabulate, tradeoff
from scripts.artifacts.points import Points, read_points
from scripts.common.errors import UserError
from tests.artifacts.conftest import (
    REGISTRY,
    ROOT,
    assert_all_apart,
    data,
    footer,
    legend_entries,
    line,
    markers,
    texts,
)
from tests.artifacts.test_memory_table import CELLS as MEMORY
from tests.plan.paper_tables import BASE, CELLS, CHAT, CPT, IFT, METRICS, SETTINGS

TABLES = list(CELLS)
PANELS = ["code-cpt", "code-ift", "math-cpt", "math-ift"]
LEARNING = {"code-cpt": "tableS1", "code-ift": "tableS5", "math-cpt": "tableS3", "math-ift": "tableS7"}
FORGETTING = {"code-cpt": "tableS2", "code-ift": "tableS6", "math-cpt": "tableS4", "math-ift": "tableS8"}
COLOURS = {"lora-r16": "plum", "lora-r64": "slateblue", "lora-r256": "darkblue", "full": "black"}


def made(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name.replace('/', '-')}.csv"
    printed.main(name, path)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def points(tmp_path: Path, name: str) -> Points:
    return read_points(made(tmp_path, name), REGISTRY[name].needs)


def numbers(table: str, method: str) -> list[float]:
    """A method's numbers in a table, in order of duration."""
    return [float(CELLS[table][method, duration]) for duration in durations_of(table)]


def durations_of(table: str) -> tuple[str, ...]:
    return {"cpt": CPT, "ift": IFT}[SETTINGS[table][-3:]] if SETTINGS[table] != "chat-ift" else CHAT


# --- the CSV


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_csv_has_its_numbers_as_they_are_printed(tmp_path: Path, name: str) -> None:
    found = rows(made(tmp_path, name))
    tuned = [row for row in found if row["kind"] != "base"]
    assert {(row["method"], row["duration"]): row["value"] for row in tuned} == CELLS[name]
    assert len(tuned) == len(CELLS[name])
    assert {(row["setting"], row["metric"]) for row in tuned} == {(SETTINGS[name], METRICS[name])}
    base = [(METRICS[name], BASE[METRICS[name]])] if METRICS[name] in BASE else []  # none is printed of MMLU
    assert [(row["metric"], row["value"]) for row in found if row["kind"] == "base"] == base
    assert {(row["source"], row["scale"], row["stderr"], row["seed"], row["evaluations"]) for row in found} == {
        ("printed", "paper", "", "", "")
    }
    items = {"humaneval": "164", "gsm8k": "1319", "forgetting": "12481"}
    assert {row["items"] for row in found} == {items.get(METRICS[name], "")}
    assert {(row["method"], row["rank"], row["alpha"], row["modules"]) for row in tuned} == {
        ("full", "", "", ""),
        ("lora-r16", "16", "32", "all"),
        ("lora-r64", "64", "128", "all"),
        ("lora-r256", "256", "512", "all"),
    }


def test_the_heading_over_the_chat_tables_has_all_their_numbers(tmp_path: Path) -> None:
    found = rows(made(tmp_path, "tableS9"))
    assert {
        (row["metric"], row["method"], row["duration"]): row["value"] for row in found if row["kind"] != "base"
    } == {
        (METRICS[name], *cell): number
        for name in ("tableS10", "tableS11", "tableS12", "tableS13")
        for cell, number in CELLS[name].items()
    }
    assert {row["metric"]: row["value"] for row in found if row["kind"] == "base"} == {
        metric: number for metric, number in BASE.items() if metric != "humaneval"
    }
    # how many tokens an epoch of Tulu-v2-mix has, the paper does not say
    assert {row["tokens"] for row in found} == {""}


@pytest.mark.parametrize("name", ["tableS14", "tableS15", "tableS16"])
def test_a_memory_table_has_its_numbers_as_they_are_printed(tmp_path: Path, name: str) -> None:
    found = rows(made(tmp_path, name))
    assert {(row["table"], row["method"], row["gpus"]): row["gigabytes"] for row in found} == {
        cell: number for cell, number in MEMORY.items() if cell[0] == name
    }
    assert {row["source"] for row in found} == {"printed"}
    assert set(memory_table.COLUMNS) < set(found[0])
    # what is computed has the same cells in the same order
    cells = [(row["method"], int(row["gpus"]), row["parameters"]) for row in found]
    assert cells == [(row["method"], row["gpus"], row["parameters"]) for row in memory_table.rows(name)]


def test_the_first_edition_shows_only_what_its_text_says_of_known_adapters(tmp_path: Path) -> None:
    def cells(name: str) -> set[tuple[str, ...]]:
        columns = ("setting", "method", "rank", "alpha", "modules", "duration", "value", "learning_rate")
        return {tuple(row[column] for column in columns) for row in rows(made(tmp_path, name))}

    adapter = ("lora-r256", "256", "", "all without gate")
    full = ("full", "", "", "")
    base = ("", "base", "", "", "", "", "0.145", "")
    assert cells("v1/fig2") == {
        base,
        ("code-cpt", *adapter, "16B", "0.175", ""),
        ("code-cpt", *full, "1B", "0.172", ""),
        ("code-cpt", *full, "20B", "0.263", ""),
        ("code-ift", *adapter, "4", "0.407", ""),
        ("code-ift", *full, "2", "0.464", ""),
        ("code-ift", *full, "8", "0.497", ""),
        ("math-cpt", *adapter, "8.6B", "0.187", ""),
        ("math-cpt", *full, "4.3B", "0.191", ""),
        ("math-cpt", *full, "8.6B", "0.230", ""),
        ("math-ift", *adapter, "4", "0.622", ""),
        ("math-ift", *full, "2", "0.640", ""),
        ("math-ift", *full, "4", "0.642", ""),
    }
    # which of the adapters has 0.64 and 0.63 is not said
    assert cells("v1/fig3") == {
        ("code-cpt", *full, "20B", "0.54", ""),
        ("code-ift", *full, "8", "0.45", ""),
        ("math-ift", *full, "4", "0.57", ""),
    }


def test_training_tokens_and_rates_are_the_papers(tmp_path: Path) -> None:
    facts = {
        (row["setting"], row["method"], row["duration"]): (float(row["tokens"]), float(row["learning_rate"]))
        for row in rows(made(tmp_path, "fig1"))
        if row["kind"] != "base"
    }
    assert facts["code-cpt", "full", "0.25B"] == (0.25e9, 1e-5)
    assert facts["math-cpt", "lora-r64", "20B"] == (20e9, 4e-5)
    assert facts["code-ift", "lora-r256", "16"] == (1.16752e9, 1e-4)
    assert facts["math-ift", "lora-r16", "2"] == (206e6, 1e-4)


def test_one_model_has_one_fingerprint_in_every_artifact(tmp_path: Path) -> None:
    found: dict[str, set[tuple[str, str, str]]] = {}
    for name in [*TABLES, "tableS9", "fig3"]:
        for row in rows(made(tmp_path, name)):
            found.setdefault(row["condition"], set()).add((row["setting"], row["method"], row["duration"]))
    assert len(found) == 4 * (2 * len(CPT) + 2 * len(IFT) + len(CHAT)) + 1
    assert all(len(models) == 1 for models in found.values())


@pytest.mark.parametrize("name", ["frontier", "fig6", "v1/tableS1"])
def test_what_has_no_printed_numbers_is_refused(tmp_path: Path, name: str) -> None:
    figures = [f"fig{n}" for n in (1, 2, 3, "S4", "S5", "S6")]
    known = [*figures, *(f"tableS{n}" for n in range(1, 17)), "v1/fig2", "v1/fig3"]
    with pytest.raises(UserError, match=rf"^{name}: the paper prints no numbers that .*; it does for ") as caught:
        printed.main(name, tmp_path / "it.csv")
    assert str(caught.value).rpartition("it does for ")[2].split(", ") == known
    assert not list(tmp_path.iterdir())


def test_the_command_line_says_a_mistake_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.artifacts.printed", "fig99", "--csv", str(tmp_path / "it.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: config/artifacts\.yaml: has no artifact 'fig99'; .*\n", done.stderr)


# --- what is drawn


@pytest.mark.parametrize(("name", "tables"), [("fig1", LEARNING), ("fig2", FORGETTING)])
def test_figures_1_and_2_show_the_tables_in_the_papers_colours(
    tmp_path: Path, name: str, tables: dict[str, str]
) -> None:
    drawn = learning_forgetting.draw(REGISTRY[name], points(tmp_path, name), "abc1234")
    assert [ax.get_label() for ax in drawn.axes] == PANELS
    for ax in drawn.axes:
        table = tables[ax.get_label()]
        durations = durations_of(table)
        assert [label.get_text() for label in ax.get_xticklabels()] == list(durations)
        assert ax.xaxis.get_transform().transform([1, 2, 8]).tolist() == [0, 1, 3]
        amounts = [float(d.removesuffix("B")) * (1e9 if d.endswith("B") else 1) for d in durations]
        for method, colour in COLOURS.items():
            curve = line(ax, method)
            assert data(curve) == list(zip(amounts, numbers(table, method), strict=True))
            assert to_hex(curve.get_color()) == to_hex(colour)
        assert set(line(ax, "base model").get_ydata()) == {float(BASE[METRICS[table]])}
    assert_printed(drawn)


def test_figure_3_joins_learning_and_forgetting(tmp_path: Path) -> None:
    drawn = tradeoff.draw(REGISTRY["fig3"], points(tmp_path, "fig3"), "abc1234")
    assert [ax.get_label() for ax in drawn.axes] == PANELS
    for ax in drawn.axes:
        learned, kept = LEARNING[ax.get_label()], FORGETTING[ax.get_label()]
        for method in COLOURS:
            both = list(zip(numbers(kept, method), numbers(learned, method), strict=True))
            assert data(line(ax, method)) == both
        assert data(line(ax, "base model")) == [(0.671, float(BASE[METRICS[learned]]))]
    assert_printed(drawn)


@pytest.mark.parametrize(
    ("name", "tables"), [("figS4", ["tableS10"]), ("figS5", ["tableS12", "tableS11"]), ("figS6", ["tableS13"])]
)
def test_the_chat_figures_show_their_tables(tmp_path: Path, name: str, tables: list[str]) -> None:
    drawn = learning_forgetting.draw(REGISTRY[name], points(tmp_path, name), "abc1234")
    assert len(drawn.axes) == len(tables)
    for ax, table in zip(drawn.axes, tables, strict=True):
        for method, colour in COLOURS.items():
            assert data(line(ax, method)) == list(zip([2, 4, 6], numbers(table, method), strict=True))
            assert to_hex(line(ax, method).get_color()) == to_hex(colour)
        base = [found.get_ydata()[0] for found in ax.lines if found.get_gid() == "base model"]
        assert base == ([float(BASE[METRICS[table]])] if METRICS[table] in BASE else [])
    assert {marker.get_markerfacecolor() for ax in drawn.axes for marker in markers(ax)} == {"white"}
    assert "All points printed in the paper" in footer(drawn)
    assert_all_apart(drawn)


@pytest.mark.parametrize(("name", "panels", "models"), [("v1/fig2", 4, 12), ("v1/fig3", 3, 3)])
def test_the_first_editions_figures_have_the_few_points_of_its_text(
    tmp_path: Path, name: str, panels: int, models: int
) -> None:
    drawn = bands.draw(REGISTRY[name], points(tmp_path, name), "abc1234")
    assert len(drawn.axes) == panels
    shown = [marker for ax in drawn.axes for marker in markers(ax)]
    assert len(shown) == models
    assert {marker.get_markerfacecolor() for marker in shown} == {"white"}
    assert "All points printed in the paper" in footer(drawn)
    assert_all_apart(drawn)


def assert_printed(drawn: Figure) -> None:
    """Every marker is hollow, the footer says where the numbers are from, and nothing calls it a demo."""
    models = [marker for ax in drawn.axes for marker in markers(ax)]
    assert len(models) == 2 * len(COLOURS) * (len(CPT) + len(IFT))
    assert {marker.get_markerfacecolor() for marker in models} == {"white"}
    assert "All points printed in the paper" in footer(drawn)
    assert "study: published · model: Llama-2-7B" in footer(drawn)
    assert "The paper's printed numbers" in texts(drawn)
    assert "demo" not in texts(drawn).lower()
    entries = ["LoRA (r=16)", "LoRA (r=64)", "LoRA (r=256)", "full finetuning", "base model"]
    assert legend_entries(drawn)[:5] == entries
    assert_all_apart(drawn)


def test_drawing_and_tabulating_work_on_it_unchanged(tmp_path: Path) -> None:
    pdf, png, md, tex = (tmp_path / f"it.{ending}" for ending in ("pdf", "png", "md", "tex"))
    draw.draw(REGISTRY["fig2"], made(tmp_path, "fig2"), pdf, png)
    tabulate.tabulate(REGISTRY["tableS6"], made(tmp_path, "tableS6"), md, tex)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.stat().st_size > 0
    for page in (md.read_text(encoding="utf-8"), tex.read_text(encoding="utf-8")):
        assert "printed in the paper" in page
        for number in CELLS["tableS6"].values():
            assert number in page
        assert "demo" not in page.lower()
