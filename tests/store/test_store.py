"""The store: complete or absent, made once, made again only if it is the same."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.common.errors import UserError
from scripts.plan.product import Product
from scripts.store.fingerprint import fingerprint
from scripts.store.store import Store
from tests.forks import wait_for

SPEC = {"kind": "run", "x": 1}
PRODUCT = Product.of(f"runs/a/full/1-seed0-{fingerprint(SPEC)}", SPEC, ("models/m-0123456789ab",))


def build(text: str) -> Any:
    def write(out: Path) -> dict[str, Any]:
        (out / "weights").write_text(text)
        return {"loss": 1.5}

    return write


def test_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = store.make(PRODUCT, build("abc"), {})
    assert (store.bytes_of(PRODUCT.key) / "weights").read_text() == "abc"
    assert manifest["spec"] == SPEC
    assert manifest["files"]["weights"]["sha256"] == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", from FIPS 180
    )

    def never(out: Path) -> dict[str, Any]:
        raise AssertionError("made twice")

    assert store.make(PRODUCT, never, {}) == manifest


def test_nothing_half_written_looks_complete(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(out: Path) -> dict[str, Any]:
        (out / "weights").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        store.make(PRODUCT, fail, {})
    assert store.read(PRODUCT.key) is None
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_bytes_made_again_must_be_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = store.make(PRODUCT, build("abc"), {})
    shutil.rmtree(store.directory(PRODUCT.key))
    with pytest.raises(UserError, match=r"python -m scripts\.training\.train runs/a/full") as raised:
        store.bytes_of(PRODUCT.key)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="differ"):
        store.make(PRODUCT, build("other"), {})
    assert not store.directory(PRODUCT.key).exists()
    assert store.make(PRODUCT, build("abc"), {}) == manifest
    assert (store.bytes_of(PRODUCT.key) / "weights").read_text() == "abc"


def test_left_overs_of_a_killed_job_go_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left_over = store.directory(PRODUCT.key).with_name(f".{Path(PRODUCT.key).name}-xyz")
    left_over.mkdir(parents=True)
    half_manifest = left_over.with_name(f".{Path(PRODUCT.key).name}.json.4711.json")
    neighbour = left_over.with_name(".1-seed0-0123456789ab-xyz")
    half_manifest.touch()
    neighbour.mkdir()
    store.make(PRODUCT, build("abc"), {})
    assert not left_over.exists()
    assert not half_manifest.exists()
    assert neighbour.exists()


def test_a_second_job_waits_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    started, go_on, made, told = threading.Event(), threading.Event(), [], []

    def slow(out: Path) -> dict[str, Any]:
        started.set()
        assert go_on.wait(60)
        made.append(1)
        return build("abc")(out)

    def said() -> int:
        told.append(capfd.readouterr().err)
        return "".join(told).count("is making it; waiting for it")

    jobs = [threading.Thread(target=store.make, args=(PRODUCT, slow, {})) for _ in range(2)]
    jobs[0].start()
    assert started.wait(60)
    jobs[1].start()
    wait_for(said)
    go_on.set()
    for job in jobs:
        job.join()
    assert made == [1]
    assert said() == 1


def test_a_job_ends_with_its_head(tmp_path: Path) -> None:
    """A shell between head and job, as Snakemake has one: the head is killed, the job ends by itself."""
    job = tmp_path / "job.py"
    job.write_text(
        "import os, time\n"
        "from scripts.launch.command import end_with\n"
        "end_with(int(os.environ['HEAD']))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    head = (
        "import os, subprocess\n"
        "os.environ['HEAD'] = str(os.getpid())\n"
        f"subprocess.run(['/bin/sh', '-c', '{sys.executable} {job}; true'])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, "-c", head], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    job_id = int(process.stdout.readline())
    time.sleep(1.5)
    assert alive(job_id)
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while alive(job_id):
        assert time.monotonic() < end, "the job outlived its head"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
