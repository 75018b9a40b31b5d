"""Studies that measure learning or forgetting by a loss: up and right stay better, and what is said of it is true."""

from pathlib import Path
from typing import Any

import pytest

from tests.artifacts.conftest import Row, base_row, data, figure, footer, line, texts, tuned_row

SHARED: dict[str, Any] = {"scale": "own"}


def rows() -> list[Row]:
    """Two settings: one learned by its own records' loss, one by GSM8K; both forget by the source loss."""
    made: list[Row] = [
        {**base_row("target_loss", 0.9, **SHARED), "setting": "code-cpt"},
        base_row("gsm8k", 0.1, **SHARED),
        *(base_row(metric, 0.8, tasks="source_loss", **SHARED) for metric in ("source_loss", "forgetting")),
    ]
    for setting, task, durations in (("code-cpt", "target_loss", ("64K", "128K")), ("math-ift", "gsm8k", ("1", "2"))):
        for method in ("lora-r1", "full"):
            for duration in durations:
                own = {**SHARED, "learning_task": task}
                made.append(tuned_row(setting, method, duration, task, **own))
                for metric in ("source_loss", "forgetting"):
                    made.append(tuned_row(setting, method, duration, metric, tasks="source_loss", **own))
    return made


def test_the_plane_keeps_its_directions(tmp_path: Path) -> None:
    drawn = figure(tmp_path, "fig3", rows())
    code, math = drawn.axes
    for ax in (code, math):
        assert ax.get_xlim()[0] > ax.get_xlim()[1], "the source loss falls to the right"
        assert ax.get_xlabel().startswith("Source loss, bits per byte, forgets less")
    assert code.get_ylim()[0] > code.get_ylim()[1], "the target loss falls upwards"
    assert code.get_ylabel().startswith("Target loss, bits per byte")
    assert math.get_ylim()[0] < math.get_ylim()[1]
    assert math.get_ylabel().startswith("Accuracy in GSM8K")
    assert data(line(code, "base model")) == [(0.8, 0.9)]
    said = footer(drawn)
    assert "Forgetting: source loss." in said
    assert "turned round: up, or right, is better" in said
    assert "average" not in said


def test_an_own_study_says_so_and_bears_no_badge(tmp_path: Path) -> None:
    drawn = figure(tmp_path, "fig3", rows())
    assert "Own model and data - not the paper's" in footer(drawn)
    assert "demo" not in texts(drawn).lower().replace("study: demo", "").replace("demo study: made by hand", "")


@pytest.mark.parametrize("name", ["fig1", "fig2"])
def test_each_measure_up_a_panel(tmp_path: Path, name: str) -> None:
    drawn = figure(tmp_path, name, rows())
    falls = [ax.get_ylim()[0] > ax.get_ylim()[1] for ax in drawn.axes]
    assert falls == ([True, False] if name == "fig1" else [True, True])
    if name == "fig2":
        assert "Forgetting: source loss, lower forgets less" in footer(drawn)


def test_what_is_learned_is_a_loss_of_its_own_figure_too(tmp_path: Path) -> None:
    own = [row for row in rows() if row.get("setting") != "math-ift"]
    drawn = figure(tmp_path, "losses", own)
    target, source = drawn.axes
    assert data(line(target, "full"))
    assert [y for _, y in data(line(source, "base model"))] == [0.8] * 2
