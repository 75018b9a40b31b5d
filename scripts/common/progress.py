"""Lines that say how far a long piece of work has come, how fast it goes, and how much time is left."""

import sys
import time
from collections.abc import Callable

EVERY_SECONDS = 30.0
"""Between two lines: a log file keeps them all."""


class Progress:
    """Counts what is done and says so from time to time, never for work that is over before the first line is due.

    Args:
        what: the work, the beginning of each line: ``humaneval of runs/code-cpt/lora-r16/20B-seed0``.
        unit: what is counted, in the plural.
        total: how many there are.
        done: how many were there before; they count for no rate.
        say: takes a line; standard error unless given.
        clock: seconds that go on.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: int,
        done: int = 0,
        say: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._before = self._done = done
        self._say = say or _to_stderr
        self._clock = clock
        self._started = self._said = clock()

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = self._clock()
        if now - self._said < EVERY_SECONDS or self._done <= self._before:
            return
        self._said = now
        rate = (self._done - self._before) / (now - self._started)
        left = round((self._total - self._done) / rate)
        self._say(
            f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.3g}/s, "
            f"{left // 3600}:{left % 3600 // 60:02}:{left % 60:02} left"
        )


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
