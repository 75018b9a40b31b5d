"""Code that computes a printed number, changed: the number is made anew, and nothing is trained or evaluated for it."""

import csv
from pathlib import Path

import pytest

from tests.conftest import House, once

pytestmark = pytest.mark.thorough

SCORES, COLLECT = "scripts/evaluation/scores.py", "scripts/artifacts/collect.py"
PAGES = ("results/claims.md", "results/comparison.md")


@pytest.fixture(scope="module")
def judged(finished: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    """The figure, the claims and the comparison, made once."""

    def make(where: Path) -> House:
        house = finished.copy(where)
        house.run("results/claims.md")
        house.run("results/comparison.md")  # of all that is evaluated by then
        assert house.plan("results/figures/fig2.pdf", *PAGES) == {}
        return house

    return once(tmp_path_factory, "judged", make)


def halve(house: House, module: str, value: str) -> None:
    path = house.root / module
    text = path.read_text()
    assert text.count(value) == 1
    path.write_text(text.replace(value, f"{value} / 2"))


def averages(house: House) -> list[float]:
    return [float(row["value"]) for row in csv.DictReader(house.csv().splitlines()) if row["metric"] == "forgetting"]


@pytest.mark.parametrize(
    ("module", "value"),
    [(SCORES, "return math.fsum(values) / len(values)"), (COLLECT, "_row(launch, condition, FORGETTING, value")],
)
def test_another_average(house: House, module: str, value: str) -> None:
    old = averages(house)
    halve(house, module, value)
    assert house.plan() == {"collect": 1, "draw": 1}
    assert not house.run()
    assert averages(house) == pytest.approx([one / 2 for one in old])
    assert house.plan() == {}


def test_claims_and_comparison(judged: House, tmp_path: Path) -> None:
    plans = {
        "scripts/artifacts/contrasts.py": {"claims": 1},
        "scripts/artifacts/counterparts.py": {"collect": 1, "draw": 1, "comparison": 1},
        SCORES: {"collect": 1, "draw": 1, "claims": 1, "comparison": 1},
        "scripts/training/loop.py": {},
        "scripts/evaluation/harness.py": {},
    }
    for number, (module, expected) in enumerate(plans.items()):
        house = judged.copy(tmp_path / str(number))
        path = house.root / module
        path.write_text(path.read_text() + "\nCHANGED = True\n")
        assert house.plan("results/figures/fig2.pdf", *PAGES) == expected, module


def test_another_look_of_one_kind(house: House) -> None:
    """What draws a kind is no part of what collects it."""
    path = house.root / "scripts/artifacts/learning_forgetting.py"
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    assert house.plan() == {"draw": 1}
