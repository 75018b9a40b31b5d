"""Where a file with a plain name comes from: what it was made of, at which commit, and the hash of its bytes.

Such files (a CSV, its drawing, a page) have no fingerprint in their names. So beside them lies a record,
`fig2.made.json` beside `fig2.pdf` and `fig2.png`, `fig2.collected.json` beside `fig2.csv`: the fingerprint of the
recipe that made them (see `scripts.artifacts.recipes`), the commit that was checked out, and the SHA-256 of each file.
By it a file counts as what a study wants, whatever its timestamp and whatever Snakemake remembers. A CSV that was
recorded or written by hand has no record.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from scripts.common.checkout import commit
from scripts.common.errors import UserError
from scripts.common.files import write_json
from scripts.store.fingerprint import file_sha256


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


def record_path(path: Path) -> Path:
    """The record of a file, and of those that are made together with it."""
    return path.with_suffix(".collected.json" if path.suffix == ".csv" else ".made.json")


def write_record(recipe: str, *files: Path) -> None:
    """Records beside the first of `files` that they were made just now, by the recipe of this fingerprint."""
    hashes = {file.name: file_sha256(file) for file in files}
    write_json(record_path(files[0]), {"recipe": recipe, "commit": commit(), "files": hashes})


def is_made(recipe: str, *files: Path) -> bool:
    """Whether `files` are what a recipe of this fingerprint made of them; see `write_record`."""
    try:
        record = json.loads(record_path(files[0]).read_text(encoding="utf-8"))
        found = {file.name: file_sha256(file) for file in files}
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("recipe") == recipe and record.get("files") == found


def collected(csv: Path) -> Collected:
    """What made a CSV, as far as there is a record of it.

    Raises:
        UserError: the CSV cannot be read, or it is not what its record says.
    """
    path = record_path(csv)
    try:
        found = file_sha256(csv)
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if record is None:
            return Collected(found[:12])
        made, at = record["files"][csv.name], str(record["commit"])
    except OSError as error:
        raise UserError(f"{csv}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is no record of {csv.name}; delete it, and make {csv.name} anew") from error
    if made != found:
        raise UserError(f"{csv}: was changed since it was collected; delete {path} to draw it all the same")
    return Collected(found[:12], at)
