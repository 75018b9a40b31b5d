"""What a footer says of the numbers: their hash, and the commit that collected them where that is known."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.artifacts import collect, draw, printed, provenance
from scripts.artifacts.points import read_points
from scripts.common.errors import UserError
from tests.artifacts import kinds
from tests.artifacts.conftest import REGISTRY, assert_all_apart, figure, footer, write
from tests.artifacts.test_draw import study


def note(csv: Path, **changed: Any) -> None:
    said = {"commit": "c0113c7", "sha256": hashlib.sha256(csv.read_bytes()).hexdigest(), **changed}
    (csv.parent / f"{csv.stem}.collected.json").write_text(json.dumps(said))


def test_the_footer_names_values_and_both_commits(tmp_path: Path) -> None:
    rows = study()
    csv = write(tmp_path / "fig2.csv", rows)
    values = f"values {hashlib.sha256(csv.read_bytes()).hexdigest()[:12]}"
    assert f"{values} · drawn at commit abc1234" in footer(figure(tmp_path, "fig2", rows)), "by hand: nobody noted"
    note(csv)
    drawn = figure(tmp_path, "fig2", rows)
    assert f"{values}, collected at commit c0113c7 · drawn at commit abc1234" in footer(drawn)
    assert_all_apart(drawn)
    facts = draw.metadata(REGISTRY["fig2"], read_points(csv, ["forgetting"]), "abc1234")
    assert "; collected=c0113c7; commit=abc1234; " in facts["Keywords"]


def test_a_note_is_of_the_values_that_it_was_written_with(tmp_path: Path) -> None:
    """The recipe's fingerprint is the same, the values are not, and who made them is not known."""
    rows = study()
    csv = write(tmp_path / "fig2.csv", rows)
    note(csv)
    before = read_points(csv, ["forgetting"])
    csv = write(csv, [*rows[:-1], {**rows[-1], "value": 0.123}])
    after = read_points(csv, ["forgetting"])
    assert before.fingerprint == after.fingerprint
    assert before.made.values != after.made.values
    assert (before.made.commit, after.made.commit) == ("c0113c7", "")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"commit": "abc1234"}'])
def test_a_broken_note_is_one_sentence(tmp_path: Path, text: str) -> None:
    csv = write(tmp_path / "fig2.csv", study())
    (tmp_path / "fig2.collected.json").write_text(text)
    with pytest.raises(UserError, match=r"fig2\.collected\.json: is not what collecting notes of fig2\.csv"):
        read_points(csv, ["forgetting"])


def test_collecting_notes_its_commit(tmp_path: Path) -> None:
    collected, copied = tmp_path / "tableS14.csv", tmp_path / "fig1.csv"
    collect.main(kinds.launch(tmp_path), "tableS14", collected)
    printed.main("fig1", copied)
    for csv in (collected, copied):
        said = json.loads((tmp_path / f"{csv.stem}.collected.json").read_text())
        assert said == {"commit": provenance.commit(), "sha256": hashlib.sha256(csv.read_bytes()).hexdigest()}
