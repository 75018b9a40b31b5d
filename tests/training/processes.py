"""What processes of their own do in tests; imports nothing that takes long."""

import os
import signal
import time
from pathlib import Path

from scripts.common.errors import UserError
from scripts.training import throughput


def end(how: str) -> int:
    """Ends in one of four ways."""
    if how == "answers":
        return os.getpid()
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "is told":
        raise UserError("one sentence")
    raise SystemExit(3)


def hold(megabytes: int) -> int:
    """By how much the process's peak grows when it holds so many."""
    before = throughput._peak_resident()
    held = b"\1" * (megabytes * 2**20)
    return throughput._peak_resident() - before + len(held[:0])


def start_lasting(mark: str) -> None:
    """Starts a process that would last, and waits for it."""
    throughput.apart(lasting, mark)


def lasting(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(60)
