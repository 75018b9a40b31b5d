"""Where a CSV and its drawing come from: the commits that made them, and what the CSV holds.

Beside each CSV lies what made it, in `fig2.collected.json` beside `fig2.csv`: the commit that was checked out, and the
SHA-256 of the CSV's bytes, so that the note is of this CSV and not of one that was put in its place. A CSV that was
recorded or written by hand has no note.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.common.errors import UserError
from scripts.common.files import ROOT, write_json
from scripts.store.fingerprint import file_sha256

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Collected:
    """What is known of how a CSV was made.

    `values` are the first 12 hex digits of the SHA-256 of its bytes; `commit` made it, and is empty where nobody noted.
    """

    values: str
    commit: str = ""

    @property
    def words(self) -> str:
        """For a footer: `values 0123456789ab, collected at commit abc1234`."""
        return f"values {self.values}" + (f", collected at commit {self.commit}" if self.commit else "")


def commit(root: Path = ROOT) -> str:
    """The commit that is checked out at `root`, with `-dirty` where tracked files differ, or `unknown`."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # A copy of this project without its own history may lie inside somebody's other repository.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return UNKNOWN
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def note_path(csv: Path) -> Path:
    return csv.with_suffix(".collected.json")


def write_note(csv: Path) -> None:
    """Notes beside a CSV that it was made just now."""
    write_json(note_path(csv), {"commit": commit(), "sha256": file_sha256(csv)})


def collected(csv: Path) -> Collected:
    """What made a CSV, as far as its note says and is of these bytes.

    Raises:
        UserError: the CSV cannot be read, or its note is not one.
    """
    path = note_path(csv)
    try:
        found = file_sha256(csv)
        note = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"sha256": ""}
        return Collected(found[:12], str(note["commit"]) if note["sha256"] == found else "")
    except OSError as error:
        raise UserError(f"{csv}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is not what collecting notes of {csv.name}; make {csv.name} anew") from error
