"""Figures and tables of the paper's printed numbers: their CSVs, and what a reader sees of what is made from them."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from scripts.artifacts import draw, learning_forgetting, printed, tabulate, tradeoff
from scripts.artifacts.points import Points, read_points
from scripts.study.errors import UserError
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
from tests.study.paper_tables import BASE, CELLS, CPT, IFT, METRICS, SETTINGS

TABLES = [f"tableS{n}" for n in range(1, 9)]
PANELS = ["code-cpt", "code-ift", "math-cpt", "math-ift"]
LEARNING = {"code-cpt": "tableS1", "code-ift": "tableS5", "math-cpt": "tableS3", "math-ift": "tableS7"}
FORGETTING = {"code-cpt": "tableS2", "code-ift": "tableS6", "math-cpt": "tableS4", "math-ift": "tableS8"}
COLOURS = {"lora-r16": "plum", "lora-r64": "slateblue", "lora-r256": "darkblue", "full": "black"}


def made(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.csv"
    printed.main(name, path)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def points(tmp_path: Path, name: str) -> Points:
    return read_points(made(tmp_path, name), REGISTRY[name].needs)


def numbers(table: str, method: str) -> list[float]:
    """A method's numbers in a table, in order of duration."""
    return [float(CELLS[table][method, d]) for d in (CPT if SETTINGS[table].endswith("cpt") else IFT)]


# --- the CSV


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_csv_has_its_numbers_as_they_are_printed(tmp_path: Path, name: str) -> None:
    found = rows(made(tmp_path, name))
    tuned = [row for row in found if row["kind"] != "base"]
    assert {(row["method"], row["duration"]): row["value"] for row in tuned} == CELLS[name]
    assert len(tuned) == len(CELLS[name])
    assert {(row["setting"], row["metric"]) for row in tuned} == {(SETTINGS[name], METRICS[name])}
    assert [(row["metric"], row["value"]) for row in found if row["kind"] == "base"] == [
        (METRICS[name], BASE[METRICS[name]])
    ]
    assert {(row["source"], row["scale"], row["stderr"], row["seed"], row["evaluations"]) for row in found} == {
        ("printed", "paper", "", "", "")
    }
    items = {"humaneval": "164", "gsm8k": "1319", "forgetting": "12481"}
    assert {row["items"] for row in found} == {items[METRICS[name]]}


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
    for name in [*TABLES, "fig3"]:
        for row in rows(made(tmp_path, name)):
            found.setdefault(row["condition"], set()).add((row["setting"], row["method"], row["duration"]))
    assert len(found) == 2 * 4 * (len(CPT) + len(IFT)) + 1
    assert all(len(models) == 1 for models in found.values())


@pytest.mark.parametrize("name", ["frontier", "losses"])
def test_what_has_no_printed_numbers_is_refused(tmp_path: Path, name: str) -> None:
    known = "fig1, fig2, fig3, tableS1, .*, tableS8"
    with pytest.raises(UserError, match=rf"^{name}: the paper prints no numbers that .*; it does for {known}$"):
        printed.main(name, tmp_path / "it.csv")
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
        durations = CPT if SETTINGS[table].endswith("cpt") else IFT
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
