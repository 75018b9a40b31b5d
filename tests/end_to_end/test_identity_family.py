"""The table of events at family grain: see `tests.end_to_end.identity`."""

from pathlib import Path

import pytest

from tests.conftest import House
from tests.end_to_end.check_identity import check, finished_house, rows

GRAIN = "family"


@pytest.fixture(scope="session")
def made(prepared: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    return finished_house(prepared, tmp_path_factory, GRAIN)


@pytest.mark.parametrize(("row", "state"), rows(GRAIN))
def test_event(made: House, prepared: House, tmp_path: Path, row: str, state: str) -> None:
    check(made, prepared, tmp_path, row, state, GRAIN)
