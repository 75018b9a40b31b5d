"""Canonical JSON and the fingerprints made from it."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

FINGERPRINT = r"[0-9a-f]{12}"


def canonical(value: Any) -> str:
    """The one JSON text of `value`: keys sorted, no white space, no NaN.

    Raises:
        ValueError: `value` holds something JSON has no name for (NaN, infinity).
        TypeError: `value` holds an object that is not plain data.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(spec: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the spec's canonical JSON."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:12]


def known_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, computed once a process for as long as the file's time stays the same."""
    return _sha256_at(path, path.stat().st_mtime_ns)


@cache
def _sha256_at(path: Path, changed: int) -> str:
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
