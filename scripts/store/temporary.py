"""Temporary directories that are deleted even where the process that made them could not do it.

A process that is killed leaves its own behind. Each bears in its name which process of which boot of which kernel made
it, so whoever makes the next one finds those whose process is certainly no more, and deletes them. Of other hosts (the
place may be on a shared file system), of other users and of processes that live, none is touched.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from scripts.store.locks import this_process

_NAME = re.compile(r"lora-forgets-([0-9a-f]{12})-(\d+)-(\d+)-\w+")


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A new directory where `tempfile` makes them, deleted when the block ends; those of killed processes before."""
    me = this_process()
    place = hashlib.sha256(me.place.encode()).hexdigest()[:12]
    for entry in os.scandir(tempfile.gettempdir()):
        name = _NAME.fullmatch(entry.name)
        if name is None or name[1] != place or not entry.is_dir(follow_symlinks=False):
            continue
        maker = replace(me, pid=int(name[2]), started=int(name[3]))
        with suppress(FileNotFoundError):  # another process may be at it, too
            if maker.has_ended() and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                shutil.rmtree(entry.path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"lora-forgets-{place}-{me.pid}-{me.started}-") as directory:
        yield Path(directory)
