"""Starts Python in a second or three less: as forks of one process that has imported what this project imports.

Only other packages' modules are loaded once; nothing of this project is, so each fork finds the modules of the checkout
that it works in. What must be a process of its own (real training, whatever is killed) is started without this.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_CLIENT = """\
#!{python} -ISE
import json, os, socket, sys
if sys.argv[1:2] != ["-m"] or not sys.argv[2].startswith("scripts."):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
server.sendall(request)
sys.exit(int(server.recv(16) or 1))
"""
"""What jobs find as `python`."""


class Warm:
    """The process, started when it is first needed; it ends with the one that started it."""

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def python(
        self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], *, jobs: bool
    ) -> tuple[int, str]:
        """Runs ``python ARGUMENTS`` and returns its exit status and all that it said.

        Args:
            arguments: ``-m MODULE ...``, ``-c CODE ...`` or ``FILE ...``.
            cwd: where.
            environment: its environment.
            jobs: whether the jobs of a Snakemake are forks, too.
        """
        if self._directory is None:
            self._directory = self._start()
        environment = dict(environment)
        if jobs:
            environment["BASH_ENV"] = f"{self._directory.name}/path.sh"
        request = json.dumps([list(arguments), str(cwd), environment]).encode()
        with socket.socket(socket.AF_UNIX) as server, open(os.devnull) as nothing, tempfile.TemporaryFile("w+") as said:
            server.connect(f"{self._directory.name}/socket")
            descriptors = [nothing.fileno(), said.fileno(), said.fileno()]
            socket.send_fds(server, [len(request).to_bytes(4, "big")], descriptors)
            server.sendall(request)
            status = int(server.recv(16))
            said.seek(0)
            return status, said.read()

    def _start(self) -> tempfile.TemporaryDirectory[str]:
        directory = tempfile.TemporaryDirectory(prefix="warm-")
        client, address = Path(directory.name, "bin", "python"), f"{directory.name}/socket"
        client.parent.mkdir()
        client.write_text(_CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        # a launch puts its own interpreter first in PATH, and bash reads this after that
        Path(directory.name, "path.sh").write_text(f'PATH="{client.parent}:$PATH"\n')
        self._process = subprocess.Popen(
            [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return directory


def _serve(address: str) -> None:
    import pandas  # noqa: F401
    import pydantic  # noqa: F401
    import seaborn  # noqa: F401
    import torch  # noqa: F401
    import yaml  # noqa: F401
    from snakemake.cli import get_argument_parser

    get_argument_parser()  # loads the plug-ins
    here = str(Path(__file__).parent)
    sys.path = [path for path in sys.path if path != here]
    _end_with(sys.stdin.fileno())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(64)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection)
            os._exit(0)
        connection.close()


def _end_with(descriptor: int) -> None:
    """Ends this process when the other end of a pipe is closed."""
    server = os.getpid()
    if os.fork() == 0:
        os.read(descriptor, 1)
        os.kill(server, signal.SIGKILL)
        os._exit(0)
    os.close(descriptor)


def _answer(connection: socket.socket) -> None:
    head, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    size, request = int.from_bytes(head, "big"), b""
    while len(request) < size:
        request += connection.recv(size - len(request))
    child = os.fork()
    if child == 0:
        connection.close()
        _become(*json.loads(request), descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(str(status).encode())


def _become(arguments: list[str], cwd: str, environment: dict[str, str], descriptors: list[int]) -> None:
    """Goes on as ``python ARGUMENTS`` would have begun."""
    for target, source in enumerate(descriptors):
        os.dup2(source, target)
        os.close(source)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.modules.pop("sitecustomize", None)  # the machine's own
    with suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")
    option, what = arguments[0], arguments[1] if arguments[0] in ("-m", "-c") else ""
    sys.argv = [what, *arguments[2:]] if option == "-m" else [option, *arguments[2 if what else 1 :]]
    sys.orig_argv = [sys.executable, *arguments]
    status: Any = 0
    try:
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif option == "-c":
            exec(what, {"__name__": "__main__"})
        else:
            sys.path.insert(0, str(Path(option).parent))
            runpy.run_path(option, run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    # Python's own way out would free what was loaded before the fork, object by object: another second
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
