"""Jobs on one machine never share a device, never leave one idle while another job waits, and give it back in death."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.common.errors import UserError
from scripts.training import devices
from scripts.training.devices import VISIBLE, claimed

ROOT = Path(__file__).parents[2]
JOB = """
import os, sys, time
from pathlib import Path
from scripts.training.devices import claimed
root, name = Path(sys.argv[1]), sys.argv[2]
with claimed(root / "store", found=lambda: ["0", "1"]) as mine:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(mine)
    (root / (name + ".new")).write_text(" ".join(mine))
    (root / (name + ".new")).rename(root / (name + ".held"))
    while not (root / (name + ".release")).exists():
        time.sleep(0.02)
"""
two = lambda: ["0", "1"]  # noqa: E731


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (VISIBLE, "SLURM_JOB_ID", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def test_six_jobs_on_two_devices(tmp_path: Path) -> None:
    jobs: dict[str, subprocess.Popen[bytes]] = {}
    ended: set[str] = set()

    def holders() -> dict[str, str]:
        held = {path.stem: path.read_text() for path in tmp_path.glob("*.held")}
        return {name: device for name, device in held.items() if name not in ended}

    def told() -> list[str]:
        return [path.read_text() for path in tmp_path.glob("*.err") if path.stat().st_size]

    try:
        for number in range(6):
            with (tmp_path / f"{number}.err").open("w") as errors:
                command = [sys.executable, "-c", JOB, str(tmp_path), str(number)]
                jobs[str(number)] = subprocess.Popen(command, cwd=ROOT, stderr=errors)
        until(lambda: len(told()) == 4, "four jobs to wait")
        for left in range(6, 0, -1):
            until(lambda left=left: len(holders()) == min(2, left), "every device to be in use")  # type: ignore[misc]
            now = holders()
            assert len(set(now.values())) == len(now)
            name = sorted(now)[0]
            ended.add(name)
            if left % 2:
                jobs[name].send_signal(signal.SIGKILL)
            else:
                (tmp_path / f"{name}.release").touch()
            jobs[name].wait(timeout=60)
    finally:
        for job in jobs.values():
            job.kill()
    assert told() == 4 * ["every device (0, 1) is in use by another job; waiting for one\n"]


def test_all_that_is_asked_for_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claimed(tmp_path, 2, found=two) as both:
        assert both == ("0", "1")
        assert os.environ[VISIBLE] == "0,1"
    assert VISIBLE not in os.environ
    with claimed(tmp_path, found=two) as one:
        assert one == ("0",)
        del os.environ[VISIBLE]  # as in another process
        with pytest.raises(SystemExit) as stopped, claimed(tmp_path, 2, deadline=time.monotonic(), found=two):
            raise AssertionError
        assert stopped.value.code == 75
        assert capsys.readouterr().err == "no device became free before the deadline\n"
        with claimed(tmp_path, found=two) as other:
            assert other == ("1",)
        os.environ[VISIBLE] = "0"
    with (
        pytest.raises(UserError, match=r"needs 3 GPUs, and 2 can be used here \(0, 1\)"),
        claimed(tmp_path, 3, found=two),
    ):
        raise AssertionError


def test_named_devices_alone_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "GPU-5f, 1,-1,0")
    with claimed(tmp_path, found=two) as first:
        assert first == ("GPU-5f",)
        monkeypatch.setenv(VISIBLE, "GPU-5f,1")
        with claimed(tmp_path, found=two) as second:
            assert second == ("1",)
        assert os.environ[VISIBLE] == "GPU-5f,1"


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "LOCAL_RANK"])
def test_what_was_allotted_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "0")
    with claimed(tmp_path, found=two) as one, claimed(tmp_path, 2, found=two) as other:
        assert one == other == ("0", "1")
        assert VISIBLE not in os.environ
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chosen", [None, "", "-1"])
def test_without_a_gpu_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    if chosen is not None:
        monkeypatch.setenv(VISIBLE, chosen)
    with claimed(tmp_path, found=lambda: [] if chosen is None else ["0"]) as none, claimed(tmp_path, found=list):
        assert none == ()
        assert os.environ.get(VISIBLE) == chosen
    assert not list(tmp_path.iterdir())


def test_gpus_are_counted_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n[ $1 = -L ] && printf 'GPU 0: NVIDIA H200 (UUID: GPU-a)\\n  MIG 1g.18gb (UUID: MIG-b)\\n"
        "GPU 1: NVIDIA H200 (UUID: GPU-c)\\n'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert devices.present() == ["0", "1"]
