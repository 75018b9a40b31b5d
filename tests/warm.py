"""Starts Snakemake in a second less: as forks of one process that has imported it already.

Snakemake's own modules, and those of other packages that its start needs, are loaded once; nothing of this project is,
so each fork finds the modules of the checkout that it works in. What jobs start are new processes, as always.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock


class Warm:
    """The process, started when it is first needed; it ends with the one that started it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()

    def snakemake(self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], said: Path) -> int:
        """Runs ``snakemake ARGUMENTS``, what it says going to a file, and returns its exit status."""
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            request = [list(arguments), str(cwd), dict(environment), str(said)]
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


def _serve() -> None:
    import pandas  # noqa: F401
    import pydantic  # noqa: F401
    import snakemake.cli  # noqa: F401
    import yaml  # noqa: F401

    here = str(Path(__file__).parent)
    sys.path = [path for path in sys.path if path != here]
    for line in sys.stdin:
        arguments, cwd, environment, said = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(arguments, cwd, environment, said)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(arguments: list[str], cwd: str, environment: dict[str, str], said: str) -> None:
    """Goes on as ``python -m snakemake ARGUMENTS`` would have begun."""
    import runpy

    nothing, out = os.open(os.devnull, os.O_RDONLY), os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for target, source in ((0, nothing), (1, out), (2, out)):
        os.dup2(source, target)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["snakemake", *arguments]
    sys.orig_argv = [sys.executable, "-m", "snakemake", *arguments]
    runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    _serve()
