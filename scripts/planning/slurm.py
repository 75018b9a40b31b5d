"""SLURM's queue: the jobs that Snakemake put there from this checkout, told by the comment that they carry."""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

from scripts.common.errors import UserError

_FIELDS = "%i|%T|%M|%r|%N|%Z|%k"
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_SECONDS = 120.0
PAUSE, PATIENCE = 5.0, 3600.0
"""Seconds between two questions to a controller that is away, and after how many of them a job tries without it."""


@dataclass(frozen=True)
class QueuedJob:
    """A job as `squeue` shows it."""

    number: str
    state: str
    elapsed: str
    """As SLURM writes it: [days-]hours:minutes:seconds or minutes:seconds."""
    reason: str
    """Why it does not run yet; `None` in words of SLURM where there is no reason."""
    nodes: str
    directory: str
    comment: str
    """The rule and its wildcards, joined by the executor plugin."""

    @property
    def runs(self) -> bool:
        return self.state not in _WAITING

    @property
    def is_held(self) -> bool:
        """Whether it waits for a person: its user, an administrator, or whoever looks into why its start failed."""
        held = "held" in self.reason.lower() or self.reason == "JobHoldMaxRequeue"
        return not self.runs and (held or self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"))

    @property
    def fingerprint(self) -> str | None:
        """That of the product it makes; None for jobs that make none of the store."""
        found = re.search(r"-([0-9a-f]{12})$", self.comment)
        return found[1] if found else None


def has_slurm() -> bool:
    return shutil.which("squeue") is not None


def queued(directory: str | None, states: str | None = None) -> list[QueuedJob]:
    """This user's jobs that were submitted in `directory` (None: anywhere): those that wait or run, or in `states`.

    Raises:
        UserError: `squeue` is not there, or SLURM does not answer.
    """
    command = ["squeue", "--me", "--noheader", f"--format={_FIELDS}", *([f"--states={states}"] if states else [])]
    here = directory and os.path.realpath(directory)
    return [job for job in parse(_ask(command)) if here in (None, os.path.realpath(job.directory))]


def requeue(number: str) -> None:
    """Puts a job that runs or has ended into the queue again, under its number.

    Raises:
        UserError: SLURM refuses, with its own words.
    """
    _ask(["scontrol", "requeue", number])


def await_controller() -> None:
    """Returns when a controller answers, or after an hour.

    A job can start just before the controller goes away; `srun` in it then gives up after ten seconds, and the job with
    it. To be called right before `srun`.
    """
    end, is_said = time.monotonic() + PATIENCE, False
    while _is_away() and time.monotonic() < end:
        if not is_said:
            print("SLURM's controller does not answer; waiting for it", file=sys.stderr, flush=True)
            is_said = True
        time.sleep(PAUSE)


def _is_away() -> bool:
    """Whether no controller answers; not where that cannot be asked, because `srun` then says more."""
    try:
        done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        return False
    except subprocess.TimeoutExpired:
        return True
    return "is DOWN" in done.stdout and "is UP" not in done.stdout


def parse(text: str) -> list[QueuedJob]:
    """The jobs in what `squeue` printed. A comment may have bars in it; so it comes last."""
    count = _FIELDS.count("|")
    return [QueuedJob(*line.split("|", count)) for line in text.splitlines() if line.count("|") >= count]


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: is not on this machine, so SLURM cannot be asked") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: SLURM did not answer within {_SECONDS:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"{command[0]}: {said[-1]}")
    return done.stdout


if __name__ == "__main__":
    await_controller()
