"""A file that is not what is wanted runs: it is older than a note whose bytes no job has seen."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.common.errors import UserError
from scripts.launch import stale
from scripts.launch.stale import note


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("1\n")


def test_a_missing_file_runs_anyway() -> None:
    assert note("b.csv", "notes", write=True) == []
    assert not Path("notes").exists()


def test_the_note_is_newer_than_the_file_and_older_than_all_that_is_made() -> None:
    """Snakemake deletes what a job has made when an input is newer."""
    [found] = note("a.csv", "notes", write=True)
    assert Path("a.csv").stat().st_mtime < Path(found).stat().st_mtime < time.time() - 10 * 365 * 86400
    assert Path("a.csv").read_text() == "1\n"
    Path("a.csv").write_text("2\n")
    assert Path("a.csv").stat().st_mtime > Path(found).stat().st_mtime


def test_no_two_notes_are_alike() -> None:
    """Snakemake remembers the checksums of small inputs, and would take a note that it knows as no reason."""
    seen = set()
    for _ in range(3):
        [found] = note("a.csv", "notes", write=True)
        seen.add(Path(found).read_bytes())
        assert Path(found).stat().st_mtime == 2
    assert len(seen) == 3


def test_each_file_has_a_note_in_a_directory_of_its_own(tmp_path: Path) -> None:
    Path("results").mkdir()
    files = ["a.csv", "results/a.csv", "results/a.md", str(tmp_path / "results/b.csv")]
    for file in files:
        Path(file).write_text("")
    notes = [one for file in files for one in note(file, "notes", write=True)]
    assert len({Path(one).parent for one in notes}) == len(files)
    assert all(one.startswith("notes/") for one in notes)


def test_a_job_writes_nothing() -> None:
    """It may only name what its head has named: the file's time is that of the head's decision."""
    [named] = note("a.csv", "notes", write=True)
    made = Path("a.csv")
    made.write_text("made\n")
    times, text = made.stat().st_mtime_ns, Path(named).read_text()
    assert note("a.csv", "notes", write=False) == [named]
    assert made.stat().st_mtime_ns == times
    assert Path(named).read_text() == text


def test_another_persons_file_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(stale.os, "utime", refused)
    with pytest.raises(UserError) as raised:
        note("a.csv", "notes", write=True)
    assert str(raised.value) == (
        "a.csv: is not what is wanted, and cannot be replaced (Operation not permitted); delete it"
    )


def test_a_link_is_followed() -> None:
    """What is older is what Snakemake looks at."""
    os.symlink("a.csv", "link.csv")
    note("link.csv", "notes", write=True)
    assert Path("a.csv").stat().st_mtime == 1
