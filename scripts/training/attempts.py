"""What all attempts at a product took together, kept in one small file until the product is complete."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.common.files import atomic_path
from scripts.store.machine import processor
from scripts.training.checkpoints import writable


class Attempts:
    """The attempts in `path`, the last of which is this one; one that was killed counts to its last report.

    An entry has `started` (seconds since 1970), `seconds` (wall time with the device in hand), `device` (its name),
    `devices` (how many, over all processes) and `memory_bytes` (the most that the first of them took, by its reports).
    """

    def __init__(self, path: Path, device: str, devices: int) -> None:
        """Raises UserError where the file cannot be written."""
        self._path = path
        self._entries: list[dict[str, Any]] = []
        with suppress(OSError, ValueError):  # none yet, or spoilt: they are told of, nothing depends on them
            self._entries = json.loads(path.read_text(encoding="utf-8"))
        self._began = time.monotonic()
        start = {"started": round(time.time(), 3), "seconds": 0.0}
        self._entries.append({**start, "device": device, "devices": devices, "memory_bytes": 0})
        self.report()

    def report(self, memory_bytes: int = 0) -> None:
        """This attempt has come so far, and took so much. Raises UserError where the file cannot be written."""
        self._now()
        entry = self._entries[-1]
        entry["memory_bytes"] = max(entry["memory_bytes"], memory_bytes)
        with writable(self._path), atomic_path(self._path) as new:
            new.write_text(json.dumps(self._entries) + "\n", encoding="utf-8")

    def totals(self) -> dict[str, Any]:
        """The entries, their `wall_seconds`, and their `device_seconds`: wall time times devices."""
        self._now()
        return {
            "attempts": self._entries,
            "wall_seconds": round(math.fsum(entry["seconds"] for entry in self._entries), 3),
            "device_seconds": round(math.fsum(entry["seconds"] * entry["devices"] for entry in self._entries), 3),
        }

    def _now(self) -> None:
        self._entries[-1]["seconds"] = round(time.monotonic() - self._began, 3)


@contextmanager
def attempt(path: Path, devices: int) -> Iterator[Attempts]:
    """A new attempt, on so many devices; how long it took is written at its end too, however it ends, but for a kill.

    To be entered when the device is claimed. Raises UserError where the file cannot be written.
    """
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else processor()
    attempts = Attempts(path, device, devices)
    try:
        yield attempts
    finally:
        with suppress(UserError):  # the attempt's own end matters more
            attempts.report()
