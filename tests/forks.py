"""Processes beside a test's own, and waiting for what they do."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

FORK = multiprocessing.get_context("fork")


@contextmanager
def forked(work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """Does `work` in a process that starts as a copy of this one; it does not outlive the block."""
    process = FORK.Process(target=work, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_for(true: Callable[[], Any]) -> None:
    """Waits for at most a minute until something is true."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def interruptible() -> None:
    """For `preexec_fn`: a program can be interrupted, also where a script started the tests in the background.

    Shells have SIGINT ignored there, in all that descends from it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
