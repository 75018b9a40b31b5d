"""A SLURM controller that is away, or takes no more jobs, costs a launch time and nothing else.

Three habits of the executor plugin (2.8.0) that end a launch otherwise:

- Where every one of its status queries fails, it forgets all jobs that it asked about, never asks again, and does not
  cancel them on Ctrl-C.
- A submission that SLURM refuses counts as a failed attempt of the job, so a limit on the jobs in the queue uses up all
  attempts within seconds.
- It waits for ever for a job that SLURM no longer knows: one that ended during a long outage, say.

And one of `srun`, which starts what a job does: where the controller went away since the job began, it gives up after
ten seconds, and the job has failed.

And one of Snakemake's own scheduler: told to end (SIGTERM), it takes its lock in the signal's handler. That runs in the
main thread, which may hold the lock just then, and waits for it for ever.

`make_resilient`, `adapt_jobstep` and `take_lock_elsewhere` change executors and scheduler in place: a workflow cannot
name one that whoever starts Snakemake has not installed.
"""

import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from scripts.common.errors import UserError
from scripts.planning.reports import spoken
from scripts.planning.slurm import await_controller, queued

FIRST_DELAY, LONGEST_DELAY = 5.0, 60.0
"""Seconds between two attempts to submit a job; the pause doubles from the first to the longest."""
REMIND_SECONDS = 600.0
"""How often a launch says that SLURM still does not answer."""
FORGOTTEN_CHECKS, FORGOTTEN_SECONDS = 3, 120.0
"""A job counts as forgotten by SLURM after so many answers in a row without it, and so long after its submission."""
JOB_LATENCY_SECONDS = 20
"""How long a job waits for its product; not 0, as a job of another head may be putting the manifest back."""

_TEMPORARY = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Unexpected message received",
    "Transport endpoint is not connected",
    "Connection refused",
    "Connection reset",
    "temporarily unable to accept job",
    "Resource temporarily unavailable",
    "backup controller in standby mode",
    "SlurmDBD",
    "Invalid authentication credential",
)
"""What `sbatch` says while the controller, its database or munge is away or overloaded."""
_LIMITS = ("job submit limit", "MaxSubmitJob", "MaxJobCount", "maximum job count")
"""What `sbatch` says where a limit on the jobs in the queue is reached. The sentence of a job that is too large for its
account has the same words; that one is refused with an empty queue as well."""


def take_lock_elsewhere(scheduler: type) -> None:
    """Has a thread of its own take the scheduler's lock where a signal tells it to end; the handler returns at once.

    Args:
        scheduler: Snakemake's `JobScheduler` (9.27.1), before there is one.
    """
    end = scheduler.exit_gracefully  # type: ignore[attr-defined]

    def exit_gracefully(self: Any, *_signal: Any) -> None:
        threading.Thread(target=end, args=(self,), daemon=True).start()

    scheduler.exit_gracefully = exit_gracefully  # type: ignore[attr-defined]


class _RefusedError(BaseException):
    """No Exception: the plugin reports each of those as a failure of the job."""


def may_pass(said: str, has_jobs: Callable[[], bool]) -> bool:
    """Whether a submission that was refused with these words can succeed later.

    Args:
        said: what `sbatch` said.
        has_jobs: whether the user has jobs in the queue, so that a limit on them can be what refuses.
    """
    if any(words in said for words in _TEMPORARY):
        return True
    return any(words in said for words in _LIMITS) and has_jobs()


def make_resilient(plugin: ModuleType, directory: str, logger: logging.Logger) -> None:
    """Changes the executor of ``snakemake_executor_plugin_slurm`` for the rest of this process.

    Args:
        plugin: the module of the plugin.
        directory: where Snakemake submits its jobs.
        logger: is told when SLURM stops answering or taking jobs, and when it is back.
    """
    _Resilience(plugin, directory, logger).install()


def adapt_jobstep(plugin: ModuleType) -> None:
    """Changes the executor of ``snakemake_executor_plugin_slurm_jobstep``, which starts what a job does, in place.

    Before it calls `srun` it waits for a controller that is away. And the innermost Snakemake waits less for a product
    that its command did not leave: it sees at once what was written on its own node, and holds the job's GPUs.
    """
    run = plugin.Executor.run_job

    def run_job(executor: Any, job: Any) -> None:
        await_controller()
        run(executor, job)

    plugin.Executor.run_job = run_job
    # comes after the head's own, and the last one counts
    plugin.Executor.additional_general_args = lambda executor: f"--latency-wait {JOB_LATENCY_SECONDS}"


@dataclass
class _Live:
    """A job that was submitted and has not been reported."""

    info: Any
    """What the plugin knows of it."""
    since: float
    """Moment of `time.monotonic` at which it was submitted."""
    absences: int = 0
    """How many of SLURM's last answers did not have it."""


class _Resilience:
    def __init__(self, plugin: ModuleType, directory: str, logger: logging.Logger) -> None:
        self._plugin, self._directory, self._logger = plugin, directory, logger
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._live: dict[str, _Live] = {}
        """By SLURM's number."""
        self._statuses: dict[str, str] = {}
        self._silent_since: float | None = None
        self._reminded = 0.0
        self._refusing = False

    def install(self) -> None:
        executor = self._plugin.Executor
        self._query = self._plugin.query_job_status
        self._check, self._submit, self._cancel = executor.check_active_jobs, executor.run_job, executor.cancel_jobs
        self._report_submission, self._report_error = executor.report_job_submission, executor.report_job_error
        self._report_success, self._report_refusal = executor.report_job_success, executor._report_job_error_threadsafe
        self._plugin.query_job_status = self.query  # type: ignore[attr-defined]
        # functions, so that they are methods of the executor
        executor.check_active_jobs = lambda its, jobs: self.check(its, jobs)
        executor.run_job = lambda its, job: self.submit(its, job)
        executor.cancel_jobs = lambda its, jobs: self.cancel(its, jobs)
        executor.report_job_submission = lambda its, info, *more, **named: self.began(its, info, *more, **named)
        executor.report_job_success = lambda its, info: self.ended(self._report_success, its, info)
        executor.report_job_error = lambda its, info, *more, **named: self.ended(
            self._report_error, its, info, *more, **named
        )
        executor._report_job_error_threadsafe = lambda its, info, said: self.refused(its, info, said)

    # -- which jobs there are --------------------------------------------------------------------------------------

    def began(self, executor: Any, info: Any, *more: Any, **named: Any) -> None:
        with self._lock:
            self._live[info.external_jobid] = _Live(info, time.monotonic())
        self._report_submission(executor, info, *more, **named)

    def ended(self, report: Callable[..., None], executor: Any, info: Any, *more: Any, **named: Any) -> None:
        with self._lock:
            self._live.pop(info.external_jobid, None)
        report(executor, info, *more, **named)

    # -- status ----------------------------------------------------------------------------------------------------

    async def query(self, command: str, logger: Any) -> Any:
        statuses, seconds = await self._query(command, logger)
        if statuses is not None:
            self._statuses = statuses
        return statuses, seconds

    async def check(self, executor: Any, jobs: list[Any]) -> AsyncIterator[Any]:
        """Yields the jobs that have not ended; all of them where SLURM does not answer."""
        answers = executor._status_query_calls
        active = [info async for info in self._check(executor, jobs)]
        if jobs and executor._status_query_calls == answers:
            self._is_silent()
            active = jobs
        elif jobs:
            self._answers()
            active = [info for info in active if not self._is_forgotten(executor, info)]
        for info in active:
            yield info

    def _is_silent(self) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = self._reminded = now
            self._logger.warning(
                f"SLURM has not answered since {time.strftime('%H:%M:%S')}. Its jobs go on, and this launch waits."
            )
        elif now - self._reminded > REMIND_SECONDS:
            self._reminded = now
            self._logger.warning(f"SLURM has not answered for {spoken(now - self._silent_since)}.")

    def _answers(self) -> None:
        if self._silent_since is not None:
            self._logger.info(f"SLURM answers again, after {spoken(time.monotonic() - self._silent_since)}.")
            self._silent_since = None

    def _is_forgotten(self, executor: Any, info: Any) -> bool:
        """Whether SLURM no longer knows a job; the job is then reported by what it has left behind."""
        number = info.external_jobid
        job = self._live[number]
        is_known = any(key.partition("_")[0] == number.partition("_")[0] for key in self._statuses)
        job.absences = 0 if is_known else job.absences + 1
        if job.absences < FORGOTTEN_CHECKS or time.monotonic() - job.since < FORGOTTEN_SECONDS:
            return False
        if all(os.path.exists(str(path)) for path in info.job.output):
            executor.report_job_success(info)
        else:
            executor.report_job_error(info, msg=f"SLURM no longer knows job {number}, which has left no product. ")
        return True

    # -- submission ------------------------------------------------------------------------------------------------

    def submit(self, executor: Any, job: Any) -> None:
        """Submits a job, and tries again for as long as SLURM refuses for a reason that passes."""
        delay, again = FIRST_DELAY, False
        while not self._cancelled.is_set():
            try:
                if not (again and self._adopts(executor, job)):
                    self._submit(executor, job)
            except (_RefusedError, UserError):
                if self._cancelled.wait(delay):
                    return
                delay, again = min(2 * delay, LONGEST_DELAY), True
            else:
                if self._refusing:
                    self._refusing = False
                    self._logger.info("SLURM takes jobs again.")
                return

    def refused(self, executor: Any, info: Any, said: str) -> None:
        if not may_pass(said, self._has_jobs):
            self._report_refusal(executor, info, said)
            return
        if not self._refusing:
            self._refusing = True
            reason = next((line for line in said.splitlines() if "error:" in line), said.splitlines()[0])
            reason = reason.rpartition("error:")[2].strip(" '.") or "no reason given"
            self._logger.warning(f"SLURM takes no more jobs for now ({reason}). They are submitted as soon as it does.")
        raise _RefusedError

    def _has_jobs(self) -> bool:
        try:
            return bool(queued(None))
        except UserError:
            return True  # SLURM does not answer, and nothing is known

    def _adopts(self, executor: Any, job: Any) -> bool:
        """Whether the job is in the queue all the same: `sbatch` may give up before it hears that SLURM took it.

        Raises UserError where SLURM does not answer.
        """
        wildcards = self._plugin.get_job_wildcards(job)
        comment = f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else "")
        for found in queued(self._directory):
            if found.comment == comment and found.number not in self._live:
                log = executor.slurm_logdir / f"rule_{job.name}" / wildcards / f"{found.number}.log"
                info = self._plugin.SubmittedJobInfo(job, external_jobid=found.number, aux={"slurm_logfile": log})
                executor._report_job_submission_threadsafe(info)
                self._logger.info(f"Job {job.jobid} is SLURM job {found.number} (log: {log}).")
                return True
        return False

    # -- the end ---------------------------------------------------------------------------------------------------

    def cancel(self, executor: Any, jobs: list[Any]) -> None:
        """Cancels all that was submitted and has not ended, also what a status query is about at this moment."""
        self._cancelled.set()
        with self._lock:
            live = {info.external_jobid: info for info in (*jobs, *(job.info for job in self._live.values()))}
        try:
            self._cancel(executor, list(live.values()))
        except self._plugin.WorkflowError as error:
            self._logger.error(f"{error}. What SLURM still has is ended by `scancel {' '.join(live)}`.")
