"""Answers kept on disk as they come, so that a job that is killed and started again asks no model twice."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Plain data by text keys, in a file of JSON lines that grows by whole lines.

    What was kept before the last `keep` returned survives the process, and the machine. A line that a killed process
    left half-written is cut off.

    Args:
        path: the file; made with its directory if it is not there. Only one process may have it open.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._found: dict[str, Any] = {}
        self._file = path.open("a+b")
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                key, value = json.loads(line)
            except (TypeError, ValueError):  # what a machine that lost its power left
                break
            self._found[key] = value
            whole += len(line)
        self._file.truncate(whole)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def __len__(self) -> int:
        return len(self._found)

    def take(self, path: Path) -> None:
        """Takes over what another journal has, which nobody has open any more, and deletes it."""
        other = Journal(path)
        self.keep(other._found)
        other.close()
        path.unlink()

    def keep(self, entries: Mapping[str, Any]) -> None:
        """Adds entries, durably. A key that is there already keeps its value."""
        new = {key: value for key, value in entries.items() if key not in self._found}
        if not new:
            return
        self._found |= new
        self._file.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in new.items()))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
