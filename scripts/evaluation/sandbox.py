"""Runs programs that a model has written, without trusting them.

A program and its check run inside a jail (`jail.py` says what it is made of): no network, no files but the
interpreter's and a small private /tmp, no environment, limits on time, memory, processes, file sizes. What runs
inside is `jailed.py`.

A program has passed when its check has returned. Check and program are two processes: the check asks the program's
functions over a pipe and gets plain values back, and only the check's process can say outside how it went. So output,
exit status, early exits, exit handlers, forks, patched builtins and modules, walks over frames or descriptors, and
objects that claim to equal everything prove nothing. `jailed.py` says what a check may ask, and what remains.
"""

import ast
import builtins
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from scripts.common.errors import UserError

Backend = Literal["bubblewrap", "namespaces"]
Outcome = Literal["passed", "wrong", "error", "missing_package", "timed_out", "out_of_memory", "killed", "not_run"]
"""How a program fared.

passed: its check returned.
wrong: an assertion of its check failed.
error: any other exception, of program or check; a syntax error too.
missing_package: an import of what neither the standard library nor the packages of `Sandbox.run` have.
timed_out: still running at the limit of time.
out_of_memory: a MemoryError, or killed by the kernel because the machine's memory ran out.
killed: its process died by a signal or exited (`sys.exit` too) without an answer.
not_run: nothing was judged. `Sandbox.run` never says so; it is for those who hand on what they did not run.
"""

JAIL = Path(__file__).with_name("jail.py")
PACKAGES = "/packages"  # where they lie in a jail, see `jailed.py`
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache")

PROBE = (
    "import os, socket\n"
    "def look():\n"
    "    networks = {name for _, name in socket.if_nameindex()} - {'lo'}\n"
    "    host = os.path.exists('/proc/self') or os.path.exists('/etc/passwd') or os.access('/', os.W_OK)\n"
    "    return {'processes': os.getpid() > 9, 'root': os.getuid() == 0, 'files': host, 'network': networks}\n",
    "seen = [name for name, there in look().items() if there]\nassert not seen, f'{seen} of the host'\n",
)


class _BrokenError(Exception):
    """Why a jail could not be started."""


@dataclass(frozen=True)
class ProgramResult:
    """How one program fared: the outcome, and the last line of its error (at most 200 characters)."""

    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class Sandbox:
    """A way to jail programs: `bubblewrap`, or the same namespaces by the system calls themselves."""

    backend: Backend

    @classmethod
    def find(cls) -> "Sandbox":
        """Return the first backend through which a probe ran as it should.

        Raises:
            UserError: none works here; programs are not run at all then.
        """
        reasons = []
        for backend in get_args(Backend):
            sandbox = cls(backend)
            reason = sandbox._defect()
            if reason is None:
                return sandbox
            reasons.append(f"{backend}: {reason}")
        raise UserError(
            "programs written by a model run only in a sandbox and none works on this machine "
            f"({'; '.join(reasons)}): install bubblewrap 0.8 or newer, or let the kernel make user namespaces "
            "for ordinary users (sysctl user.max_user_namespaces above 0, and, where they exist, "
            "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0)"
        )

    def run(
        self,
        programs: Sequence[tuple[str, str]],
        *,
        timeout_seconds: float,
        memory_mb: int,
        workers: int = 1,
        packages: Sequence[str] = (),
    ) -> list[ProgramResult]:
        """Run each (program, check) and say how it fared, in the given order.

        The check runs after the program's text, with those of the program's names that it spells out; it passes by
        returning. The text of a HumanEval problem is its `test` and a last line `check(<entry point>)`. Identical
        pairs run once.

        Args:
            programs: pairs of source texts; the program is not trusted, the check is.
            timeout_seconds: wall-clock time of one program with its check, from the moment its jail is ready.
            memory_mb: address space of one process, in MiB, the interpreter's own 30 included. A program may
                have about a dozen processes and threads, so a hostile one can take a dozen times as much.
            workers: jails at a time.
            packages: names of packages of this environment, as they are imported, that programs may import beside the
                standard library. Program and check import them each for itself, with one BLAS thread.

        Raises:
            UserError: a jail could not be started (nothing is judged on a guess then), or a package is not installed
                here or cannot be imported within the limits.
        """
        if timeout_seconds <= 0 or memory_mb < 1 or workers < 1:
            raise ValueError("timeout_seconds, memory_mb and workers must be positive")
        shown = package_files(packages)
        pairs = list(dict.fromkeys(programs))
        if not pairs:
            return []
        probes = [(f"import {name}", "") for name in packages]
        try:
            verdicts = self._results([*probes, *pairs], timeout_seconds, memory_mb, workers, packages, shown)
        except _BrokenError as error:
            raise UserError(f"the sandbox ({self.backend}) could not run a program: {error}") from error
        for name, verdict in zip(packages, verdicts, strict=False):
            if verdict.outcome != "passed":
                raise UserError(
                    f"package {name}: programs cannot import it in the sandbox with {memory_mb} MiB and "
                    f"{timeout_seconds:g} s ({verdict.detail})"
                )
        results = verdicts[len(probes) :]
        found = dict(zip(pairs, results, strict=True))
        return [found[pair] for pair in programs]

    def _results(
        self,
        pairs: list[tuple[str, str]],
        timeout_seconds: float,
        memory_mb: int,
        workers: int,
        packages: Sequence[str],
        shown: dict[str, str],
    ) -> list[ProgramResult]:
        """Have one supervisor judge the pairs; raise `_BrokenError` unless it judged every one."""
        names = {check: _candidates(check) for check in {check for _, check in pairs}}
        request = {
            "backend": self.backend,
            "bubblewrap": shutil.which("bwrap"),
            **_places(shown),
            "packages": list(packages),
            "programs": [(program, check, names[check]) for program, check in pairs],
            "timeout_seconds": timeout_seconds,
            "memory_mb": memory_mb,
            "workers": workers,
        }
        results: dict[int, ProgramResult] = {}
        for answer in _supervised(request):
            if isinstance(answer, dict):
                raise _BrokenError(answer["error"].rstrip("."))
            number, outcome, detail = answer
            results[number] = ProgramResult(outcome, detail)
        if len(results) < len(pairs):
            raise _BrokenError("its supervisor ended before every program was judged")
        return [results[number] for number in range(len(pairs))]

    def _defect(self) -> str | None:
        """Why this backend cannot be used here; None when a probe runs, and sees what it should, inside."""
        if not sys.platform.startswith("linux"):
            return "needs Linux"
        if self.backend == "bubblewrap" and shutil.which("bwrap") is None:
            return "bwrap is not on PATH"
        wrong = (PROBE[0], "assert look() is None")
        try:
            right, bad = self._results([PROBE, wrong], 60, 256, workers=1, packages=(), shown={})
        except _BrokenError as error:
            return str(error)
        if right.outcome != "passed" or bad.outcome != "wrong":
            return f"the probe saw {right.detail or bad.outcome}"
        return None


def backends() -> list[Sandbox]:
    """Every backend that works on this machine, the preferred one first."""
    return [sandbox for sandbox in map(Sandbox, get_args(Backend)) if sandbox._defect() is None]


def package_files(packages: Sequence[str]) -> dict[str, str]:
    """Where what these packages and their dependencies consist of lies: in a jail, and in this environment.

    Raises:
        UserError: one of them is not installed here.
    """
    owners = metadata.packages_distributions() if packages else {}
    for name in packages:
        if name not in owners:
            raise UserError(
                f"package {name}: programs shall import it, but it is not installed here under this name; install it "
                f"with `{sys.executable} -m pip install {name}`"
            )
    names = {owner for name in packages for owner in owners[name]}
    shown = {}
    for distribution in _with_dependencies(names):
        for place in _own_places(distribution):
            shown[f"{PACKAGES}/{place}"] = os.path.realpath(str(distribution.locate_file(place)))
    return dict(sorted(shown.items()))


def _with_dependencies(names: Iterable[str]) -> list[metadata.Distribution]:
    """The installed distributions of these names, and what they require, as far as it is installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, metadata.Distribution] = {}
    waiting = [(name, frozenset({""})) for name in names]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        try:
            distribution = found.setdefault(canonicalize_name(name), metadata.distribution(name))
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, distribution.requires or ()):
            marker = requirement.marker
            wanted = (requirement.name, frozenset({"", *requirement.extras}))
            if wanted not in seen and (not marker or any(marker.evaluate({"extra": extra}) for extra in extras)):
                seen.add(wanted)
                waiting.append(wanted)
    return list(found.values())


def _own_places(distribution: metadata.Distribution) -> set[str]:
    """The packages, modules, compiled libraries and metadata of a distribution, relative to where it is installed.

    Of a package without `__init__.py`, which other distributions have parts in, only what is its own.
    """
    places = set()
    for file in distribution.files or ():
        top, *below = file.parts
        shared = (
            below and top.isidentifier() and not os.path.exists(str(distribution.locate_file(f"{top}/__init__.py")))
        )
        if top not in ("..", "__pycache__"):
            places.add(f"{top}/{below[0]}" if shared else top)
    return places


def _candidates(check: str) -> list[str]:
    """The builtins' names that the check, at its top level, hands over as a candidate: `check(sum)`."""
    try:
        body = ast.parse(check).body
    except (SyntaxError, ValueError):
        return []  # it will fail inside, with the reason
    calls = [line.value for line in body if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)]
    handed = {argument.id for call in calls for argument in call.args if isinstance(argument, ast.Name)}
    return sorted(handed & set(dir(builtins)))


def _places(packages: dict[str, str]) -> dict[str, object]:
    """The interpreter below any virtual environment, what a jail shows, and what only root may enter of it."""
    real = os.path.realpath(sys.base_prefix)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = os.path.join(real, "bin", name)
    if not os.path.exists(python):
        python = os.path.realpath(sys.executable)
    # Both spellings of the place: an interpreter finds its libraries by the one it was built for.
    places = dict.fromkeys((real, sys.base_prefix))
    prefixes = [path for path in places if path != "/" and not f"{path}/".startswith("/usr/")]
    kept = sorted({*prefixes, *map(os.path.dirname, packages.values())})
    hidden = []
    if os.geteuid() == 0:
        for place in kept:
            closed = (str(p) for p in reversed(Path(place).parents) if not p.stat().st_mode & 0o001)
            hidden.append(next(closed, None))
    return {
        "python": python,
        "kept": kept,
        "hidden": sorted({path for path in hidden if path}),
        "shown": {path: path for path in (*SYSTEM, *prefixes) if os.path.lexists(path)} | packages,
    }


def _supervised(request: dict[str, object]) -> list[dict[str, str] | tuple[int, Outcome, str]]:
    """Hand the request to a supervisor and return its answers; nothing of it is left when this returns."""
    text = json.dumps(request).encode()
    with subprocess.Popen(
        [str(request["python"]), "-I", "-S", str(JAIL)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is for this process, which ends the supervisor in order
    ) as supervisor:
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        try:
            supervisor.stdin.write(b"%d\n" % len(text) + text)
            supervisor.stdin.flush()
            return [json.loads(line) for line in supervisor.stdout]
        except BrokenPipeError:
            return []
        finally:
            # Its end of the line is the supervisor's sign to stop; leaving `with` waits for it.
            with contextlib.suppress(BrokenPipeError):
                supervisor.stdin.close()
