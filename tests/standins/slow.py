"""The real training loop, but that a step lasts half a second longer, and that an attempt waits where a test says so.

Where there is a directory `held`, an attempt makes the file `held/<fingerprint>.<process>` in its third step, and waits
until the file is gone or it is asked to end: no job ends before the test is done with it, however fast the machine is.
By then a second of training is over, and the first of the checkpoints that are written every second is on its way.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

exec(compile(Path("scripts/training/loop.py").read_text(), "scripts/training/loop.py", "exec"), globals())

_fit, _backward = fit, backward  # noqa: F821  (the loop's)
_steps, _held = 0, Path()


def fit(job, *others):
    global _steps, _held
    _steps, _held = 0, Path("held") / f"{job.product[-12:]}.{os.getpid()}"
    return _fit(job, *others)


def backward(*arguments, **options):
    global _steps
    _steps += 1
    time.sleep(0.5)
    if _steps == 3:
        with suppress(FileNotFoundError):
            _held.touch()
        # the handler is the loop's, which notes the request and ends after this step
        while _held.exists() and not signal.getsignal(signal.SIGTERM).requested:
            time.sleep(0.05)
        _held.unlink(missing_ok=True)
    return _backward(*arguments, **options)
