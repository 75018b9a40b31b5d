"""The smoke study's figure, made at condition grain: what every event starts from."""

from pathlib import Path

import pytest

from tests.conftest import House, once
from tests.end_to_end.truth import EVALUATIONS, LEGS, RUNS, condition_grain


@pytest.fixture(scope="session")
def finished(prepared: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    """The figure made once, with quick models."""

    def make(where: Path) -> House:
        house = prepared.copy(where)
        house.edit(condition_grain)
        assert house.plan() == {
            "train_leg": LEGS,
            "train_run": RUNS,
            "evaluate": EVALUATIONS,
            "collect": 1,
            "draw": 1,
        }
        house.run()
        assert house.plan() == {}
        return house

    return once(tmp_path_factory, "finished", make)


@pytest.fixture
def house(finished: House, tmp_path: Path) -> House:
    return finished.copy(tmp_path)
