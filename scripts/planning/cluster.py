"""What jobs ask a cluster for, by the study's table (`resources.jobs`), and how a job's command starts there.

Local runs have no use for any of it. Nothing here is part of a product's spec.
"""

import math
from collections.abc import Iterable
from typing import Any

from scripts.common.errors import UserError
from scripts.launch.launch import Launch
from scripts.launch.site import Site
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.planning.estimate import Estimate
from scripts.study.schema import Job, TrainingJob

_SPARE = 1.5
"""Times the expected time of training is asked for at the first attempt; the expectation is only one."""
_LEAST_MINUTES = 10
"""To ask for less gets nothing started sooner."""
TRAINING = "training"
_KINDS = {
    "rows": "data",
    "overlaps": "data",
    "model": "models",
    "leg": "training",
    "run": "training",
    "trained": "training",
    "throughput": "throughput",
    "samples": "evaluation",
    "evaluation": "evaluation",
    "judged": "judging",
    "evaluated": "evaluation",
    "spectra": "spectra",
    "decomposed": "spectra",
}
"""Kind of a product to the row of the table that its job has; others are made where Snakemake runs.

An evaluation of samples is `judged`: it asks no model.
"""


def resources(launch: Launch, kind: str, place: str = "") -> dict[str, Any]:
    """The resources of a rule, as the SLURM executor calls them.

    CPUs are no `threads`: those Snakemake cuts to the cores of the machine that it runs on.

    Args:
        launch: the study and the site.
        kind: the row of the table.
        place: of the store, for training: its jobs ask for less than the table's minutes where they need less.
    """
    job, site = _job(launch.grid, kind), Site(**launch.site)
    nodes, gpus = _devices(launch.grid, kind)
    asked: dict[str, Any] = {
        "cpus_per_task": job.cpus,
        "mem_mb": 1024 * job.memory_gb,
        "runtime": _minutes(launch, place) if place else job.minutes,
    }
    if gpus:
        asked["gres"] = ":".join(["gpu", *filter(None, [site.asked("gpu_type")]), str(gpus)])
    if (tasks := _tasks(launch.grid, kind)) > 1:
        # The executor wraps a job without `mpi` into a step of one task, takes `tasks` for those of a GPU, and refuses
        # one task a node under that name. Their sum alone would let SLURM put more of them on one node than on another.
        each = {"tasks": nodes} if tasks == nodes else {"tasks_per_node": tasks // nodes}
        asked |= {"mpi": "srun", "nodes": nodes, "tasks_per_gpu": 0, **each}
    return asked | _places(site, has_gpus=bool(gpus))


def _places(site: Site, *, has_gpus: bool) -> dict[str, str]:
    """Where a job runs and for whom. What a site says of `partition` does not hold where jobs without a GPU run."""
    apart = site.cpu_partition is not None and not has_gpus
    partition = site.asked("cpu_partition" if apart else "partition")
    qos, constraint, reservation = (
        None if apart else site.asked(name) for name in ("qos", "constraint", "reservation")
    )
    extra = [*([f"--reservation={reservation}"] if reservation else []), *([site.extra] if site.extra else [])]
    facts = {
        "slurm_account": site.asked("account"),
        "slurm_partition": partition,
        "qos": qos,
        "constraint": constraint,
        "slurm_extra": " ".join(extra),
    }
    return {name: value for name, value in facts.items() if value}


def step(launch: Launch, kind: str) -> str:
    """How SLURM starts a job's command in a step of its own, with a space at the end; empty but for training.

    Training is the direct task of a step, a task for each device: SLURM sends its signals to direct tasks alone, and a
    Snakemake between them would keep them. Before that it waits for a controller that is away, as `srun` does not.
    """
    if kind != TRAINING:
        return ""
    job, devices = _job(launch.grid, kind), launch.grid.study.resources.devices
    words = [f"--nodes={devices.nodes}", f"--ntasks={devices.count}", f"--ntasks-per-node={devices.processes}"]
    words += [f"--cpus-per-task={job.cpus}", *([f"--gpus-per-node={devices.gpus}"] if devices.gpus else [])]
    return f"python -m scripts.planning.slurm && srun --overlap --kill-on-bad-exit=1 {' '.join(words)} "


def threads(launch: Launch, kind: str) -> str:
    """Variables that let a decomposition use all CPUs of its job, with a space at the end; empty for all else.

    Snakemake sets them to the `threads` of a rule, which is 1 here. What else computes on CPUs stays at one thread,
    whose bits are those of a local run.
    """
    if kind != "spectra":
        return ""
    cpus = _job(launch.grid, kind).cpus
    return f"OMP_NUM_THREADS={cpus} MKL_NUM_THREADS={cpus} "


def container(launch: Launch) -> str:
    """What the site has before the `python` of every job, with a space at the end; empty where it has nothing."""
    words = launch.site.get("container")
    return f"{words} " if words else ""


def deadline(launch: Launch, minutes: int) -> int:
    """Age in seconds at which training in a job of so many minutes ends: two Snakemakes start before it does."""
    return 60 * minutes - 2 * launch.grid.study.resources.startup_seconds


def gpu_hours(estimate: Estimate, products: Iterable[Product]) -> float:
    """What it takes to make `products`, but for their members that are in the store: GPUs times the expected time."""
    products = list(products)
    made = estimate.store.made(key for product in products for key in product.members)
    return math.fsum(
        gpus * estimate.seconds(product, made) / 3600
        for product in products
        if (gpus := devices_of(estimate.grid, product))
    )


def devices_of(grid: Grid, product: Product) -> int:
    """GPUs of the job that makes a product, on all of its nodes."""
    row = _row(product)
    if row is None:
        return 0
    nodes, gpus = _devices(grid, row)
    return nodes * gpus


def require_ready(launch: Launch, products: Iterable[Product]) -> None:
    """Raises UserError where the cluster's facts are missing without which `products` cannot be made there."""
    rows = {row for product in products if (row := _row(product))}
    gpus = any(_devices(launch.grid, row)[1] for row in rows)
    Site(**launch.site).require(["account", "partition", "gpu_type"] if gpus else ["account", "partition"])


def require_budget(hours: float, budget: float | None) -> None:
    """Raises UserError where the plan takes more GPU-hours than `--config budget_gpu_hours=` allows."""
    if budget is not None and hours > budget:
        raise UserError(
            f"the plan takes about {hours:,.1f} GPU-hours, budget_gpu_hours allows {budget:,.1f}; nothing was started"
        )


def _job(grid: Grid, kind: str) -> Job | TrainingJob:
    job: Job | TrainingJob = getattr(grid.study.resources.jobs, kind)
    return job


def _row(product: Product) -> str | None:
    return _KINDS.get("judged" if product.is_judged else product.kind)


def _devices(grid: Grid, kind: str) -> tuple[int, int]:
    """Nodes of a job, and GPUs of a node."""
    if kind == TRAINING:
        return grid.study.resources.devices.nodes, grid.study.resources.devices.gpus
    job = _job(grid, kind)
    assert isinstance(job, Job)
    return 1, job.gpus


def _tasks(grid: Grid, kind: str) -> int:
    return grid.study.resources.devices.count if kind == TRAINING else 1


def _minutes(launch: Launch, place: str) -> Any:
    estimate = Estimate(launch.grid, launch.store)

    def of_attempt(wildcards: Any, attempt: int) -> int:
        return minutes(estimate, launch.grid.find(f"{place}/{wildcards.key}"), attempt)

    return of_attempt


def minutes(estimate: Estimate, product: Product, attempt: int = 1) -> int:
    """What the job that makes a product asks for; 0 where it runs where Snakemake does."""
    table, row = estimate.grid.study.resources, _row(product)
    if row is None:
        return 0
    longest = _job(estimate.grid, row).minutes
    if row != TRAINING:
        return longest
    needed = math.ceil((attempt * _SPARE * estimate.seconds(product, set()) + 2 * table.startup_seconds) / 60)
    return min(max(needed, _LEAST_MINUTES), longest)
