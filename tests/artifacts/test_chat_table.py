"""Table S9, all measures of the chat setting side by side, read back as its readers would."""

from pathlib import Path
from typing import Any

import pytest

from scripts.artifacts import chat_table, score_table, tables
from scripts.common.errors import UserError
from tests.artifacts.blocks import artifact, full, lora, row
from tests.artifacts.conftest import LABELS, Row, base_row, write
from tests.artifacts.test_tables import read_latex, read_markdown

NEEDS = ("mt_bench", "mmlu", "learning", "forgetting")
METRICS = {"mt_bench": "MT-bench", "mmlu": "MMLU", "gsm8k": "GSM8K", "forgetting": "Forgetting"}
METHODS = (full(), lora(256), lora(16))
ROWS = {"lora-r16-a32-all": "LoRA (r=16)", "lora-r256-a512-all": "LoRA (r=256)", "full": "full finetuning"}
EPOCHS = ("2", "4", "6")
S9 = artifact("chat_table", *NEEDS, name="tableS9", setting="chat-ift", block="chat")
S10 = artifact("score_table", "mt_bench", name="tableS10", setting="chat-ift", block="chat")
S11 = artifact("score_table", "mmlu", name="tableS11", setting="chat-ift", block="chat")


@pytest.fixture(autouse=True)
def six_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABELS, "6", 6.0)


def study(**more: Any) -> list[Row]:
    """MT-bench scores are tenfold; no base model has one, as in the paper it is not ours."""
    rows = [base_row(metric, 0.1 + 0.1 * i) for i, metric in enumerate(list(METRICS)[1:])]
    rows += [row(m, "chat-ift", epochs, metric, **more) for m in METHODS for epochs in EPOCHS for metric in METRICS]
    for found in rows:
        found["scale"], found["items"] = "paper", {"mt_bench": 80, "mmlu": 14042}.get(found["metric"], 100)
        if found["metric"] == "mt_bench":
            found["value"], found["stderr"] = found["value"] * 10, 0.211
    return rows


def value(rows: list[Row], metric: str, method: str, epochs: str = "") -> tuple[float, float]:
    (found,) = [r for r in rows if (r["metric"], r["method"], r.get("duration", "")) == (metric, method, epochs)]
    return found["value"], found["stderr"]


def test_four_measures_stand_side_by_side(tmp_path: Path) -> None:
    rows = study()
    made = chat_table.table(S9, write(tmp_path / "a.csv", rows[::-1]), "abc1234")
    header = ["Epochs", *(f"{title} {epochs}" for title in METRICS.values() for epochs in EPOCHS)]
    cells = [(metric, epochs) for metric in METRICS for epochs in EPOCHS]
    grid, text = read_markdown(tables.markdown(made))
    assert grid[0] == header
    base = [
        "—" if metric == "mt_bench" else "{:.3f} ± {:.3f}".format(*value(rows, metric, "base")) for metric, _ in cells
    ]
    assert grid[1] == ["base model", *base]
    for line, (method, label) in zip(grid[2:], ROWS.items(), strict=True):
        expected = ["{:.3f} ± {:.3f}".format(*value(rows, *cell[:1], method, cell[1])) for cell in cells]
        assert line == [label, *expected]
    latex = tables.latex(made)
    assert r"\begin{tabular}{lcccccccccccc}" in latex
    assert all(f"{value(rows, metric, 'full', epochs)[0]:.3f}" in latex for metric, epochs in cells)
    for part in (
        "MT-bench: MT-bench score, 1 to 10, the mean grade of a judge model. 80 test items.",
        "MMLU: Accuracy in MMLU, mean over its subjects. 14042 test items.",
        "GSM8K: Accuracy in GSM8K, strict match. 100 test items.",
        "Forgetting: Forgetting average: 1/3 (HellaSwag + ARC-challenge + WinoGrande), higher forgets less.",
        "One seed. ±: one standard error",
        "—: missing, 1 of 40 values.",
        "All points trained here",
        "tableS9 (v2)",
    ):
        assert part in text
    assert text.startswith("Table S9. ")


def test_a_measure_may_lack_a_cell_that_another_has(tmp_path: Path) -> None:
    rows = study()
    gone = {"metric": "mmlu", "method": "full", "duration": "4"}
    rows = [{**found, "value": "", "stderr": ""} if gone.items() <= found.items() else found for found in rows]
    rows = [found for found in rows if (found["metric"], found.get("duration")) != ("mt_bench", "6")]
    grid, text = read_markdown(tables.markdown(chat_table.table(S9, write(tmp_path / "a.csv", rows), "abc1234")))
    assert [cell for cell in grid[0] if cell.startswith("MT-bench")] == ["MT-bench 2", "MT-bench 4", "MT-bench 6"]
    there = [(line[0], title) for line in grid[2:] for title, cell in zip(grid[0], line, strict=True) if cell == "—"]
    assert there == [*((label, "MT-bench 6") for label in ROWS.values()), ("full finetuning", "MMLU 4")]
    assert "—: missing, 5 of 40 values." in text


def test_a_measure_without_any_value_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [found for found in study() if found["metric"] != "mt_bench"])
    with pytest.raises(UserError, match="no row of a finetuned model with a value for mt_bench"):
        chat_table.table(S9, path, "abc1234")


@pytest.mark.parametrize(
    ("what", "metric", "said"),
    [
        (S10, "mt_bench", "MT-bench score, 1 to 10, the mean grade of a judge model"),
        (S11, "mmlu", "Accuracy in MMLU, mean over its subjects"),
    ],
)
def test_one_measure_has_a_table_of_its_own(tmp_path: Path, what: Any, metric: str, said: str) -> None:
    rows = study()
    made = score_table.table(what, write(tmp_path / "a.csv", rows), "abc1234")
    grid, text = read_markdown(tables.markdown(made))
    assert grid[0] == ["Epochs", *EPOCHS]
    for line, (method, label) in zip(grid[2:], ROWS.items(), strict=True):
        assert line == [label, *("{:.3f} ± {:.3f}".format(*value(rows, metric, method, e)) for e in EPOCHS)]
    assert said in text
    tex_grid, tex_text = read_latex(tables.latex(made))
    assert [line[1] for line in tex_grid[2::2]] == [line[1].split(" ")[0] for line in grid[2:]]
    assert said in tex_text


def test_a_demo_says_so(tmp_path: Path) -> None:
    rows = [{**found, "scale": "demo"} for found in study()]
    _, text = read_markdown(tables.markdown(chat_table.table(S9, write(tmp_path / "a.csv", rows), "abc1234")))
    assert "Demo study - not the paper's numbers." in text
    assert "MT-bench score, 1 to 10 (demo)" in text
