"""The rule that chooses rates, and whether committed rates still follow from the sweep."""

from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.study.accept_rates import check
from scripts.study.launch import launch_by_hand
from scripts.study.learning_rates import choose, edge
from scripts.study.load import ACCEPTED, STUDIES

POINTS = st.lists(
    st.tuples(st.floats(1e-6, 0.5), st.integers(0, 5)), min_size=2, max_size=8, unique_by=lambda point: point[0]
)


def curve(points: list[tuple[float, float]]) -> list[dict[str, float]]:
    return [{"learning_rate": rate, "score": score} for rate, score in points]


@given(POINTS, st.randoms())
def test_the_highest_score_and_of_a_tie_the_lowest_rate(points: list[tuple[float, float]], dice: object) -> None:
    rates, scores = (numpy.array(column, dtype=float) for column in zip(*sorted(points), strict=True))
    expected = rates[scores.argmax()]  # argmax takes the first of equals, and rates rise
    dice.shuffle(points)  # type: ignore[attr-defined]
    assert choose(curve(points)) == expected
    ends = {rates[0]: "lowest", rates[-1]: "highest"}
    assert edge(curve(points)) == ends.get(expected)


def test_an_interior_choice() -> None:
    points = curve([(1e-4, 0.1), (2e-4, 0.6), (4e-4, 0.6), (8e-4, 0.3)])
    assert choose(points) == 2e-4
    assert edge(points) is None


def test_committed_rates_follow_from_their_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    check(None)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(list(STUDIES.glob(f"*{ACCEPTED}"))) > 0
    assert all("follows from the sweep" in line for line in said)


def test_demo_seeds_has_the_rates_of_demo_and_more_items() -> None:
    demo, seeds = (launch_by_hand(name, str(Path("nowhere"))).grid.study for name in ("demo", "demo-seeds"))
    assert len(demo.seeds) == 1
    assert len(seeds.seeds) == 3
    for name, setting in demo.settings.items():
        assert seeds.settings[name].learning_rates == setting.learning_rates
    for task, settings in demo.evaluation.tasks:
        if settings is None:
            continue
        few, many = demo.datasets[settings.dataset], seeds.datasets[getattr(seeds.evaluation.tasks, task).dataset]
        assert many.records >= 2 * few.records  # type: ignore[union-attr]
