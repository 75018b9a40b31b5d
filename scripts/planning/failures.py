"""What is said and done when a job fails: the end of its log; and on a cluster, which failures are worth a retry."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.planning.reports import last_lines

_SHOWN_LINES = 20
_FROM_OUTSIDE = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "TIMEOUT")
"""States of a SLURM job that something other than the job's own program put an end to."""
_TRIES = 2


class Failures(logging.Handler):
    """Listens to the workflow's log records, and adds the end of a failed job's log to the same log.

    Under SLURM, `retries` of the profile is how often a job may be submitted again. So often it is where it was ended
    from outside (a time limit, a node, `scancel`) or stopped by itself with status 75, because it goes on from its
    checkpoint. An error of its own is tried once more; at the second in a row the job has failed for good.
    """

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[int, Any] = {}
        self._errors: Counter[int] = Counter()

    __hash__ = logging.Handler.__hash__

    def start(self, jobs: Iterable[Any], logger: logging.Logger, *, says_why: bool) -> None:
        """Notes Snakemake's `jobs` (their `jobid`, `attempt`, `restart_times`).

        Where the engine does not say why a job failed (`says_why`), as locally, it limits no retries.
        """
        self._jobs = {job.jobid: job for job in jobs}
        self._says_why = says_why
        self._logger = logger
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        kind = getattr(event, "value", event)
        if kind == "job_error":
            self._failed(record.jobid, record.rule_msg or "", [Path(log) for log in record.log])  # type: ignore[attr-defined]

    def _failed(self, jobid: int, message: str, logs: list[Path]) -> None:
        job_log = _slurm_log(message, logs)
        if self._says_why and _ended_from_outside(message, job_log):
            self._errors[jobid] = 0
            return
        self._errors[jobid] += 1
        if message.startswith("SLURM") and not _has_status(job_log):  # the command did not begin: its log is older
            logs = [job_log] if job_log else []
        for log in logs:
            if lines := last_lines(log):
                self._logger.error("\n    ".join([f"{log} ends:", *lines[-_SHOWN_LINES:]]))
                break
        job = self._jobs.get(jobid)
        if self._says_why and job is not None and self._errors[jobid] == _TRIES and job.attempt <= job.restart_times:
            self._logger.error(f"Job {jobid} failed by itself {_TRIES} times in a row; it is not tried again.")
            job.attempt = job.restart_times + 1


def _ended_from_outside(message: str, job_log: Path | None) -> bool:
    """Whether the program of a SLURM job did nothing wrong, by the plugin's message and the log of the SLURM job."""
    state = re.search(r"SLURM status is: '([A-Z_]+)", message)
    return (state is not None and state[1] in _FROM_OUTSIDE) or _has_status(job_log, "75.")


def _slurm_log(message: str, logs: list[Path]) -> Path | None:
    """The log of the SLURM job itself; None where nothing was submitted."""
    job = re.search(r"SLURM-job '(\d+)", message)
    return next((log for log in logs if job and log.name == f"{job[1]}.log"), None)


def _has_status(job_log: Path | None, status: str = "") -> bool:
    """Whether the job's own Snakemake says that its command ended with an exit status, or with this one."""
    return job_log is not None and any(f"non-zero exit status {status}" in line for line in last_lines(job_log))
