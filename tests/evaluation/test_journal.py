from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.evaluation.journal import Journal

ENTRIES = {"one": "the first\nof two lines", "two": [-1.25, True], "three": "☃ \udcff"}


def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Journal(tmp_path / "new" / "journal")
    for key, value in ENTRIES.items():
        first.keep({key: value})
    first.close()
    second = Journal(tmp_path / "new" / "journal")
    assert {key: second[key] for key in ENTRIES} == ENTRIES
    assert len(second) == len(ENTRIES)
    assert "four" not in second


@given(cut=st.integers(min_value=0, max_value=200), rest=st.sampled_from([b"", b'["half', b"\0\0\0", b"5\n"]))
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int, rest: bytes
) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal"
    journal = Journal(path)
    journal.keep(ENTRIES)
    journal.close()
    whole = path.read_bytes()[:cut]
    path.write_bytes(whole + rest)
    again = Journal(path)
    complete = list(ENTRIES.items())[: whole.count(b"\n")]
    assert {key: again[key] for key in ENTRIES if key in again} == dict(complete)
    again.keep(ENTRIES)
    again.close()
    last = Journal(path)
    assert {key: last[key] for key in ENTRIES} == ENTRIES
    last.close()


def test_a_key_keeps_its_first_value(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.keep({"one": 1})
    journal.keep({"one": 2, "two": 2})
    assert (journal["one"], journal["two"]) == (1, 2)
    journal.close()
    assert Journal(tmp_path / "journal")["one"] == 1
