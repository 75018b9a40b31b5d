"""A line after every job: what is done, what runs, how long the rest will take."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from scripts.plan.product import Product
from scripts.planning import disk
from scripts.planning.estimate import Estimate
from scripts.planning.reports import spoken


@dataclass
class ProgressLines(logging.Handler):
    """Listens to the workflow's log records and adds its own lines to the same log.

    Attributes:
        estimate: of the study's products, and which of them exist already.
        places: rule name to the directory of the store that it fills; rules that fill none are absent.
    """

    estimate: Estimate
    places: dict[str, str]
    _estimates: dict[int, float] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _running: dict[int, str] = field(default_factory=dict)
    _done: float = 0.0
    _finished: int = 0
    _cores: int = 1
    _started: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()

    __hash__ = logging.Handler.__hash__

    def tell(self, jobs: Iterable[Any], gpu_hours: float, at_once: int | None, logger: logging.Logger) -> None:
        """Says what jobs a cluster will be given; how long they take depends on its queue, so nothing more is said."""
        jobs = list(jobs)
        if jobs:
            logger.info(f"Study {self.estimate.grid.name}: {len(jobs)} jobs, about {gpu_hours:,.1f} GPU-hours.")
            products = [product for job in jobs if (product := self._product(job))]
            self._tell_room(products, self._made(), at_once or 1, logger)

    def start(self, jobs: Iterable[Any], cores: int | None, logger: logging.Logger) -> None:
        """Notes the jobs that will run (their `jobid`, `rule.name`, `wildcards`) and says what they are."""
        made = self._made()
        products = []
        for job in jobs:
            product = self._product(job)
            self._estimates[job.jobid] = self.estimate.seconds(product, made) if product else 1.0
            products += [product] if product else []
            what = product.name.split("/", 1)[1] if product else getattr(job.wildcards, "name", "")
            self._names[job.jobid] = f"{job.rule.name} {what}".strip()
        self._cores = cores or 1
        self._started = time.monotonic()
        self._logger = logger
        if self._estimates:
            total = sum(self._estimates.values())
            logger.info(
                f"Study {self.estimate.grid.name}: {len(self._estimates)} jobs, "
                f"about {spoken(total / self._cores)} on {self._cores} cores."
            )
            self._tell_room(products, made, self._cores, logger)
            logger.addHandler(self)

    def _product(self, job: Any) -> Product | None:
        return self.estimate.grid.products.get(
            f"{self.places.get(job.rule.name)}/{getattr(job.wildcards, 'key', None)}"
        )

    def _made(self) -> set[str]:
        return self.estimate.store.made(product.key for product in self.estimate.grid)

    def _tell_room(self, products: list[Product], made: set[str], at_once: int, logger: logging.Logger) -> None:
        for line in disk.sentences(
            disk.forecast(self.estimate.grid, products, made, at_once), self.estimate.store.root
        ):
            logger.info(line)

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        kind = getattr(event, "value", event)
        if kind == "job_info":
            self._running[record.jobid] = self._names.get(record.jobid, "")  # type: ignore[attr-defined]
        elif kind == "job_finished":
            job = record.job_id  # type: ignore[attr-defined]
            self._running.pop(job, None)
            self._done += self._estimates.get(job, 0.0)
            self._finished += job in self._estimates
            self._say()

    def _say(self) -> None:
        elapsed = time.monotonic() - self._started
        total = sum(self._estimates.values())
        # the more is done, the more the pace so far counts against the study's own estimate
        share = self._done / total
        pace = share * (elapsed * self._cores / self._done) + (1 - share) if self._done else 1.0
        left = (total - self._done) * pace / self._cores
        running = f"; running: {', '.join(self._running.values())}" if self._running else ""
        rest = f"about {spoken(left)} left" if self._finished < len(self._estimates) else "all done"
        self._logger.info(
            f"Progress: {self._finished} of {len(self._estimates)} jobs, {spoken(elapsed)} so far, {rest}{running}"
        )
