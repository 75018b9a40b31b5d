"""No product is made twice: what a head process does when it starts while jobs of an earlier one are in SLURM's queue.

The executor plugin never finds its jobs again after its process has ended, so the same jobs would be submitted anew.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from threading import Thread

from scripts.common.errors import UserError
from scripts.plan.product import Product
from scripts.planning.reports import seconds_left, spoken
from scripts.planning.slurm import QueuedJob, queued, requeue
from scripts.store.store import Store

POLL_SECONDS = 10.0
_NAMED = 10


def by_fingerprint(products: Iterable[Product]) -> dict[str, str]:
    """Of products and of the members of families among them, to their keys."""
    return {key.fingerprint: key for product in products for key in (product.key, *product.members)}


def settle(
    store: Store,
    wanted: dict[str, str],
    directory: str,
    on_live_jobs: str | None,
    logger: logging.Logger,
    leave: Callable[[], None],
) -> None:
    """Returns at once when no job in the queue makes what this launch is about to make.

    Otherwise it waits until none does, and executes this process's command again in its place, because what is to be
    made was decided before; the launch stays the same, whatever happens to the study's file meanwhile.

    Args:
        store: has the reports of what trains.
        wanted: `by_fingerprint` of what this launch is about to make.
        directory: where Snakemake was started, which is where it submits its jobs.
        on_live_jobs: "stop" is not to wait.
        logger: gets a line whenever the number of such jobs changes.
        leave: gives back what this process holds, before its place is taken.

    Raises:
        UserError: such jobs are there and it was to stop; SIGTERM or SIGINT came while it waited; SLURM did not answer
            the first question.
    """
    live = _live(wanted, directory)
    if not live:
        return
    if on_live_jobs == "stop":
        numbers = " ".join(job.number for job in live)
        raise UserError(
            f"what SLURM job {_listed(live)} of an earlier launch makes would be submitted again; "
            f"start without on_live_jobs=stop to wait for it, or end it with `scancel {numbers}`"
        )
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Snakemake's own handler waits for jobs that it submitted; what a handler raises its logger may swallow
        signal.signal(number, lambda number, frame: signals.append(number))
    told = 0
    while live:
        if len(live) != told:
            logger.info(_waiting(store, wanted, live))
            told = len(live)
        again = time.monotonic() + POLL_SECONDS
        while time.monotonic() < again and not signals:
            time.sleep(0.1)
        if signals:
            raise UserError("stopped while waiting for the jobs of an earlier launch, which go on")
        try:
            live = _live(wanted, directory)
        except UserError as error:
            logger.warning(f"{error}; asking again")
    logger.info("The jobs of the earlier launch have ended; looking again at what is left to make.")
    leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(directory)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Requeuer(Thread):
    """Looks after jobs that wait for somebody, for which the plugin waits for ever.

    Those that were preempted where preemption cancels go back into the queue: a partition whose PreemptMode is CANCEL
    leaves them in the state PREEMPTED; under REQUEUE SLURM does this itself. Of held ones it says so, and who can
    release them.
    """

    def __init__(self, wanted: dict[str, str], directory: str, logger: logging.Logger) -> None:
        """Raises UserError where SLURM does not answer."""
        super().__init__(daemon=True)
        self._wanted, self._directory, self._logger = wanted, directory, logger
        # of an earlier head: what they made is submitted anew
        self._not_mine = {job.number for job in self._waiting() if job.state == "PREEMPTED"}
        self._held: set[str] = set()

    def run(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            self.look()

    def look(self) -> None:
        """Puts back what was preempted; of a job that cannot be put back, or is held, it says so, once."""
        try:
            waiting = self._waiting()
        except UserError:  # the plugin asks too, and says so
            return
        held = {job.number: job for job in waiting if job.is_held}
        for number in sorted(held.keys() - self._held):
            self._logger.warning(
                f"SLURM job {number} ({self._wanted[held[number].fingerprint or '']}) is held "
                f"({held[number].reason}) and waits until somebody types `scontrol release {number}`."
            )
        self._held = set(held)
        for job in waiting:
            if job.state != "PREEMPTED" or job.number in self._not_mine:
                continue
            what = f"SLURM job {job.number} ({self._wanted[job.fingerprint or '']})"
            try:
                requeue(job.number)
            except UserError as error:
                self._not_mine.add(job.number)
                self._logger.error(
                    f"{what} was preempted and cannot be put back into the queue ({error}); Snakemake would wait for "
                    "it for ever: press Ctrl-C and start it again"
                )
            else:
                self._logger.info(f"{what} was preempted; it is back in the queue.")

    def _waiting(self) -> list[QueuedJob]:
        jobs = queued(self._directory, "PREEMPTED,PENDING,REQUEUE_HOLD,SPECIAL_EXIT")
        return [job for job in jobs if job.fingerprint in self._wanted]


def _live(wanted: dict[str, str], directory: str) -> list[QueuedJob]:
    return [job for job in queued(directory) if job.fingerprint in wanted]


def _waiting(store: Store, wanted: dict[str, str], live: list[QueuedJob]) -> str:
    running = [job for job in live if job.runs]
    left = seconds_left(store, [wanted[job.fingerprint or ""] for job in running])
    return (
        f"Waiting for SLURM job {_listed(live)} of an earlier launch ({len(running)} running, "
        f"{len(live) - len(running)} queued"
        + (f"; about {spoken(left)} left of what trains now" if left is not None else "")
        + "); then this starts again for the rest."
    )


def _listed(jobs: list[QueuedJob]) -> str:
    numbers = [job.number for job in jobs]
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return ", ".join(numbers[:_NAMED]) + more
