"""Which commit of this project runs."""

import subprocess
from pathlib import Path

from scripts.common.files import ROOT

UNKNOWN = "unknown"


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
