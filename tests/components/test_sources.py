"""Every source of records has all that a study, the lock and a job ask of it; a module more is a source more."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from scripts.common.errors import UserError
from scripts.components.discovery import classes
from scripts.components.making import BuildContext
from scripts.components.sources import SOURCES, Dataset, Source
from tests.conftest import ROOT

SHA, COMMIT = "0123456789abcdef" * 4, "01234567" * 5
SAID: dict[str, dict[str, Any]] = {
    "generated": {"generator": "gsm8k", "records": 3, "split": "test"},
    "hub": {"repository": "owner/Set", "files": ["*"]},
    "package": {"package": "some-data", "version": "1.0", "member": "some_data/a.jsonl"},
    "path": {"path": "mine.jsonl"},
}
"""What a study must say of each."""
LOCKED: dict[str, tuple[str, dict[str, Any]]] = {
    "hub": ("dataset:owner/Set", {"revision": COMMIT}),
    "package": ("package:some-data==1.0", {"file": "some_data-1.0-py3-none-any.whl", "sha256": SHA}),
    "path": ("path:mine.jsonl", {"sha256": SHA}),
}
"""What the lock has of those that come from outside."""


def source(name: str) -> Source:
    chosen: Source = TypeAdapter(Dataset).validate_python({"source": name, **SAID[name]})
    return chosen


def job(tmp_path: Path, **lock: Any) -> BuildContext:
    return BuildContext("data/records/set-0123456789ab", "mine", tmp_path / "scratch", lock, lambda: [])


def test_these_are_all() -> None:
    assert SOURCES.keys() == SAID.keys()


@pytest.mark.parametrize("name", SAID)
def test_what_comes_from_outside_has_an_entry_in_the_lock(name: str) -> None:
    chosen = source(name)
    if name not in LOCKED:
        assert (chosen.identity, chosen.entry) == (None, None)
        return
    identity, entry = LOCKED[name]
    assert chosen.identity == identity
    assert chosen.entry is not None
    kind, _, named = identity.partition(":")
    assert (chosen.entry.kind, chosen.entry.can_be_named(named)) == (kind, True)
    assert chosen.entry.has_form(entry)
    for key in entry:
        assert not chosen.entry.has_form({k: v for k, v in entry.items() if k != key})
        assert not chosen.entry.has_form({**entry, key: "main"})
    assert not chosen.entry.has_form({**entry, "more": SHA})


@pytest.mark.parametrize("name", SAID)
def test_what_is_locked_decides_the_records(name: str) -> None:
    chosen = source(name)
    entry = LOCKED.get(name, ("", {}))[1]
    spec = chosen.spec(entry, 0)
    assert spec["source"] == name
    assert json.loads(json.dumps(spec)) == spec
    for key in entry.keys() & {"sha256", "revision"}:
        other = {**entry, key: "f" * len(entry[key])}
        assert {spec[key], chosen.spec(other, 0)[key]} == {entry[key], other[key]}
        assert chosen.spec({}, 0)[key] is None


@pytest.mark.parametrize("name", LOCKED)
def test_unlocked_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    chosen = source(name)
    with pytest.raises(UserError, match=r"is not locked; run `.*scripts\.data\.lock --study mine`") as caught:
        chosen.build(chosen.spec({}, 0), job(tmp_path), tmp_path)
    assert f": {chosen.identity} is not locked" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_only_what_is_made_here_knows_its_part() -> None:
    assert {name: (source(name).part, source(name).items) for name in SAID} == {
        "generated": ("test", "gsm8k"),
        "hub": (None, None),
        "package": (None, None),
        "path": (None, None),
    }


def test_a_file_is_found_by_its_hash_among_files_alone(tmp_path: Path) -> None:
    """A spec has no path; a package of the same hash is no file."""
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"text": "a"}\n{"text": "b"}\n')
    chosen = SOURCES["path"].model_validate({"source": "path", "path": str(mine)})
    entry = chosen.lock({})
    (tmp_path / "out").mkdir()
    lock = {"package:a==1": {"file": "a.whl", **entry}, "path:other.jsonl": {"sha256": SHA}, f"path:{mine}": entry}
    results = chosen.build(chosen.spec(entry, 0), job(tmp_path, **lock), tmp_path / "out")
    assert results == {"records": 2, "files": 1, "text_bytes": 2, "duplicates": 0}
    assert (tmp_path / "out/records.jsonl").read_text() == mine.read_text()


# -- one more ---------------------------------------------------------------------------------

COUNTED = """
import json
from typing import ClassVar, Literal

from scripts.components.part import Count, field
from scripts.components.sources import Source


class CountedDataset(Source):
    source: Literal["counted"] = field("numbers")
    records: Count = field("how many")

    entry: ClassVar[None] = None
    needs_network: ClassVar[bool] = False
    identity: ClassVar[None] = None
    place: ClassVar[str] = "numbers"

    def spec(self, entry, data_seed):
        return self.model_dump()

    @property
    def expected_records(self):
        return self.records

    @staticmethod
    def build(spec, job, out):
        texts = [json.dumps({"text": str(number)}) for number in range(spec["records"])]
        (out / "records.jsonl").write_text("\\n".join(texts))
        return {"records": len(texts)}
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package beside that of the sources."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "invented").mkdir()
    yield tmp_path / "invented"
    for name in [name for name in sys.modules if name.startswith("invented")]:
        del sys.modules[name]


def test_a_module_is_a_source(family: Path, tmp_path: Path) -> None:
    (family / "counted.py").write_text(COUNTED)
    (member,) = classes("invented", [str(family)], Source, "source").values()  # type: ignore[type-abstract]
    counted = member.model_validate({"source": "counted", "records": 2})
    assert counted.build(counted.spec({}, 0), job(tmp_path), tmp_path) == {"records": 2}
    assert (tmp_path / "records.jsonl").read_text() == '{"text": "0"}\n{"text": "1"}'
    with pytest.raises(ValidationError):
        member.model_validate({"source": "counted", "records": 2, "colour": "red"})


@pytest.mark.parametrize(
    ("line", "lacking"),
    [
        ("    needs_network: ClassVar[bool] = False\n", "needs_network"),
        ("    entry: ClassVar[None] = None\n", "entry"),
        ('    place: ClassVar[str] = "numbers"\n', "place"),
        ("    identity: ClassVar[None] = None\n", "identity"),
        (COUNTED[COUNTED.index("    @staticmethod") :], "build"),
    ],
)
def test_a_source_that_lacks_something_is_refused(family: Path, line: str, lacking: str) -> None:
    (family / "counted.py").write_text(COUNTED.replace(line, ""))
    with pytest.raises(TypeError, match=rf"CountedDataset lacks {lacking}; see Source"):
        classes("invented", [str(family)], Source, "source")  # type: ignore[type-abstract]


def test_a_relative_path_is_one_from_the_project_wherever_a_command_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SOURCES["path"].model_validate({"source": "path", "path": "config/config.yaml"})
    expected = hashlib.sha256((ROOT / "config/config.yaml").read_bytes()).hexdigest()
    monkeypatch.chdir(tmp_path)
    assert file.lock({}) == {"sha256": expected}


def test_what_is_taken_of_a_table_is_in_the_spec_where_it_is_said() -> None:
    """A package's records keep their name: its columns always stood there, the keys that joined later do not."""
    plain = {"source": "package", **SAID["package"], "columns": {}, "sha256": SHA}
    entry = LOCKED["package"][1]
    assert source("package").spec(entry, 0) == plain
    more = {"limit": 5, "conversation": "talk", "keep": {"kind": "a"}}
    chosen = SOURCES["package"].model_validate({"source": "package", **SAID["package"], **more})
    assert chosen.spec(entry, 0) == {**plain, **more}
    assert (source("hub").spec({"revision": COMMIT}, 3), chosen.expected_records) == (
        {"source": "hub", "repository": "owner/Set", "files": ["*"], "revision": COMMIT, "seed": 3},
        5,
    )
