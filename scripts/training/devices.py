"""GPUs for jobs that start by themselves on one machine: who holds the lock of a device uses it, and nobody else.

The system frees a lock when its process ends, however it ends, so a killed job's device comes back by itself.
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.common.errors import UserError

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
_POLL_SECONDS = 0.5
_ALLOTTED_BY = ("SLURM_JOB_ID", "LOCAL_RANK")
"""Where one of these is set, a cluster or a launcher of several processes has chosen the devices."""


def present() -> list[str]:
    """The numbers of this machine's NVIDIA GPUs that this process may use, found without torch."""
    if program := shutil.which("nvidia-smi"):
        told = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
        if told.returncode == 0:
            return [str(number) for number in range(sum(line.startswith("GPU ") for line in told.stdout.splitlines()))]
    gpus = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(gpus.iterdir())))] if gpus.is_dir() else []


def visible() -> tuple[str, ...]:
    """The GPUs that this process may use, by what `CUDA_VISIBLE_DEVICES` calls them; found without torch."""
    chosen = os.environ.get(VISIBLE)
    return tuple(present()) if chosen is None else _named(chosen)


def alone() -> "torch.device":
    """The device of a process that computes by itself: the first GPU that it may use, the CPU where there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def claimed(
    store_root: Path, count: int = 1, *, deadline: float | None = None, found: Callable[[], Sequence[str]] = present
) -> Iterator[tuple[str, ...]]:
    """The exclusive right to `count` devices, which `CUDA_VISIBLE_DEVICES` then names; a process claims once.

    Enter it before the process touches CUDA, which reads that variable once. Where the variable names devices
    already, only those are taken. Waits while too few are free, and says so in one line. Without any GPU nothing
    happens, nor where a cluster or a launcher has allotted the devices. Jobs of one store see each other's claims.

    Args:
        store_root: the store, which holds the locks: `.locks/devices/<host>/<device>.lock`.
        count: how many; all of them or none are held.
        deadline: moment of `time.monotonic` at which waiting ends with SystemExit(75).
        found: the devices of this machine.

    Raises:
        UserError: there are fewer than `count`.
    """
    chosen = os.environ.get(VISIBLE)
    devices = tuple(found()) if chosen is None else _named(chosen)
    if not devices or any(variable in os.environ for variable in _ALLOTTED_BY):
        yield devices
        return
    if count > len(devices):
        raise UserError(f"the job needs {count} GPUs, and {len(devices)} can be used here ({', '.join(devices)})")
    directory = store_root / ".locks" / "devices" / platform.node()
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        told = False
        while not (mine := _take(held, directory, devices, count)):
            if deadline is not None and time.monotonic() >= deadline:
                print("no device became free before the deadline", file=sys.stderr, flush=True)
                raise SystemExit(os.EX_TEMPFAIL)
            if not told:
                names = ", ".join(devices)
                print(f"every device ({names}) is in use by another job; waiting for one", file=sys.stderr, flush=True)
                told = True
            time.sleep(_POLL_SECONDS)
        os.environ[VISIBLE] = ",".join(mine)
        try:
            yield mine
        finally:
            if chosen is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = chosen


def _named(chosen: str) -> tuple[str, ...]:
    """The devices in a value of `CUDA_VISIBLE_DEVICES`; as in CUDA, what follows a -1 does not count."""
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return tuple(names[: names.index("-1")] if "-1" in names else names)


def _take(held: ExitStack, directory: Path, devices: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` devices that were free, their locks in `held`; or none of them."""
    with (directory / "turn.lock").open("a") as turn, ExitStack() as trying:
        fcntl.flock(turn, fcntl.LOCK_EX)  # two jobs that try at once could each hold what the other one lacks
        taken = []
        for device in devices:
            file = trying.enter_context((directory / f"{device}.lock").open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            taken.append(device)
            if len(taken) == count:
                held.push(trying.pop_all())
                return tuple(taken)
    return ()
