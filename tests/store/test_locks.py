"""A lock has one holder, on one host and on several, and whoever dies or is given up for dead loses it."""

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.store import locks
from scripts.store.locks import LockedError, exclusive
from tests.forks import FORK, forked, wait_for

WHAT = "runs/it-0123456789ab"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "it.lock"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """From now on this process is on another host, where the files' `flock` is not the other hosts'."""

    def move(host: str = "other") -> None:
        def flock(*_: Any) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(locks.fcntl, "flock", flock)
        monkeypatch.setattr(locks, "_place", lambda: host)
        monkeypatch.setattr(locks.platform, "node", lambda: host)

    return move


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time goes on only where this process sleeps, after `before_sleep`."""
    clock = SimpleNamespace(now=1000.0, before_sleep=lambda: None)

    def sleep(seconds: float) -> None:
        clock.before_sleep()
        clock.now += seconds

    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


def tickets(path: Path) -> dict[int, str]:
    return {number: (path.with_suffix(".owners") / f"{number:09d}").read_text() for number in numbers(path)}


def numbers(path: Path) -> list[int]:
    """Of the tickets: one that is listed here may be gone a moment later, when its holder has renewed it."""
    return [int(ticket.name) for ticket in path.with_suffix(".owners").iterdir()]


def hold(path: Path, mark: Path, host: str | None = None) -> None:
    """Holds the lock until it is killed; on another host, if one is named, where 20 seconds last 0.02."""
    if host:
        locks.RENEW_SECONDS = 0.02
        locks.platform.node = lambda: host  # type: ignore[assignment]
        locks._place = lambda: host
    with exclusive(path, WHAT):
        mark.touch()
        time.sleep(60)


def test_given_back_and_taken_again(path: Path) -> None:
    for number in (1, 2, 3):
        with exclusive(path, WHAT):
            assert list(tickets(path)) == [number]
            assert json.loads(tickets(path)[number])["pid"] == os.getpid()
        assert tickets(path) == {number: ""}


def test_given_back_after_an_exception_too(path: Path) -> None:
    with pytest.raises(SystemExit), exclusive(path, WHAT):
        raise SystemExit(75)
    with exclusive(path, WHAT, until=time.monotonic()):
        pass


@pytest.mark.parametrize("flock", [True, False])
def test_a_killed_holder_of_this_host_is_seen_at_once(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flock: bool
) -> None:
    """By the kernel's lock, and where the file system has none, by the process."""
    if not flock:

        def refuse(*_: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(locks.fcntl, "flock", refuse)
    mark = tmp_path / "mark"
    with forked(hold, path, mark) as holder:
        wait_for(mark.exists)
        with pytest.raises(LockedError) as told, exclusive(path, WHAT, until=time.monotonic()):
            pass
        assert f"{WHAT}: another job (process {holder.pid} on " in str(told.value)
        assert told.value.status == 75
        holder.kill()
        holder.join()
        with exclusive(path, WHAT, until=time.monotonic()):
            assert len(tickets(path)) == 1


def test_another_process_with_a_dead_holders_number_does_not_hold(path: Path) -> None:
    """Process ids come again; the start of the process tells them apart."""
    with exclusive(path, WHAT):
        pass
    (ticket,) = path.with_suffix(".owners").iterdir()
    living = locks.this_process()
    ticket.write_text(json.dumps({**living.__dict__, "started": living.started - 1}))
    with exclusive(path, WHAT, until=time.monotonic()):
        pass
    # the same process, alive, on a boot that is over: nobody can tell that it ended but by its silence
    (ticket,) = path.with_suffix(".owners").iterdir()
    ticket.write_text(json.dumps({**living.__dict__, "place": "an earlier boot"}))
    with pytest.raises(LockedError), exclusive(path, WHAT, until=time.monotonic()):
        pass


def test_a_living_holder_on_another_host_keeps_it(
    path: Path,
    tmp_path: Path,
    elsewhere: Callable[..., None],
    clock: SimpleNamespace,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long it is waited for, if only it says that it lives; here after 100 seconds each time."""
    mark = tmp_path / "mark"
    monkeypatch.setattr(locks, "POLL_SECONDS", 100.0)
    with forked(hold, path, mark, "node1") as holder:
        wait_for(mark.exists)
        elsewhere("node2")

        def renewed() -> None:
            before = max(numbers(path))
            wait_for(lambda: max(numbers(path)) > before)

        clock.before_sleep = renewed
        with (
            pytest.raises(
                LockedError, match=rf"\(process {holder.pid} on node1\) is making it; gave up after 1000 s, "
            ),
            exclusive(path, WHAT, until=clock.now + 1000),
        ):
            pass
        assert holder.is_alive()
    waiting = f"{WHAT}: another job (process {holder.pid} on node1) is making it; waiting for it\n"
    assert capfd.readouterr().err == waiting


def test_a_dead_holder_on_another_host_is_found_by_its_silence(
    path: Path, tmp_path: Path, elsewhere: Callable[..., None], clock: SimpleNamespace
) -> None:
    mark = tmp_path / "mark"
    with forked(hold, path, mark, "node1") as holder:
        wait_for(mark.exists)
        holder.kill()
        holder.join()
    elsewhere("node2")
    with pytest.raises(LockedError), exclusive(path, WHAT, until=clock.now + 119):
        pass
    began = clock.now
    with exclusive(path, WHAT, until=clock.now + 121):
        assert clock.now - began == 120
        assert json.loads(tickets(path)[max(tickets(path))])["host"] == "node2"


def test_who_stood_still_too_long_ends(
    path: Path,
    tmp_path: Path,
    elsewhere: Callable[..., None],
    clock: SimpleNamespace,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It was stopped, another host gave it up for dead and took the lock; when it goes on, it must not write."""
    mark = tmp_path / "mark"
    with forked(hold, path, mark, "node1") as holder:
        wait_for(mark.exists)
        os.kill(holder.pid, signal.SIGSTOP)
        elsewhere("node2")
        with exclusive(path, WHAT):
            os.kill(holder.pid, signal.SIGCONT)
            holder.join(60)
            assert holder.exitcode == 75
        with exclusive(path, WHAT, until=clock.now):
            pass
    assert f"error: {WHAT}: this job stood still" in capfd.readouterr().err


def test_the_slurm_job_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with (
        exclusive(path, WHAT),
        pytest.raises(LockedError, match=r"on \S+, SLURM job 4711\)"),
        exclusive(path, WHAT, until=time.monotonic()),
    ):
        pass


def contend(path: Path, referee: Path, host: int, seed: int) -> None:
    """Takes the lock again and again. Inside, nobody else may be: the kernel's own lock on one machine tells."""
    taken, flock, draw = 0, fcntl.flock, random.Random(seed)
    locks._place = lambda: f"host {host}"
    locks.RENEW_SECONDS, locks.LIMIT_SECONDS, locks.POLL_SECONDS = 0.02, 3.0, 0.001

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    locks.fcntl.flock = refuse
    while True:
        with exclusive(path, WHAT), referee.open("a") as file:
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where another one is inside
            time.sleep(draw.random() * 0.05)
            taken += 1
            file.write(f"{host} ")


def test_one_holder_at_a_time_whoever_is_killed(path: Path, tmp_path: Path) -> None:
    """Four hosts contend with nothing but the shared files; one after the other is killed at any moment."""
    referee, draw = tmp_path / "referee", random.Random(6)
    processes = [FORK.Process(target=contend, args=(path, referee, host, host)) for host in range(4)]
    for process in processes:
        process.start()
    try:
        for turn in range(4):
            time.sleep(0.3 + draw.random())
            victim = turn
            assert processes[victim].exitcode is None  # nobody met another inside
            processes[victim].kill()
            processes[victim].join()
            processes[victim] = FORK.Process(target=contend, args=(path, referee, 10 + turn, turn))
            processes[victim].start()
        before = len(referee.read_text().split())
        wait_for(lambda: len(referee.read_text().split()) > before + 5)
        assert [process.exitcode for process in processes] == [None] * 4
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert len(set(referee.read_text().split())) > 1


def test_a_name_with_dots_has_its_own_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path / "12.8B-seed0-a.lock", WHAT), exclusive(tmp_path / "12.8B-seed0-b.lock", WHAT, until=0.0):
        pass


def test_a_command_line_that_gives_up_ends_with_75(path: Path) -> None:
    program = (
        "import argparse, sys, pathlib\n"
        "from scripts.common.errors import run\n"
        "from scripts.store.locks import exclusive\n"
        "def main(_):\n"
        "    with exclusive(pathlib.Path(sys.argv.pop()), 'it', until=0.0): pass\n"
        "run(main, argparse.ArgumentParser())\n"
    )
    with exclusive(path, WHAT):
        program = program.replace("sys.argv.pop()", repr(str(path)))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert done.stderr.startswith(f"error: it: another job (process {os.getpid()} on ")
    assert done.stderr.count("\n") == 1
