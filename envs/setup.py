"""Sets up `.venv` with the exact versions of requirements.lock. Standard library only; `make` runs it.

Nothing happens where `.venv` was made by this script from the same lock, with the same Python, at the same
place. uv installs the packages, from where pip is set up to find them, or pip itself where uv cannot.
"""

import ast
import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (older ones reach this line: the file parses on Python 3.7)
    found = f"{sys.version.split()[0]} ({sys.executable})"
    sys.exit(f"error: Python >= 3.11 is needed, not {found}; `make demo PYTHON=python3.12` picks another")

ROOT = Path(__file__).resolve().parent.parent
LOCK = Path("envs", "requirements.lock")

# What pip may be set up with -> the variable that says the same to uv, which reads nothing of pip's. Of the names
# that uv has for its indexes, these are the older ones: it heeds the newer ones more, should a person have set them.
UV_VARIABLES = {
    "index-url": "UV_INDEX_URL",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "proxy": "ALL_PROXY",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


class SetupError(Exception):
    """What went wrong, in one sentence."""


class Environment:
    """The virtual environment of one checkout."""

    def __init__(self, root: Path) -> None:
        self.lock = root / LOCK
        self.directory = root / ".venv"
        self.python = self.directory / "bin" / "python"
        self.stamp = self.directory / "complete"
        self.log = self.directory / "install.log"
        self.said = ""

    def key(self) -> str:
        """Identifies what a complete environment is made of.

        The path is part of it because the first line of every program in `.venv/bin` holds it: in a checkout
        that was moved or copied they would start another checkout's Python, or none.
        """
        script = Path(__file__).read_bytes()
        parts = [self.lock.read_bytes(), script, sys.version.encode(), bytes(self.directory)]
        return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def complete(self) -> bool:
        return self.stamp.is_file() and self.stamp.read_text() == self.key() and self.python.exists()

    def make(self) -> None:
        """Makes the environment from nothing; the stamp comes last, so an interrupted one is made again."""
        self.stamp.unlink(missing_ok=True)
        started = time.monotonic()
        say(f"making .venv with Python {sys.version.split()[0]} ... (1/3)")
        if importlib.util.find_spec("ensurepip") is None:
            raise SetupError(f"{sys.executable} has no venv: on Debian, install the package python3-venv")
        made = call(sys.executable, "-m", "venv", "--clear", str(self.directory))
        if made.returncode != 0:
            raise SetupError(f"{sys.executable} cannot make .venv: {last_line(made.stdout)}")
        self.install_torch()
        say(f"installing {len(versions(self.lock)) - 1} other packages ... (3/3)")
        # the lock is the whole closure, so nothing is left to resolve
        self.install(f"the packages of {LOCK}", "--no-deps", "--requirement", str(self.lock))
        self.stamp.write_text(self.key())
        say(f"set up in {time.monotonic() - started:.0f} s")

    def install_torch(self) -> None:
        """Installs the build of torch that fits the machine.

        On Linux the plain build brings several GB of CUDA packages along, whether there is a GPU or not.
        The CPU build has a version of its own ("+cpu"), which the package index does not have: a machine may
        offer it in a place that its pip knows; else uv knows where torch's makers publish their builds. With
        a GPU, uv picks the build for the driver that it finds. UV_TORCH_BACKEND (uv's own variable: cpu,
        cu130, auto, ...) overrides what was found, as a cluster's head node may lack the GPUs of its other
        nodes. The version is the lock's in each case, and what torch needs is held to the lock.
        """
        version = versions(self.lock)["torch"]
        held = ("--constraint", str(self.lock))
        backend = os.environ.get("UV_TORCH_BACKEND") or ("auto" if has_gpu() else "cpu")
        say(f"installing torch {version} for {'CPUs' if backend == 'cpu' else f'GPUs ({backend})'} ... (2/3)")
        if sys.platform == "linux":
            build = (*held, f"torch=={version}+cpu")
            if backend == "cpu" and (self.uv(*build) or self.pip(*build)):
                return
            if self.uv(*held, "--torch-backend", backend, f"torch=={version}"):
                return
            say("no such build can be had from here: taking the package index's own, which is larger")
        self.install(f"torch {version}", *held, f"torch=={version}")

    def install(self, what: str, *arguments: str) -> None:
        """Installs with uv or, whatever goes wrong with it, with pip."""
        if self.uv(*arguments):
            return
        say(f"{self.failed('uv')}; pip takes over, some minutes ...")
        if not self.pip(*arguments):
            raise self.failed(f"installing {what}")

    def uv(self, *arguments: str) -> bool:
        """Has uv install something; False also where uv itself cannot be had."""
        uv = self.directory / "bin" / "uv"
        if not uv.exists() and not self.pip("--constraint", str(self.lock), "uv"):
            return False
        # Python compiles what it imports and keeps that, which is quicker than to compile everything now. Told
        # not to keep it (PYTHONDONTWRITEBYTECODE), each process would compile all its imports again.
        options = ["--compile-bytecode"] if sys.dont_write_bytecode else []
        if self.settings.get("no-index", "no").lower() in ("y", "yes", "t", "true", "on", "1"):
            options.append("--no-index")
        command = (str(uv), "pip", "install", "--python", str(self.python), *options, *arguments)
        return self.run(*command, environment={**for_uv(self.settings), **os.environ})

    def pip(self, *arguments: str) -> bool:
        return self.run(str(self.python), "-m", "pip", "install", *arguments)

    @functools.cached_property
    def settings(self) -> dict[str, str]:
        """What `pip install` is set up with, in pip's files or variables."""
        listed = call(str(self.python), "-m", "pip", "config", "list").stdout
        found: dict[str, str] = {}
        for section in ("global", "install", ":env:"):  # for pip, the later ones count more, and empty ones do not
            found |= re.findall(rf"^{section}\.([a-z-]+)=('.+'|\".+\")$", listed, re.MULTILINE)
        return {name: ast.literal_eval(value) for name, value in found.items()}

    def run(self, *command: str, environment: dict[str, str] | None = None) -> bool:
        """Runs a command and keeps what it prints; True when it succeeded."""
        done = call(*command, environment=environment)
        self.said = done.stdout
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}\n")
        return done.returncode == 0

    def failed(self, doing: str) -> SetupError:
        return SetupError(f"{doing} failed: {last_line(self.said)} (all that was said: {self.log})")


def versions(lock: Path) -> dict[str, str]:
    """Package name -> version, for every line of a lock file, whatever its marker."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def for_uv(settings: dict[str, str]) -> dict[str, str]:
    """The variables that set uv up as pip is."""
    variables = {"UV_SYSTEM_CERTS": "1"}  # as newer versions of pip do; SSL_CERT_FILE counts more
    for name, value in settings.items():
        if name in UV_VARIABLES:
            variables[UV_VARIABLES[name]] = ("," if name == "find-links" else " ").join(value.split())
    if "extra-index-url" in settings:
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # a version may lie in any of the indexes, as for pip
    return variables


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU: its device node or, where it has none (WSL), its driver's tool."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    tool = shutil.which("nvidia-smi")
    return tool is not None and "GPU" in call(tool, "--list-gpus").stdout


def call(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            close_fds=False,  # an installer that outlives this script goes on holding the lock of `alone`
            check=False,
        )
    except OSError as error:  # such as for uv on a file system from which no program may run
        return subprocess.CompletedProcess(command, 126, f"error: {error}")


def last_line(text: str) -> str:
    """The last line in which a program says what is wrong, or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])


def say(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Waits for any other setup of the same checkout."""
    with file.open("r+") as handle:
        os.set_inheritable(handle.fileno(), True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another setup of this checkout")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main(root: Path = ROOT) -> None:
    environment = Environment(root)
    with alone(environment.lock):
        if not environment.complete():
            environment.make()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the next `make` sets everything up anew")
    except (OSError, SetupError) as error:
        sys.exit(f"error: {error}")
