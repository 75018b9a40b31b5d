"""The real training loop, but that a step lasts half a second longer: time to disturb it, on any machine."""

import time
from pathlib import Path

exec(compile(Path("scripts/training/loop.py").read_text(), "scripts/training/loop.py", "exec"), globals())

_backward = backward  # noqa: F821  (the loop's)


def backward(*arguments, **options):
    time.sleep(0.5)
    return _backward(*arguments, **options)
