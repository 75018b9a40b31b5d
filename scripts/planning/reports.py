"""What the training of a product last said of itself, and how durations and tables are written for people."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.store.store import Store

_TAIL_BYTES = 16384
FRESH_SECONDS = 120.0
"""A report is younger than this while training goes on; a step, or a checkpoint on a slow disk, may take a while."""


def last_report(store: Store, key: str) -> dict[str, Any] | None:
    """The newest line of an unfinished product's metrics (see `scripts.training.metrics.Log`); None where none is."""
    for line in reversed(last_lines(store.scratch(key) / "metrics.jsonl")):
        try:
            report = json.loads(line)
        except ValueError:  # it is being written
            continue
        return dict(report)
    return None


def seconds_left(store: Store, keys: Iterable[str]) -> float | None:
    """How long the longest of these takes that are being trained, by their own reports; None where none has one."""
    now = time.time()
    left = [
        max(0.0, report["eta_seconds"] - (now - report["time"]))
        for report in (last_report(store, key) for key in keys)
        if report and now - report["time"] < FRESH_SECONDS and report["eta_seconds"] is not None
    ]
    return max(left, default=None)


def last_lines(path: Path) -> list[str]:
    """The last lines of a file, as many as are in its last 16 KiB; empty where there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = text.splitlines()
    return lines[1:] if size > _TAIL_BYTES else lines


def spoken(seconds: float) -> str:
    """A duration to its two largest units: 45 s, 12 min 05 s, 3 h 20 min, 2 d 7 h."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {minutes:02d} min"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row of a table, its columns as wide as need be: the first flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
