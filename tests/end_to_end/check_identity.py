"""One row of the table of events, in one of the states that Snakemake's memory and a store's timestamps can be in."""

import hashlib
from pathlib import Path

import pytest

from tests.conftest import House, once
from tests.end_to_end.identity import STATES, TABLE, one_setting
from tests.end_to_end.truth import FIG2, check_truth

STATE_NAMES = list(STATES)


def rows(grain: str) -> list[object]:
    """Every row in every state, most of them slow.

    Of each row one state, in turn, is for every commit: at both grains, or in turn at one where that makes no
    difference to the jobs.
    """
    found = []
    for number, (row, expected) in enumerate(TABLE.items()):
        at_both = expected.condition != expected.family
        here = at_both or (number % 2 == 0) == (grain == "family")
        quick = (number + (grain == "family") if at_both else number // 2) % len(STATES)
        for index, state in enumerate(STATES):
            mark = pytest.mark.thorough if here and index == quick else pytest.mark.slow
            found.append(pytest.param(row, state, marks=mark, id=f"{row}, {state}".replace(" ", "-")))
    return found


def finished_house(prepared: House, factory: pytest.TempPathFactory, grain: str) -> House:
    """The figure made once at a grain, with quick models."""

    def make(where: Path) -> House:
        house = prepared.copy(where)
        house.edit(one_setting)
        house.edit(lambda study: study.update(grain=grain))
        house.run()
        assert house.plan() == {}
        return house

    return once(factory, f"finished-{grain}", make)


def check(finished: House, prepared: House, tmp_path: Path, row: str, state: str, grain: str) -> None:
    """The event plans the jobs of the table, makes a true figure, and trains nothing that is there."""
    house, expected = finished.copy(tmp_path), TABLE[row]
    expected.event(house)
    STATES[state](house)
    assert house.plan() == getattr(expected, grain)
    done = house.run()
    assert sum(count for name, count in done.items() if name.startswith("trained ")) == expected.trained
    check_truth(house, prepared, tmp_path)
    assert set(done.values()) <= {1}
    values = hashlib.sha256(house.csv().encode()).hexdigest()[:12]
    assert values.encode() in (house.root / FIG2).with_suffix(".png").read_bytes()
