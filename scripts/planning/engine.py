"""What runs the jobs of a launch, as far as the project deals with it beyond Snakemake's own executor.

What is SLURM's stands in `Slurm`, and the rules know only `Engine`. By itself that is every other executor, and
Snakemake's own: nothing is asked of it, so a launch through it starts where there is no `squeue`.
"""

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping

from scripts.launch.launch import Launch
from scripts.plan.product import Product
from scripts.planning import cluster, guard, resilience, slurm
from scripts.planning.slurm import QueuedJob


class Engine:
    """What the project asks of whatever runs its jobs; of an executor that it knows nothing of, nothing."""

    says_why = False
    """Whether its reports of failed jobs say what put an end to them, so that a job's own errors can be told."""

    def require_ready(self, launch: Launch, products: Iterable[Product]) -> None:
        """Raises UserError where a fact is missing without which `products` cannot be made there."""

    def begin(
        self,
        launch: Launch,
        products: Iterable[Product],
        directory: str,
        on_live_jobs: str | None,
        logger: logging.Logger,
        leave: Callable[[], None],
    ) -> None:
        """What a launch does before it submits its first job; see `guard.settle` for arguments and errors."""

    def enter_job(self) -> None:
        """What the Snakemake of a job does before it runs anything."""

    def task(self, launch: Launch, kind: str) -> str:
        """What stands before `python` in a job, with a space at its end if it is not empty."""
        return cluster.container(launch)

    def deadline(self, launch: Launch, minutes: int) -> str:
        """The option that lets training save and end in time in a job of so many minutes; empty where none is kept."""
        return ""

    def queued(self, directory: str) -> list[QueuedJob]:
        """The jobs submitted in `directory` that wait or run. Raises UserError where that cannot be told."""
        return []


class Slurm(Engine):
    says_why = True

    def require_ready(self, launch: Launch, products: Iterable[Product]) -> None:
        cluster.require_ready(launch, products)

    def begin(
        self,
        launch: Launch,
        products: Iterable[Product],
        directory: str,
        on_live_jobs: str | None,
        logger: logging.Logger,
        leave: Callable[[], None],
    ) -> None:
        wanted = guard.by_fingerprint(products)
        guard.settle(launch.store, wanted, directory, on_live_jobs, logger, leave)
        resilience.make_resilient(importlib.import_module("snakemake_executor_plugin_slurm"), directory, logger)
        guard.Requeuer(wanted, directory, logger).start()

    def enter_job(self) -> None:
        resilience.adapt_jobstep(importlib.import_module("snakemake_executor_plugin_slurm_jobstep"))

    def task(self, launch: Launch, kind: str) -> str:
        return cluster.step(launch, kind) + cluster.threads(launch, kind) + super().task(launch, kind)

    def deadline(self, launch: Launch, minutes: int) -> str:
        return f"--deadline {cluster.deadline(launch, minutes)}"

    def queued(self, directory: str) -> list[QueuedJob]:
        return slurm.queued(directory)


def of_executor(name: str) -> Engine:
    """The engine behind an executor plugin of Snakemake."""
    return Slurm() if name == "slurm" else Engine()


def of_job(environment: Mapping[str, str]) -> Engine:
    """The engine that a job finds itself in, whoever submitted it."""
    return Slurm() if "SLURM_JOB_ID" in environment else Engine()


def here() -> Engine:
    """The engine whose queue this machine can ask."""
    return Slurm() if slurm.has_slurm() else Engine()
