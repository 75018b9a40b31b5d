"""A manifest is whole or none, and its copy counts in its place: whatever happens to the file that Snakemake sees."""

import copy
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.common.errors import UserError
from scripts.plan.product import Product
from scripts.store.fingerprint import fingerprint
from scripts.store.locks import LockedError
from scripts.store.store import COPY, Store

RESULTS = {
    "loss": 1.5,
    "losses": [[1, 0.5], [2, None]],
    "by_rank": {1: "one", 2: True},
    "words": "größer",
    "steps": 10**12,
}


def product(name: str = "a", **more: Any) -> Product:
    spec = {"kind": "run", "name": name, **more}
    return Product.of(f"runs/{name}/full/1-seed0-{fingerprint(spec)}", spec, ("models/m-0123456789ab",))


RUN, OTHER = product(), product("b")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def build(out: Path) -> dict[str, Any]:
    (out / "part").mkdir()
    (out / "part" / "weights").write_bytes(b"abc")
    (out / "config").write_bytes(b"")
    return copy.deepcopy(RESULTS)


def never(out: Path) -> dict[str, Any]:
    raise AssertionError("made again")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    for each in (RUN, OTHER):
        made.make(each, build, {"trainer": {"version": 1, "hash": "0" * 12}})
    return made


@pytest.fixture(scope="module")
def text() -> str:
    """What is written."""
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        store.make(RUN, build, {})
        return store.manifest_path(RUN.key).read_text(encoding="utf-8")


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where all values are, those that hold others among them."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*at, key)
        yield from paths(value[key], (*at, key))


@given(st.data())
def test_an_edit_of_any_value_makes_the_copy_count(text: str, data: st.DataObject) -> None:
    written = json.loads(text)
    edited = copy.deepcopy(written)
    *above, last = data.draw(st.sampled_from(list(paths(written))))
    place = edited
    for key in above:
        place = place[key]
    if isinstance(place, dict) and [*above, last] != ["sha256"] and data.draw(st.booleans()):
        del place[last]
    else:
        place[last] = data.draw(json_values.filter(lambda value: json.dumps(value) != json.dumps(place[last])))
    with tempfile.TemporaryDirectory() as where:
        store = Store(Path(where))
        write(store.manifest_path(RUN.key), json.dumps(edited))
        assert store.read(RUN.key) is None
        write(store.copy_path(RUN.key), text)
        assert store.read(RUN.key) == written
        assert store.is_made(RUN.key)


@given(st.dictionaries(st.text(max_size=3), json_values, min_size=1, max_size=2), st.integers(0, 3))
def test_another_key_or_layout_is_seen_or_means_the_same(text: str, more: dict[str, Any], indent: int) -> None:
    written = json.loads(text)
    with tempfile.TemporaryDirectory() as where:
        store = Store(Path(where))
        write(store.manifest_path(RUN.key), json.dumps(written | more))
        assert store.read(RUN.key) is None
        write(store.manifest_path(RUN.key), json.dumps(written, indent=indent))
        assert store.read(RUN.key) == written


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_manifest_cut_off_at_any_byte_makes_the_copy_count(store: Store) -> None:
    written = store.require(RUN.key)
    path = store.manifest_path(RUN.key)
    content, aside = path.read_bytes(), path.with_name("aside")
    for length in range(len(content) - 1):  # the last byte ends the line
        path.write_bytes(content[:length])
        assert store.read(RUN.key) == written, length
        store.copy_path(RUN.key).rename(aside)
        assert store.read(RUN.key) is None, length
        aside.rename(store.copy_path(RUN.key))


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '"text"', '{"key": "runs/other"}', "\udcff"])
def test_what_is_no_manifest_is_none(store: Store, content: str) -> None:
    path = store.manifest_path(RUN.key)
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    shutil.rmtree(store.directory(RUN.key))
    assert store.read(RUN.key) is None
    assert store.made([RUN.key, OTHER.key]) == {OTHER.key}
    with pytest.raises(UserError, match=r"is not what was written: runs/a/full/.* has to be made first"):
        store.require(RUN.key)
    assert store.make(RUN, build, {})["results"]["loss"] == 1.5


def test_a_manifest_that_is_gone_comes_back_without_building(store: Store) -> None:
    path = store.manifest_path(RUN.key)
    content = path.read_bytes()
    assert store.copy_path(RUN.key).read_bytes() == content
    for lose in (path.unlink, lambda: path.write_bytes(content[:100]), lambda: path.write_text("{}")):
        lose()
        before = {file: file.read_bytes() for file in store.root.rglob("*") if file.is_file()}
        assert store.require(RUN.key) == json.loads(content)
        assert (store.bytes_of(RUN.key) / "part" / "weights").exists()
        assert {file: file.read_bytes() for file in store.root.rglob("*") if file.is_file()} == before, "readers write"
        assert store.make(RUN, never, {}) == json.loads(content)
        assert path.read_bytes() == content


def test_with_it_goes_what_the_killed_job_left(store: Store) -> None:
    """It was killed while it wrote the manifest, after the bytes had their name."""
    path = store.manifest_path(RUN.key)
    half = path.rename(path.with_name(f".{path.name}.4711.json"))
    store.scratch(RUN.key).mkdir()
    store.make(RUN, never, {})
    assert path.exists()
    assert not half.exists()
    assert not store.scratch(RUN.key).exists()


def test_it_comes_back_under_the_lock(store: Store) -> None:
    path = store.manifest_path(RUN.key)
    path.unlink()
    given_up: list[LockedError] = []

    def make() -> None:
        try:
            store.make(RUN, never, {}, until=time.monotonic())
        except LockedError as error:
            given_up.append(error)

    with store.lock(RUN.key):
        other = threading.Thread(target=make)
        other.start()
        other.join()
    assert len(given_up) == 1
    assert not path.exists()


def test_a_copy_of_another_product_brings_nothing_back(store: Store) -> None:
    store.manifest_path(RUN.key).unlink()
    shutil.copyfile(store.copy_path(OTHER.key), store.copy_path(RUN.key))
    assert store.read(RUN.key) is None
    made = store.make(RUN, build, {})
    assert (made["key"], made["spec"]) == (RUN.key, RUN.spec)
    assert store.read(RUN.key) == json.loads(json.dumps(made))


def test_a_copy_of_another_spec_brings_nothing_back(store: Store) -> None:
    """Of the same key: two specs of one fingerprint, or a product that was renamed by hand."""
    store.manifest_path(RUN.key).unlink()
    meant = Product(RUN.key, RUN.spec | {"name": "another"}, RUN.inputs)
    assert store.make(meant, build, {})["spec"] == meant.spec


@pytest.mark.parametrize("damage", ["byte", "size", "gone"])
def test_a_copy_beside_damaged_bytes_brings_nothing_back(store: Store, damage: str) -> None:
    weights = store.directory(RUN.key) / "part" / "weights"
    store.manifest_path(RUN.key).unlink()
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(b"abd" if damage == "byte" else b"abcd")
    built: list[Path] = []
    store.make(RUN, lambda out: built.append(out) or build(out), {})  # type: ignore[func-returns-value]
    assert len(built) == 1
    assert (store.bytes_of(RUN.key) / "part" / "weights").read_bytes() == b"abc"


def test_a_copy_without_a_hash_is_none(store: Store) -> None:
    """Manifests of before had neither hash nor copy."""
    store.manifest_path(RUN.key).unlink()
    write(store.copy_path(RUN.key), json.dumps({"key": RUN.key}))
    assert store.read(RUN.key) is None
    assert store.make(RUN, build, {})["spec"] == RUN.spec


def test_manifests_of_before_are_accepted(store: Store) -> None:
    path = store.manifest_path(RUN.key)
    old = json.loads(path.read_text(encoding="utf-8"))
    del old["sha256"]
    write(path, json.dumps(old))
    store.copy_path(RUN.key).unlink()
    assert store.read(RUN.key) == old
    assert store.make(RUN, never, {}) == old
    # their bytes are made again as all others, and have a copy from then on
    shutil.rmtree(store.directory(RUN.key))
    assert store.make(RUN, build, {}) == old
    assert store.read(RUN.key) == old


def test_bytes_that_are_made_again_get_the_copy(store: Store) -> None:
    written = store.require(RUN.key)
    store.delete_bytes(RUN.key)
    assert not store.directory(RUN.key).exists()
    assert store.require(RUN.key) == written
    assert store.make(RUN, build, {}) == written
    store.manifest_path(RUN.key).unlink()
    assert store.make(RUN, never, {}) == written


def test_a_manifest_is_put_back_before_bytes_and_copy_go(store: Store) -> None:
    written = store.require(RUN.key)
    store.manifest_path(RUN.key).unlink()
    store.delete_bytes(RUN.key)
    assert not store.directory(RUN.key).exists()
    assert store.require(RUN.key) == written
    shutil.rmtree(store.directory(OTHER.key))
    store.manifest_path(OTHER.key).unlink()
    with pytest.raises(UserError, match="has to be made first"):
        store.delete_bytes(OTHER.key)


def test_results_without_files_have_a_copy_and_nothing_has_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    score, family = product("score"), product("family")
    store.make(score, lambda out: {"value": 0.5}, {})
    assert [path.name for path in store.directory(score.key).iterdir()] == [COPY]
    store.manifest_path(score.key).unlink()
    assert store.make(score, never, {})["results"] == {"value": 0.5}
    store.make(family, lambda out: {}, {})
    assert not store.directory(family.key).exists()


def test_the_copy_is_none_of_the_files(store: Store) -> None:
    """Neither where a product is made by copying another's directory."""

    def copied(out: Path) -> dict[str, Any]:
        shutil.copytree(store.directory(OTHER.key), out, dirs_exist_ok=True)
        return {}

    run = product("copied")
    assert sorted(store.make(run, copied, {})["files"]) == ["config", "part/weights"]
    store.manifest_path(run.key).unlink()
    assert store.make(run, never, {})["key"] == run.key
    assert store.bytes_of(run.key)


def test_what_is_made_is_found_beside_others_that_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of bytes may be gone before it is read: a job renames its own, and pruning deletes."""
    writing = store.directory(RUN.key).with_name(f".{store.directory(RUN.key).name}-x")
    (writing / "part").mkdir(parents=True)
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if path in (writing, str(writing), store.directory(OTHER.key), str(store.directory(OTHER.key))):
            shutil.rmtree(path, ignore_errors=True)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    store.copy_path(OTHER.key).unlink()
    assert store.by_fingerprint(RUN.key) == {each.key[-12:]: each.key for each in (RUN, OTHER)}


@pytest.mark.parametrize("is_damaged", [False, True])
def test_what_has_lost_its_manifest_is_found_under_another_name(store: Store, is_damaged: bool) -> None:
    store.manifest_path(RUN.key).unlink()
    if is_damaged:
        (store.directory(RUN.key) / "part" / "weights").write_bytes(b"abd")
    renamed = Product(f"runs/renamed/{RUN.key[-25:]}", RUN.spec, RUN.inputs)
    made = store.make(renamed, build if is_damaged else never, {})
    assert made["provenance"].get("made_as") == (None if is_damaged else RUN.key)
    assert store.bytes_of(renamed.key)


def test_an_evaluation_is_found_under_another_name_of_its_model(store: Store) -> None:
    """It lies in a directory that is named as the model is; when a method is renamed, nothing is evaluated again."""
    spec = {"kind": "evaluation", "subject": RUN.fingerprint}
    old, new = (
        Product.of(f"evaluations/{name}/full/1-seed0-{RUN.fingerprint}/task-{fingerprint(spec)}", spec, (RUN.key,))
        for name in ("a", "renamed")
    )
    store.make(old, build, {})
    assert store.by_fingerprint(new.key) == {old.fingerprint: old.key}
    assert store.make(new, never, {})["provenance"]["made_as"] == old.key
