"""Figure S9 from made-up evaluations of the paper's study: whose curve stands where."""

from pathlib import Path

import numpy
import pytest

from scripts.artifacts import style
from scripts.common.errors import UserError
from tests.artifacts import kinds
from tests.artifacts.conftest import assert_all_apart, bars, data, footer, legend_entries, line, markers, texts

KS = [2**power for power in range(9)]
METHODS = ("lora-r16", "lora-r64", "lora-r256", "full")


def made(tmp_path: Path) -> Path:
    """The CSV of a study where each model solves every problem with its own probability p: 1 - (1 - p)^k."""
    launch = kinds.launch(tmp_path)
    for place, condition in enumerate(kinds.conditions("pass-at-k")):
        metrics = {f"pass@{k}": expected(place, k) for k in KS}
        results = {"items": 164, "metrics": metrics, "errors": dict.fromkeys(metrics, 0.01)}
        kinds.put(launch.store, condition.evaluations["pass_at_k"], results)
    kinds.collected(launch, "figS9", tmp_path / "figS9.csv")
    return tmp_path / "figS9.csv"


def expected(place: int, k: int) -> float:
    return float(1 - (1 - 0.01 * (place + 1)) ** k)


def test_every_model_has_its_curve_over_k(tmp_path: Path) -> None:
    path = made(tmp_path)
    names = [condition.method for condition in kinds.conditions("pass-at-k")]
    assert len(kinds.rows(path)) == 5 * 9
    drawn = kinds.figure(path, "figS9")
    (ax,) = drawn.axes
    assert sorted(names) == sorted(["base", *METHODS])
    for place, name in enumerate(names):
        found = line(ax, "base model" if name == "base" else name)
        assert data(found) == [(k, expected(place, k)) for k in KS]
        assert (found.get_linestyle() == "--") == (name == "base")
    assert len(markers(ax)) == 4 * 9
    assert len(bars(ax)) == 5 * 9
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(k) for k in KS]
    low, high = ax.get_ylim()
    assert all(low < y < high for found in markers(ax) for _, y in data(found))
    assert legend_entries(drawn) == ["LoRA (r=16)", "LoRA (r=64)", "LoRA (r=256)", "full finetuning", "base model"]
    assert "256 programs per problem at temperature 0.8" in footer(drawn)
    assert "All points trained here" in footer(drawn)
    assert "after 4 epochs" in [text.get_text() for text in ax.texts]
    assert style.DEMO_NOTE not in texts(drawn)
    assert_all_apart(drawn)


def test_seeds_are_a_mean_and_a_range_and_what_is_missing_is_not_drawn(tmp_path: Path) -> None:
    rows = [{**row, "scale": "demo"} for row in kinds.rows(made(tmp_path))]
    seeds = [
        {**row, "seed": seed, "value": float(row["value"]) * (1 - seed / 10), "condition": f"{seed}{row['condition']}"}
        for row in rows
        if row["method"] == "full"
        for seed in (1, 2)
    ]
    for row in rows:
        if row["method"] == "lora-r64":
            row["value"] = row["stderr"] = ""
    path = kinds.write(tmp_path / "seeds.csv", [*rows, *seeds])
    drawn = kinds.figure(path, "figS9")
    (ax,) = drawn.axes
    single = [float(row["value"]) for row in rows if row["method"] == "full"]
    assert [y for _, y in data(line(ax, "full"))] == pytest.approx(list(0.9 * numpy.array(single)))
    ends = [sorted(y for _, y in data(bar)) for bar in bars(ax)]
    assert [pytest.approx(0.8 * single[0]), single[0]] in ends
    assert not [found for found in ax.lines if found.get_gid() == "lora-r64"]
    assert "Points of 3 seeds" in footer(drawn)
    assert "1 more not there yet" in footer(drawn)
    assert style.DEMO_NOTE in texts(drawn)
    assert "(demo)" in ax.get_ylabel()
    twice = kinds.write(tmp_path / "twice.csv", [*rows, rows[0]])
    with pytest.raises(UserError, match="more than one row of method base, seed 0"):
        kinds.figure(twice, "figS9")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "high"}, "value: 'high' in row 2 is not a number"),
        ({"value": ""}, "has no row with a value"),
    ],
)
def test_a_csv_that_cannot_be_drawn_is_one_sentence(tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = kinds.write(tmp_path / "bad.csv", [{**row, **change} for row in kinds.rows(made(tmp_path))])
    with pytest.raises(UserError, match=message):
        kinds.figure(path, "figS9")
    lacking = [{key: cell for key, cell in row.items() if key != "k"} for row in kinds.rows(path)]
    with pytest.raises(UserError, match="lacks the column k"):
        kinds.figure(kinds.write(path, lacking), "figS9")
    with pytest.raises(UserError, match="cannot be read"):
        kinds.figure(tmp_path / "nowhere.csv", "figS9")


def test_an_evaluation_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pass_at_k-[0-9a-f]{12} has to be made first"):
        kinds.collected(kinds.launch(tmp_path), "figS9", tmp_path / "figS9.csv")
