"""Records beside files with plain names: by them a file counts as what is wanted, and a footer names both commits."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.artifacts import collect, draw, printed, tabulate
from scripts.artifacts.points import read_points
from scripts.artifacts.provenance import is_made, record_path, write_record
from scripts.common import checkout
from scripts.common.errors import UserError
from tests.artifacts import kinds
from tests.artifacts.conftest import REGISTRY, assert_all_apart, figure, footer, write
from tests.artifacts.test_draw import study

RECIPE = "0123456789ab"
WORDS = {"a.csv": b"1,2\n", "a.md": b"one", "a.pdf": b"two"}


def record(csv: Path, **changed: Any) -> None:
    files = {csv.name: hashlib.sha256(csv.read_bytes()).hexdigest()}
    record_path(csv).write_text(json.dumps({"recipe": RECIPE, "commit": "c0113c7", "files": files, **changed}))


def made(place: Path) -> list[Path]:
    """Three files, written and recorded together."""
    files = [place / name for name in WORDS]
    for file in files:
        file.write_bytes(WORDS[file.name])
    write_record(RECIPE, *files)
    return files


def test_what_was_recorded_is_made_and_of_no_other_recipe(tmp_path: Path) -> None:
    files = made(tmp_path)
    assert record_path(files[0]) == tmp_path / "a.collected.json"
    assert record_path(files[2]) == tmp_path / "a.made.json"
    assert is_made(RECIPE, *files)
    assert not is_made("ba9876543210", *files)
    assert not is_made(RECIPE, *files[:2]), "recorded with one more"


@given(st.sampled_from(sorted(WORDS)), st.binary(max_size=6) | st.none())
def test_each_byte_of_each_file_counts(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes | None
) -> None:
    """None stands for a file that is gone."""
    files = made(tmp_path_factory.mktemp("made"))
    changed = files[0].with_name(name)
    if content is None:
        changed.unlink()
    else:
        changed.write_bytes(content)
    assert is_made(RECIPE, *files) == (content == WORDS[name])


def test_files_that_changed_places_are_not_made(tmp_path: Path) -> None:
    files = made(tmp_path)
    files[1].write_bytes(WORDS["a.pdf"])
    files[2].write_bytes(WORDS["a.md"])
    assert not is_made(RECIPE, *files)


@settings(max_examples=25)
@given(st.data())
def test_a_record_that_is_cut_off_or_of_another_form_makes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    files = made(tmp_path_factory.mktemp("made"))
    path = record_path(files[0])
    text = path.read_text()
    short = text[: data.draw(st.integers(0, len(text) - 3))]  # without its last brace
    path.write_text(data.draw(st.sampled_from([short, "null", "[]", "1", '"text"', "\x00"])))
    assert not is_made(RECIPE, *files)
    path.unlink()
    assert not is_made(RECIPE, *files)


def test_the_footer_names_values_and_both_commits(tmp_path: Path) -> None:
    rows = study()
    csv = write(tmp_path / "fig2.csv", rows)
    values = f"values {hashlib.sha256(csv.read_bytes()).hexdigest()[:12]}"
    assert f"{values} · drawn at commit abc1234" in footer(figure(tmp_path, "fig2", rows)), "by hand: no record"
    record(csv)
    drawn = figure(tmp_path, "fig2", rows)
    assert f"{values}, collected at commit c0113c7 · drawn at commit abc1234" in footer(drawn)
    assert_all_apart(drawn)
    facts = draw.metadata(REGISTRY["fig2"], read_points(csv, ["forgetting"]), "abc1234")
    assert "; collected=c0113c7; commit=abc1234; " in facts["Keywords"]


def test_a_csv_that_was_edited_by_hand_is_refused(tmp_path: Path) -> None:
    """The recipe's fingerprint is the same, the values are not, and who made them is not known."""
    rows = study()
    csv, (pdf, png) = write(tmp_path / "fig2.csv", rows), (tmp_path / "fig2.pdf", tmp_path / "fig2.png")
    record(csv)
    write(csv, [*rows[:-1], {**rows[-1], "value": 0.123}])
    with pytest.raises(UserError) as raised:
        draw.draw(REGISTRY["fig2"], csv, pdf, png)
    assert str(raised.value) == (
        f"{csv}: was changed since it was collected; delete {record_path(csv)} to draw it all the same"
    )
    assert not pdf.exists()
    assert not record_path(pdf).exists()
    record_path(csv).unlink()
    draw.draw(REGISTRY["fig2"], csv, pdf, png)
    assert png.exists()


def test_a_table_of_a_csv_that_was_edited_by_hand_is_refused(tmp_path: Path) -> None:
    csv = tmp_path / "tableS14.csv"
    collect.main(kinds.launch(tmp_path), "tableS14", csv)
    csv.write_text(csv.read_text() + "\n")
    with pytest.raises(UserError, match=r"tableS14\.csv: was changed since it was collected"):
        tabulate.tabulate(REGISTRY["tableS14"], csv, tmp_path / "a.md", tmp_path / "a.tex")
    assert not (tmp_path / "a.md").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"commit": "abc1234"}', '{"files": {"fig1.csv": ""}, "commit": ""}'])
def test_a_broken_record_is_one_sentence(tmp_path: Path, text: str) -> None:
    csv = write(tmp_path / "fig2.csv", study())
    (tmp_path / "fig2.collected.json").write_text(text)
    with pytest.raises(UserError, match=r"fig2\.collected\.json: is no record of fig2\.csv; delete it, and make fig2"):
        read_points(csv, ["forgetting"])


def test_collecting_records_its_commit(tmp_path: Path) -> None:
    collected, copied = tmp_path / "tableS14.csv", tmp_path / "fig1.csv"
    collect.main(kinds.launch(tmp_path), "tableS14", collected)
    printed.main("fig1", copied)
    for csv in (collected, copied):
        said = json.loads((tmp_path / f"{csv.stem}.collected.json").read_text())
        recipe = said.pop("recipe")
        assert said == {
            "commit": checkout.commit(),
            "files": {csv.name: hashlib.sha256(csv.read_bytes()).hexdigest()},
        }
        assert is_made(recipe, csv)
