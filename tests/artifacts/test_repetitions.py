"""By how much repetitions differ: against numpy, and by simulation."""

import csv
import math
from pathlib import Path

import numpy
import pytest
from matplotlib.figure import Figure

from scripts.artifacts import record_repetitions, repetitions
from scripts.common.errors import UserError
from tests.artifacts.conftest import figure, footer, tuned_row, write

DURATIONS = ("64K", "128K")


def rows(values: numpy.ndarray) -> list[dict[str, object]]:
    """Of code CPT: [methods, durations, seeds] scores of hellaswag."""
    return [
        tuned_row("code-cpt", method, duration, "hellaswag", seed=seed) | {"value": values[i, j, seed]}
        for i, method in enumerate(("full", "lora-r1"))
        for j, duration in enumerate(DURATIONS)
        for seed in range(values.shape[2])
    ]


def test_deviations_are_pooled_over_conditions(tmp_path: Path) -> None:
    dice = numpy.random.default_rng(0)
    values = dice.normal(0.5, 0.03, (2, 2, 3))
    made = write(tmp_path / "a.csv", rows(values))
    # the same rows in a second figure count once
    (found,) = record_repetitions.deviations([made, write(tmp_path / "b.csv", rows(values))]).to_dict("records")
    assert found["deviation"] == pytest.approx(math.sqrt(values.var(axis=2, ddof=1).mean()))
    assert (found["setting"], found["metric"], found["seeds"], found["conditions"]) == ("code-cpt", "hellaswag", 3, 4)


def test_two_of_three_repetitions_lie_within_the_reach(tmp_path: Path) -> None:
    dice = numpy.random.default_rng(1)
    out = tmp_path / "repetitions.csv"
    many = dice.normal(0.5, 0.03, (2, 2, 400))
    record_repetitions.main("demo", [write(tmp_path / "a.csv", rows(many))], out)
    reach = repetitions.reach("demo", out)["code-cpt", "hellaswag"]
    apart = abs(dice.normal(0.5, 0.03, 100_000) - dice.normal(0.5, 0.03, 100_000))
    assert (apart < reach).mean() == pytest.approx(0.683, abs=0.03)


def test_what_is_recorded_of_other_studies_stays(tmp_path: Path) -> None:
    out = tmp_path / "repetitions.csv"
    made = write(tmp_path / "a.csv", rows(numpy.random.default_rng(2).normal(0.5, 0.1, (2, 2, 2))))
    for study in ("one", "other", "one"):
        record_repetitions.main(study, [made], out)
    with out.open(newline="") as file:
        assert sorted(row["study"] for row in csv.DictReader(file)) == ["one", "other"]
    assert repetitions.reach("nobody", out) == {}


def test_one_seed_says_nothing(tmp_path: Path) -> None:
    made = write(tmp_path / "a.csv", rows(numpy.full((2, 2, 1), 0.5)))
    with pytest.raises(UserError, match="more than one seed"):
        record_repetitions.deviations([made])


def test_the_committed_ones_are_of_the_recorded_demo(tmp_path: Path) -> None:
    out = tmp_path / "repetitions.csv"
    figures = Path("docs/studies/demo/figures")
    record_repetitions.main("demo", [figures / f"{name}.csv" for name in ("fig1", "fig2", "losses")], out)
    assert repetitions.reach("demo", out) == repetitions.reach("demo")


def reaches(drawn: Figure) -> list[tuple[float, float]]:
    """The ends of the wide bars."""
    found = [line for ax in drawn.axes for line in ax.lines if line.get_gid() == "reach"]
    return [(min(line.get_ydata()), max(line.get_ydata())) for line in found]


def fig2(study: str, seeds: int) -> list[dict[str, object]]:
    tasks = ("hellaswag", "arc_challenge", "winogrande", "forgetting")
    return [
        tuned_row("code-cpt", method, duration, task, seed=seed) | {"study": study}
        for method in ("full", "lora-r1")
        for duration in DURATIONS
        for task in tasks
        for seed in range(seeds)
    ]


def test_points_of_one_seed_show_where_a_repetition_may_lie(tmp_path: Path) -> None:
    rows = fig2("demo", seeds=1)
    drawn = figure(tmp_path, "fig2", rows)
    half = repetitions.reach("demo")["code-cpt", "forgetting"]
    values = [float(row["value"]) for row in rows if row["metric"] == "forgetting"]
    assert [sum(ends) / 2 for ends in sorted(reaches(drawn))] == pytest.approx(sorted(values))
    assert [high - low for low, high in reaches(drawn)] == pytest.approx([2 * half] * len(values))
    low, high = drawn.axes[0].get_ylim()
    assert low < min(values) - half
    assert high > max(values) + half
    assert "two of three repetitions" in footer(drawn)


@pytest.mark.parametrize(("study", "seeds"), [("demo", 3), ("mine", 1)])
def test_several_seeds_and_unrecorded_studies_have_no_such_bars(tmp_path: Path, study: str, seeds: int) -> None:
    drawn = figure(tmp_path, "fig2", fig2(study, seeds))
    assert reaches(drawn) == []
    assert "repetitions" not in footer(drawn)
