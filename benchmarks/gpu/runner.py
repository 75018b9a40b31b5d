"""Runs parts one after another, each in a process of its own, and keeps what each finds. Imports no torch."""

import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal

from scripts.artifacts.provenance import commit
from scripts.common.files import ROOT

GRACE_SECONDS = 5.0
"""A part ends itself at its limit and says where it was; after so many seconds more it is killed."""
LEAST_SECONDS = 10.0
"""A part that has less is not begun: it would end while it still imports."""
LOG_LINES = 40
Status = Literal["done", "failed", "cut off", "skipped"]
PACKAGES = {
    "torch": "torch", "transformers": "transformers", "peft": "peft", "accelerate": "accelerate",
    "safetensors": "safetensors", "tokenizers": "tokenizers", "numpy": "numpy", "triton": "triton",
    "pydantic": "pydantic", "torch-optimi": "optimi", "lm-eval": "lm_eval", "datasets": "datasets", "pytest": "pytest",
}  # fmt: skip
"""What a record has the versions of: a package's name, and how it is imported."""
TRAINING = ("torch", "transformers", "peft", "pydantic", "torch-optimi")
EVALUATION = ("torch", "transformers", "pydantic", "lm-eval", "datasets")


@dataclass(frozen=True)
class Part:
    """A module whose `main` measures something, the seconds it should take on an H100, and the packages it needs."""

    name: str
    seconds: int
    needs: tuple[str, ...]
    what: str
    package: str = "benchmarks.gpu"


PARTS = (
    Part("correct", 50, TRAINING, "losses, gradients, dropout, resume and answers on the GPU against the CPU's"),
    Part("speed", 100, TRAINING, "tokens/s, MFU, memory and kernels of full finetuning and LoRA, Llama-2-7B"),
    Part("peer", 50, TRAINING, "peft and transformers without anything else, on the same rows"),
    Part("evaluate", 40, EVALUATION, "programs written and answers scored a second, Llama-2-7B"),
    Part("spectra", 30, ("torch",), "singular values of Llama-2-7B's matrices by their Gram matrices in float64"),
    Part("tests", 50, (*TRAINING, "pytest"), "tests/gpu"),
)
"""In order of worth: what decides most comes first."""


@dataclass
class Found:
    """What a part has told so far."""

    device: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: str | None = None


def missing(needs: Iterable[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in needs if find_spec(PACKAGES.get(name, name)) is None]


def lacking(names: Sequence[str]) -> str:
    """One sentence about packages that are not there."""
    return f"needs {' and '.join(names)}, which {'is' if len(names) == 1 else 'are'} not installed"


def limits(parts: Sequence[Part], minutes: float) -> Iterator[tuple[Part, float]]:
    """Each part and how long it may take: what is left, less what the later ones should take; its own at least."""
    end = time.monotonic() + 60 * minutes
    for number, part in enumerate(parts):
        left = end - time.monotonic()
        yield part, min(left, max(part.seconds, left - sum(later.seconds for later in parts[number + 1 :])))


def run_parts(parts: Sequence[Part], minutes: float, device: str, tiny: bool, file: Path) -> bool:
    """Runs `parts`, prints what they find and appends a line for each to `file`; whether none failed or was cut off."""
    file.parent.mkdir(parents=True, exist_ok=True)
    machine = described(device)
    good = True
    status: Status
    reason: str | None
    for part, limit in limits(parts, minutes):
        began = time.monotonic()
        found, status, reason = Found(), "skipped", None
        if lacks := missing(part.needs):
            reason = lacking(lacks)
        elif limit < LEAST_SECONDS:
            status, reason = "cut off", f"{max(limit, 0):.0f} s of {minutes:g} minutes were left"
        else:
            found, status, reason = run_part(part, limit, device, tiny)
        seconds = time.monotonic() - began
        record = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "part": part.name,
            "status": status,
            "error": reason,
            "seconds": round(seconds, 1),
            "limit": round(limit),
            "tiny": tiny,
            **machine,
            **found.device,
            "figures": found.figures,
            "notes": found.notes,
        }
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        print(f"{part.name}: {status} after {seconds:.0f} s" + (f": {reason}" if reason else ""), flush=True)
        good = good and status in ("done", "skipped")
    return good


def run_part(part: Part, limit: float, device: str, tiny: bool) -> tuple[Found, Status, str | None]:
    """What the part told, how it ended, and why."""
    command = [sys.executable, "-m", "benchmarks.gpu.part", f"{part.package}.{part.name}", device, f"{limit:.1f}"]
    environment = os.environ | ({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""})
    found, log = Found(), deque[str](maxlen=LOG_LINES)
    began = time.monotonic()
    process = subprocess.Popen(
        command + ["--tiny"] * tiny, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [
        threading.Thread(target=_heard, args=(process.stdout, found, part.name), daemon=True),
        threading.Thread(target=_logged, args=(process.stderr, log), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(limit + GRACE_SECONDS)
    finally:  # with what it started, as compilers
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for reader in readers:
        reader.join(GRACE_SECONDS)
    if process.returncode == 0:
        if found.skipped:
            return found, "skipped", found.skipped
        return found, "failed" if found.failures else "done", "; ".join(found.failures) or None
    if time.monotonic() - began >= limit:
        return found, "cut off", "; ".join([f"took more than {limit:.0f} s{_where(log)}", *found.failures])
    said = next((line.strip() for line in reversed(log) if line.strip()), f"ended with status {process.returncode}")
    return found, "failed", "; ".join([said, *found.failures])


def _heard(stream: IO[str], found: Found, name: str) -> None:
    for line in stream:
        event = json.loads(line)
        match event["kind"]:
            case "device":
                found.device |= event["value"]
            case "figure":
                found.figures[event["name"]] = event["value"]
                print(f"  {name}, {event['name']}: {told(event['value'])}", flush=True)
            case "note":
                found.notes.append(event["value"])
                print(f"  {name}: {event['value']}", flush=True)
            case "failure":
                found.failures.append(event["value"])
            case "skipped":
                found.skipped = event["value"]


def _logged(stream: IO[str], log: deque[str]) -> None:
    for line in stream:
        log.append(line)
        sys.stderr.write(line)


def _where(log: Iterable[str]) -> str:
    """The place in this project's code where a part was when it ended itself, in the traceback that it left."""
    frames = re.findall(rf'File "{re.escape(str(ROOT))}/([^"]+)", line (\d+) in (\S+)', "".join(log))
    return f", in {frames[0][2]} ({frames[0][0]}, line {frames[0][1]})" if frames else ""


def told(value: Any) -> str:
    """A figure as it is printed."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {told(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "; ".join(told(one) for one in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def described(device: str) -> dict[str, Any]:
    """The machine, its driver, the versions of packages and the code. A part adds the device as torch sees it."""
    return {
        "driver": _driver() if device == "cuda" else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit(ROOT),
        "code": code(),
    }


def code(root: Path = ROOT) -> str:
    """The first 12 hex digits of a hash of the project's Python files: a copy without git has no commit."""
    found = hashlib.sha256()
    for path in sorted(path for part in ("scripts", "benchmarks", "tests/gpu") for path in (root / part).rglob("*.py")):
        found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _driver() -> str | None:
    with suppress(OSError, subprocess.CalledProcessError):
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    return None
