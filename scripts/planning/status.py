"""Says what of a study is made, what runs and how far it is, what waits, what failed, and what the rest costs.

python -m scripts.planning.status
python -m scripts.planning.status --study paper --store /scratch/store
python -m scripts.planning.status --target fig2

It reads the store, the logs of this checkout and, where SLURM is, the queue. It changes nothing.
"""

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.common.errors import UserError, run
from scripts.launch.command import launch_options
from scripts.launch.launch import Launch, launch_by_hand
from scripts.plan.product import Product
from scripts.planning import cluster, engine
from scripts.planning.estimate import Estimate
from scripts.planning.reports import FRESH_SECONDS, aligned, last_lines, last_report, spoken
from scripts.planning.slurm import QueuedJob
from scripts.planning.targets import counted, target_option
from scripts.store.locks import Holder, holder

LOGS = Path("results/logs")
_FAMILIES = {"trained", "evaluated", "decomposed"}
_KINDS = {
    "records": "records",
    "tokenizer": "tokenizers",
    "rows": "rows",
    "overlaps": "comparisons of records",
    "model": "base models",
    "published": "checkpoints of others",
    "leg": "legs",
    "run": "runs",
    "samples": "samples",
    "evaluation": "evaluations",
    "spectra": "spectra",
    "throughput": "speeds",
}
_STATES = ("made", "running", "queued", "failed", "stopped", "to make")
_SHOWN_RUNNING, _SHOWN_FAILED = 20, 5


@dataclass(frozen=True)
class Status:
    """Where the products of a study stand, or of a target: a state of `_STATES` by key; families among them.

    `failed`: the log of the last attempt ends in an error. `stopped`: there is a log or a checkpoint, and no error.
    Both are made when they are asked for again. `owners` and `jobs` say who works on what runs or waits.
    """

    states: Mapping[str, str]
    owners: Mapping[str, Holder]
    jobs: Mapping[str, QueuedJob]
    target: str | None = None
    """The figure or table that they are of."""

    @property
    def made(self) -> set[str]:
        return {key for key, state in self.states.items() if state == "made"}


def status(launch: Launch, queue: Iterable[QueuedJob], logs: Path = LOGS, target: str | None = None) -> Status:
    """Looks at the store, at its locks, at the logs, and at the jobs in the queue.

    Args:
        launch: the study and the store.
        queue: jobs that wait or run.
        logs: those of this checkout.
        target: a figure or table; then only what it needs is looked at.

    Raises:
        UserError: there is no such target, or the study cannot have it.
    """
    is_counted = counted(launch.grid, target)
    by_fingerprint = {job.fingerprint: job for job in queue}
    states: dict[str, str] = {}
    owners: dict[str, Holder] = {}
    jobs: dict[str, QueuedJob] = {}
    # families first: their job makes the members one after another, so each of them waits in it
    for product in sorted(filter(is_counted, launch.grid), key=lambda product: not product.members):
        key = product.key
        if launch.store.is_made(key):
            states[key] = "made"
            continue
        if job := by_fingerprint.get(product.fingerprint):
            jobs[key] = job
            jobs.update(dict.fromkeys(product.members, job))
        if owner := holder(launch.store.root / ".locks" / f"{key}.lock"):
            owners[key] = owner
        if owner or (job and job.runs):
            states[key] = "running"
        elif key in jobs:
            states[key] = "queued"
        else:
            states[key] = _without_job(launch, key, logs)
    return Status(states, owners, jobs, target)


def _without_job(launch: Launch, key: str, logs: Path) -> str:
    lines = last_lines(_log(launch, key, logs))
    if _error(lines):
        return "failed"
    return "stopped" if lines or launch.store.scratch(key).exists() else "to make"


def _log(launch: Launch, key: str, logs: Path) -> Path:
    """The log of the last attempt: of a launch of whichever study, or of this study by its name."""
    paths = (logs / f"{key}.log", logs.parent / "studies" / launch.name / "logs" / f"{key}.log")
    return max(paths, key=lambda path: path.stat().st_mtime if path.exists() else 0.0)


def _error(lines: Sequence[str]) -> str | None:
    """The error that a log ends in, in one line; None where it ends in none."""
    # srun comes last, and only repeats an exit status
    said = [line.strip() for line in lines[-20:] if line.strip() and not line.startswith("srun: ")]
    for line in reversed(said):
        if line.startswith(("error: ", "slurmstepd: error: ")):
            return line
    if any(line.startswith("Traceback ") for line in said):
        return said[-1]
    return None


def lines(launch: Launch, now: Status, logs: Path = LOGS) -> list[str]:
    """The status as a person reads it, on one screen."""
    grid = [product for product in launch.grid if product.key in now.states]
    products = [product for product in grid if product.kind not in _FAMILIES]
    made = sum(now.states[product.key] == "made" for product in products)
    what = f"{now.target} of study" if now.target else "Study"
    text = [f"{what} {launch.name} in {launch.store_root}: {made} of {len(products)} products made", ""]
    text += _table(products, now)
    running = [product for product in grid if now.states[product.key] == "running"]
    text += _section("Running", [_running(launch, product, now) for product in _workers(running, now)], _SHOWN_RUNNING)
    text += _queue_lines(now)
    failed = [product for product in grid if now.states[product.key] == "failed"]
    text += _section(
        "Failed, until asked for again", [_failed(launch, product, logs) for product in failed], _SHOWN_FAILED
    )
    return [*text, "", _rest(launch, now)]


def _table(products: Sequence[Product], now: Status) -> list[str]:
    rows: list[tuple[str, ...]] = [("", *_STATES)]
    for kind, name in _KINDS.items():
        found = [now.states[product.key] for product in products if product.kind == kind]
        if found:
            rows.append((name, *(str(found.count(state) or "-") for state in _STATES)))
    return aligned(rows)


def _section(title: str, entries: Sequence[str], shown: int) -> list[str]:
    if not entries:
        return []
    more = [f"  and {len(entries) - shown} more"] if len(entries) > shown else []
    return ["", f"{title}:", *(f"  {entry}" for entry in entries[:shown]), *more]


def _workers(running: Sequence[Product], now: Status) -> list[Product]:
    """What runs; a family only where none of its members can be seen to."""
    seen = {product.key for product in running}
    return [product for product in running if not seen & set(product.members)]


def _running(launch: Launch, product: Product, now: Status) -> str:
    job, owner = now.jobs.get(product.key), now.owners.get(product.key)
    if job:
        who = f"SLURM job {job.number}" + (f" on {job.nodes}" if job.nodes else "") + f", for {job.elapsed}"
        if job.state != "RUNNING":
            who += f", {job.state}"
    else:
        who = str(owner)
    report = last_report(launch.store, product.key)
    if report is None:
        return f"{product.name}: says nothing of its progress ({who})"
    loss = "not finite" if report["loss"] is None else f"{report['loss']:.3f}"
    age = time.time() - report["time"]
    if age < FRESH_SECONDS:
        left = f"{spoken(max(0.0, report['eta_seconds'] - age))} left"
    else:
        left = f"said nothing for {spoken(age)}"
    return (
        f"{product.name}: step {report['step']:,} of {report['steps']:,}, loss {loss}, "
        f"{report['tokens_per_second']:,.0f} tokens/s, {left} ({who})"
    )


def _queue_lines(now: Status) -> list[str]:
    waiting = {job.number: job for job in now.jobs.values() if not job.runs}
    if not waiting:
        return []
    reasons = [job.reason for job in waiting.values()]
    counts = ", ".join(f"{reason} {reasons.count(reason)}" for reason in sorted(set(reasons)))
    return ["", f"In SLURM's queue: {len(waiting)} ({counts})"]


def _failed(launch: Launch, product: Product, logs: Path) -> str:
    path = _log(launch, product.key, logs)
    return f"{product.name}: {_error(last_lines(path))} ({path})"


def _rest(launch: Launch, now: Status) -> str:
    grid, made = launch.grid, now.made
    looked_at = [product for product in grid if product.key in now.states]
    left = [product for product in looked_at if product.kind not in _FAMILIES and product.key not in made]
    if not left:
        return "Nothing is left to make."
    jobs = left
    if grid.study.grain == "family":
        families = [product for product in looked_at if product.members and not made.issuperset(product.members)]
        members = {key for family in families for key in family.members}
        jobs = [*families, *(product for product in left if product.key not in members)]
    estimate = Estimate(grid, launch.store)
    hours = sum(estimate.seconds(job, made) for job in jobs) / 3600
    gpu_hours = cluster.gpu_hours(estimate, jobs)
    return (
        f"Left to make: {len(left)} products in {len(jobs)} jobs. By the study's `resources` they take "
        f"{hours:,.1f} hours one after another, and {gpu_hours:,.1f} GPU-hours on a cluster."
    )


def main(launch: Launch, target: str | None = None) -> None:
    """Prints the status of the launch's study, or of what a figure or table needs of it."""
    queue: list[QueuedJob] = []
    unknown = None
    try:
        queue = engine.here().queued(".")
    except UserError as error:
        unknown = f"What is in SLURM's queue is not known: {error}"
    print("\n".join(lines(launch, status(launch, queue, target=target))))
    if unknown:
        print(unknown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    launch_options(parser)
    target_option(parser)
    run(lambda arguments: main(launch_by_hand(arguments.study, arguments.store), arguments.target), parser)
