"""Figure 5 from made-up generations: how many are different is counted again, by sets."""

import random
from pathlib import Path

import numpy
import pytest
from matplotlib.axes import Axes

from scripts.artifacts import style
from scripts.common.errors import UserError
from scripts.evaluation import results
from tests.artifacts import kinds
from tests.artifacts.conftest import assert_all_apart, data, footer, line, texts

PROBLEMS, SAMPLES = 30, 12
Written = dict[str, list[list[tuple[str, str]]]]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Method to what it wrote to each problem, a program and its outcome; as samples in the store, and collected."""
    launch = kinds.launch(tmp_path)
    draw = random.Random(0)
    made: Written = {}
    for condition in kinds.conditions("diversity"):
        made[condition.method] = [
            [(draw.choice("abcdefgh"), draw.choice(["passed", "wrong", "timed_out"])) for _ in range(SAMPLES)]
            for _ in range(PROBLEMS)
        ]
        made[condition.method][0] = [("x", "wrong")] * SAMPLES
        made[condition.method][1] = [("x", "passed")] * SAMPLES
        samples = [
            {
                "item": item,
                "completions": [text for text, _ in of_item],
                "verdicts": [outcome for _, outcome in of_item],
            }
            for item, of_item in enumerate(made[condition.method])
        ]
        results.write_samples(samples, tmp_path)
        file = (tmp_path / results.SAMPLES).read_bytes()
        kinds.put(launch.store, condition.evaluations["humaneval"], {}, samples__parquet=file)
    kinds.collected(launch, "fig5", tmp_path / "fig5.csv")
    return made


def different(of_method: list[list[tuple[str, str]]], passing: bool) -> list[int]:
    """How many different texts there are to each problem that has any."""
    sets = [{text for text, outcome in item if (outcome == "passed") == passing} for item in of_method]
    return [len(found) for found in sets if found]


def points(ax: Axes, name: str) -> list[float]:
    (found,) = [found for found in ax.collections if found.get_gid() == name]
    return [float(y) for _, y in found.get_offsets()]


def test_passing_programs_stand_left_and_failing_ones_right(tmp_path: Path, written: Written) -> None:
    drawn = kinds.figure(tmp_path / "fig5.csv", "fig5")
    order = ["base", "lora-r16", "lora-r64", "lora-r256", "full"]
    assert [ax.get_label() for ax in drawn.axes] == ["passing", "failing"]
    assert drawn.axes[0].get_position().x1 < drawn.axes[1].get_position().x0
    for ax in drawn.axes:
        assert ax.get_ylim()[1] >= SAMPLES
        for place, name in enumerate(order):
            counts = different(written[name], ax.get_label() == "passing")
            assert len(counts) < PROBLEMS
            assert points(ax, name) == counts
            assert data(line(ax, f"{name} mean")) == [(place, pytest.approx(numpy.mean(counts)))]
            assert list(line(ax, f"{name} median").get_ydata()) == [numpy.median(counts)] * 2
            assert ax.get_xticklabels()[place].get_text().endswith(f"\n{len(counts)} of {PROBLEMS}")
        labels = [" ".join(label.get_text().split("\n")[:-1]) for label in ax.get_xticklabels()]
        assert labels == ["base model", "LoRA (r=16)", "LoRA (r=64)", "LoRA (r=256)", "full finetuning"]
        assert ax.get_ylabel() == f"Different programs of {SAMPLES}"
    assert "One is left out where the model wrote no such program for it" in footer(drawn)
    assert style.DEMO_NOTE not in texts(drawn)
    assert_all_apart(drawn)


@pytest.mark.usefixtures("written")
def test_the_csv_leaves_empty_what_is_not_there(tmp_path: Path) -> None:
    rows = kinds.rows(tmp_path / "fig5.csv")
    assert len(rows) == 5 * PROBLEMS * 2
    none = [row for row in rows if row["item"] == "0" and row["outcome"] == "passing"]
    assert [(row["generations"], row["value"]) for row in none] == [("0", "")] * 5
    one = [row for row in rows if row["item"] == "1" and row["outcome"] == "passing"]
    assert [(row["generations"], row["value"]) for row in one] == [(str(SAMPLES), "1")] * 5


@pytest.mark.usefixtures("written")
def test_a_model_that_never_passes_has_an_empty_place(tmp_path: Path) -> None:
    rows = [{**row, "scale": "demo"} for row in kinds.rows(tmp_path / "fig5.csv")]
    for row in rows:
        if row["method"] == "full" and row["outcome"] == "passing":
            row |= {"value": "", "generations": "0"}
    drawn = kinds.figure(kinds.write(tmp_path / "never.csv", rows), "fig5")
    passing, failing = drawn.axes
    assert "full" not in {found.get_gid() for found in passing.collections}
    assert passing.get_xticklabels()[4].get_text() == f"full\nfinetuning\n0 of {PROBLEMS}"
    assert "full" in {found.get_gid() for found in failing.collections}
    assert style.DEMO_NOTE in texts(drawn)
    again = kinds.write(tmp_path / "twice.csv", [*rows, rows[-1]])
    with pytest.raises(UserError, match=f"item {PROBLEMS - 1}, outcome failing, where one is allowed"):
        kinds.figure(again, "fig5")
