"""Exclusive rights between processes, on one host and on hosts that share a file system.

On one host `flock` decides: the kernel frees it when its holder ends, however it ends. Between hosts a file system may
not pass `flock` on, so a lock is a chain of tickets too: files with numbers in a directory, of which the highest
belongs to the holder and says who that is. To take the lock, or to keep it, is to make the next number with a hard
link, which only one process in the world can do. A holder does so every `RENEW_SECONDS`, in a thread. Others may take
the next number when the highest is empty (that is how it is given back), when its holder was a process of this host
that has ended, or when they have seen no new number for `LIMIT_SECONDS` by their own clock: no clocks are compared,
and there is room for a file system that shows a directory up to a minute late. Who finds that the next number is
another's has been given up for dead (it was stopped, or cut off from the file system): it ends at once.
"""

import errno
import fcntl
import itertools
import json
import math
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from scripts.common.errors import UserError

RENEW_SECONDS = 20.0
LIMIT_SECONDS = 120.0
POLL_SECONDS = 0.5
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class LockedError(UserError):
    """Another job holds the lock; the same command may be given again later."""

    status = os.EX_TEMPFAIL


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    place: str
    """The boot of a kernel and a namespace of processes in it, where a process id and a start are one process."""
    pid: int
    started: int
    """Clock ticks from the host's boot to the start of the process."""
    job: str
    """Its number in SLURM, or nothing."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", SLURM job {self.job}" if self.job else "")

    def has_ended(self) -> bool:
        """Whether it was a process of this host, and is no more; False of other hosts' processes."""
        return self.place == _place() != "" and _started(self.pid) != self.started


@contextmanager
def exclusive(path: Path, what: str, until: float = math.inf) -> Iterator[None]:
    """Holds a lock, which ends with its process. Waits for another holder, and says so in one line.

    Args:
        path: a file for `flock`, made where it is missing; the tickets lie beside it, in `.owners` instead of `.lock`.
        what: the thing that is locked, for messages.
        until: moment of `time.monotonic` at which waiting ends; without it, it waits for ever.

    Raises:
        LockedError: another process held it until then.
    """
    directory = path.with_suffix(".owners")
    directory.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        chain = _Chain(directory)
        _wait(file, chain, what, until)
        stop = threading.Event()
        keeper = threading.Thread(target=_keep, args=(chain, what, stop), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            stop.set()
            keeper.join()
            chain.give_back()


def holder(path: Path) -> Holder | None:
    """Who holds a lock, for a person to read: it is only looked at, so another may hold it a moment later.

    A process of another host counts while its last ticket is younger than `LIMIT_SECONDS` by the store's clock.
    """
    directory = path.with_suffix(".owners")
    try:
        owner = _Chain(directory).newest()[1]
        age = time.time() - directory.stat().st_mtime
    except OSError:
        return None
    if owner is None or owner.has_ended() or (owner.place != _place() and age > LIMIT_SECONDS):
        return None
    return owner


def _wait(file: TextIO, chain: "_Chain", what: str, until: float) -> None:
    """Returns when this process holds the lock."""
    began = seen_at = time.monotonic()
    seen, alone, told = -1, False, False
    for attempt in itertools.count():
        alone = alone or _flock(file)
        number, owner = chain.newest()
        now = time.monotonic()
        if number != seen:
            seen, seen_at = number, now
        if alone and (owner is None or owner.has_ended() or now - seen_at >= LIMIT_SECONDS):
            if chain.take(number + 1):
                return
            continue
        # a job of this host that is about to write its ticket is nobody yet
        who = "" if owner is None or owner.has_ended() else f" ({owner})"
        if now >= until:
            raise LockedError(
                f"{what}: another job{who} is making it; gave up after {now - began:.0f} s, "
                "the same command waits again or finds it made"
            )
        if not told and (who or attempt > 0):
            print(f"{what}: another job{who} is making it; waiting for it", file=sys.stderr, flush=True)
            told = True
        time.sleep(min(POLL_SECONDS, until - now))


def _flock(file: TextIO) -> bool:
    """Whether no other process of this host has the file's lock, which then is ours; True where there are none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    return True


class _Chain:
    """The tickets of one lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mine = 0

    def newest(self) -> tuple[int, Holder | None]:
        """The highest number (0 where there is none) and whose it is; None of one that was given back."""
        while number := max(self._numbers(), default=0):
            try:
                text = self._ticket(number).read_text(encoding="utf-8")
            except FileNotFoundError:  # its owner has a higher one by now
                continue
            return number, Holder(**json.loads(text)) if text else None
        return 0, None

    def take(self, number: int) -> bool:
        """Tries to make this number ours."""
        new = self._directory / f".{uuid.uuid4().hex}"
        new.write_text(json.dumps(asdict(this_process())), encoding="utf-8")
        try:
            if not self._link(new, number):
                return False
        finally:
            new.unlink(missing_ok=True)
        if max(self._numbers()) > number:  # it was free again: others are much further
            self._ticket(number).unlink(missing_ok=True)
            return False
        self._mine = number
        for name in os.listdir(self._directory):
            if name.startswith(".") or int(name) < number:
                (self._directory / name).unlink(missing_ok=True)
        return True

    def renew(self) -> bool:
        """Whether the next number is ours too; if not, another process took the lock."""
        if not self._link(self._ticket(self._mine), self._mine + 1):
            return False
        self._mine += 1
        self._ticket(self._mine - 1).unlink(missing_ok=True)
        return True

    def give_back(self) -> None:
        with suppress(OSError):  # not there: another one has the lock
            os.truncate(self._ticket(self._mine), 0)

    def _link(self, source: Path, number: int) -> bool:
        """Whether `source` is that number now. It may be although `link` failed: an answer of NFS was lost."""
        try:
            os.link(source, self._ticket(number))
        except FileExistsError:
            with suppress(FileNotFoundError):
                return source.samefile(self._ticket(number))
            return False
        except FileNotFoundError:  # who took the lock cleaned up
            return False
        return True

    def _numbers(self) -> list[int]:
        return [int(name) for name in os.listdir(self._directory) if not name.startswith(".")]

    def _ticket(self, number: int) -> Path:
        return self._directory / f"{number:09d}"


def _keep(chain: _Chain, what: str, stop: threading.Event) -> None:
    """Renews the lock until `stop`; ends the process when it is another's, or may be by now."""
    renewed = time.monotonic()
    while not stop.wait(RENEW_SECONDS):
        try:
            ours = chain.renew()
        except OSError:  # the file system may come back in time
            ours = time.monotonic() - renewed < LIMIT_SECONDS
        else:
            renewed = time.monotonic()
        if not ours:
            print(
                f"error: {what}: this job stood still or was cut off from the store for too long, "
                "and its lock is another's; ending",
                file=sys.stderr,
                flush=True,
            )
            os._exit(LockedError.status)


def this_process() -> Holder:
    """This process, as the holder of a lock that it may come to hold."""
    pid = os.getpid()
    return Holder(platform.node(), _place(), pid, _started(pid) or 0, os.environ.get("SLURM_JOB_ID", ""))


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: nothing tells whether a process has ended, so the limit alone does
        return ""


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process of this host; None where it is not running."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
