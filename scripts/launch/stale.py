"""How a file that is there, and is not what is wanted, is made to run: Snakemake itself would leave it as it is.

Its own records may be lost and timestamps may lie, so neither is relied on. The file is given an old time, and as an
input a note that is newer and has bytes that no job ever saw: a note alone would be no reason to run where it is
missing, nor where Snakemake remembers its checksum. Both times lie decades back, since Snakemake deletes what a job
has made when an input is newer.
"""

import os
import uuid
from pathlib import Path

from scripts.common.errors import UserError
from scripts.common.files import atomic_path

_OLD, _NEWER = 1, 2


def note(path: str, notes: str, *, write: bool) -> list[str]:
    """The input that makes a file run, written first; none where the file is missing and runs anyway.

    Args:
        path: the file.
        notes: directory of the notes. Each lies in a directory of its own, because Snakemake lists one only once.
        write: False in a job, whose head has written the note.

    Raises:
        UserError: the file is another person's, so that its time cannot be changed.
    """
    if not os.path.exists(path):
        return []
    file = Path(notes) / path.lstrip("/") / "note"
    if write:
        try:
            os.utime(path, (_OLD, _OLD))
        except PermissionError as error:
            raise UserError(
                f"{path}: is not what is wanted, and cannot be replaced ({error.strerror}); delete it"
            ) from error
        with atomic_path(file) as new:
            new.write_text(uuid.uuid4().hex, encoding="ascii")
            os.utime(new, (_NEWER, _NEWER))
    return [str(file)]
