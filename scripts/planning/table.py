"""What a plan costs before anything is paid: jobs, hours, tokens, room, downloads and money, as a person reads it.

A `Plan` is computed from jobs that somebody else has listed: those of a dry-run, or all that a figure would take.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.components.making import lock_command
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES
from scripts.plan.evaluation import BASE
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.planning import cluster, disk
from scripts.planning.disk import Forecast
from scripts.planning.estimate import _training_tokens, seconds
from scripts.planning.reports import aligned, spoken
from scripts.store.store import Store

DRAWN = "figures"
"""The stage of what is no product of the store: figures, tables and pages."""
STAGES = ("data", "models", "training", "throughput", "evaluation", "judging", "spectra", DRAWN)
_STAGES = {
    **dict.fromkeys(("records", "tokenizer", "rows", "overlaps"), "data"),
    **dict.fromkeys(("model", "published"), "models"),
    **dict.fromkeys(("leg", "run", "trained"), "training"),
    **dict.fromkeys(("samples", "evaluation", "evaluated"), "evaluation"),
    **dict.fromkeys(("spectra", "decomposed"), "spectra"),
    "throughput": "throughput",
}
_FETCHED = {
    choice.entry.kind for choice in (*SOURCES.values(), *MODELS.values()) if choice.entry and choice.needs_network
}
"""What the keys of ``config/data.lock`` begin with that are downloaded."""
_DRAWING_SECONDS = 1.0
_SHOWN = 8
_NAMED = 2
"""Of what is downloaded or not locked, as many are named in a line."""


@dataclass(frozen=True)
class Job:
    """A job of a plan."""

    product: Product | None
    """What it makes in the store; None for a figure, a table or a page."""
    after: tuple[int, ...] = ()
    """The jobs that it waits for, by their place in the plan's list."""


@dataclass(frozen=True)
class Amount:
    """What some jobs cost together."""

    jobs: int = 0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    """Hours of the jobs that have no GPU, times the CPUs that each has."""
    tokens: float = 0.0
    """That are trained on."""

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.jobs + other.jobs,
            self.gpu_hours + other.gpu_hours,
            self.cpu_hours + other.cpu_hours,
            self.tokens + other.tokens,
        )


NOTHING = Amount()


@dataclass(frozen=True)
class Machine:
    """What runs the jobs."""

    at_once: int
    """Jobs at a time, at most."""
    words: str
    """Who says so: `200 jobs at a time (max_jobs of the site)`."""
    is_cluster: bool
    """Whether jobs get the CPUs that they ask for; else each has one."""


@dataclass(frozen=True)
class Download:
    """Something from outside that is fetched."""

    identity: str
    """Its key in ``config/data.lock``."""
    bytes: int | None
    """None where nobody can know before it is read."""
    gated: bool
    """Whether its terms have to be accepted first."""


@dataclass(frozen=True)
class Plan:
    """Jobs, and what they cost."""

    study: str
    stages: Mapping[str, Amount]
    groups: Mapping[str, Amount]
    """By setting and method, of what is trained and measured: `code-cpt lora-r16`; the base model is one, too."""
    wall_seconds: float
    machine: Machine
    disk: Forecast
    downloads: Sequence[Download]
    in_store: Amount
    """What was asked for and is there, so that no job makes it."""
    unlocked: Sequence[str]
    """Identities that ``config/data.lock`` has no entry for."""
    price: tuple[float, str] | None
    """Of a GPU-hour, and its currency."""

    @property
    def total(self) -> Amount:
        return sum(self.stages.values(), NOTHING)


def plan_of(grid: Grid, store: Store, jobs: Sequence[Job], whole: Iterable[Product], machine: Machine) -> Plan:
    """The plan of jobs that are going to run.

    Args:
        grid: the study.
        store: what of families is in it is not made again.
        jobs: in any order.
        whole: the products whose jobs would run if nothing were in the store.
        machine: what the jobs run on.
    """
    products = [job.product for job in jobs if job.product]
    made = store.made(key for product in products for key in product.members or (product.key,))
    amounts = [amount(grid, job.product, made, machine) for job in jobs]
    stages: dict[str, Amount] = defaultdict(Amount)
    groups: dict[str, Amount] = defaultdict(Amount)
    for job, cost in zip(jobs, amounts, strict=True):
        stages[stage(job.product)] += cost
        if job.product and (group := _group(grid, job.product)):
            groups[group] += cost
    coming = {product.key for product in products}
    full: dict[str, Amount] = {product.key: amount(grid, product, set(), machine) for product in whole}
    planned = [cost for job, cost in zip(jobs, amounts, strict=True) if job.product and job.product.key in full]
    price = grid.study.resources.gpu_hour_price
    return Plan(
        study=grid.name,
        stages={name: stages[name] for name in STAGES if name in stages},
        groups=dict(groups),
        wall_seconds=wall_seconds(
            [_job_seconds(grid, job.product, made) for job in jobs], [job.after for job in jobs], machine.at_once
        ),
        machine=machine,
        disk=disk.forecast(grid, products, made, machine.at_once),
        downloads=downloads(grid, products),
        in_store=_less(full, coming, planned),
        unlocked=sorted({grid.unlocked[key] for key in coming if key in grid.unlocked}),
        price=(price.amount, price.currency) if price else None,
    )


def _less(full: Mapping[str, Amount], coming: Collection[str], planned: Iterable[Amount]) -> Amount:
    whole, left = sum(full.values(), NOTHING), sum(planned, NOTHING)
    return Amount(
        sum(key not in coming for key in full),
        max(0.0, whole.gpu_hours - left.gpu_hours),
        max(0.0, whole.cpu_hours - left.cpu_hours),
        max(0.0, whole.tokens - left.tokens),
    )


def amount(grid: Grid, product: Product | None, made: Collection[str], machine: Machine) -> Amount:
    """What the job of a product costs when the members in `made` are there; None: that of a figure, table or page."""
    hours = _job_seconds(grid, product, made) / 3600
    gpus = _gpus(grid, product) if product else 0
    cpus = _cpus(grid, product) if product and machine.is_cluster else 1
    members = [grid.products[key] for key in product.members] or [product] if product else []
    return Amount(
        jobs=1,
        gpu_hours=gpus * hours,
        cpu_hours=0.0 if gpus else cpus * hours,
        tokens=math.fsum(_tokens(grid, member) for member in members if member.key not in made),
    )


def stage(product: Product | None) -> str:
    """The stage that the job of a product belongs to."""
    if product is None:
        return DRAWN
    return "judging" if product.is_judged else _STAGES[product.kind]


def _job_seconds(grid: Grid, product: Product | None, made: Collection[str]) -> float:
    return seconds(grid, product, set(made)) if product else _DRAWING_SECONDS


def _gpus(grid: Grid, product: Product) -> int:
    row = cluster._row(product)
    job = cluster._job(grid, row) if row else None
    return cluster._nodes(job) * job.gpus if job else 0


def _cpus(grid: Grid, product: Product) -> int:
    """The CPUs that a cluster gives a job without a GPU; one where it runs beside Snakemake."""
    if product.key in grid.outside or product.kind in ("records", "tokenizer"):
        return 1
    cpus: int = getattr(grid.study.resources.jobs, stage(product)).cpus
    return cpus


def _tokens(grid: Grid, product: Product) -> float:
    if product.kind in ("leg", "run"):
        return _training_tokens(grid, product)
    if product.kind == "model":
        return float(grid.study.model.tokens_to_train(product.key) or 0)
    return 0.0


def _group(grid: Grid, product: Product) -> str | None:
    """Setting and method of what is trained or measured; None for all else."""
    key = product.members[0] if product.members else product.key
    first, _, rest = key.within.partition("/")
    if first == BASE:
        return "the base model"
    return f"{first} {rest.partition('/')[0]}" if first in grid.study.settings and rest else None


def wall_seconds(durations: Sequence[float], after: Sequence[Collection[int]], at_once: int) -> float:
    """When the last job ends, if a job starts as soon as it may: list scheduling (Graham 1966).

    Of the jobs that wait for no other, the one that has waited longest starts whenever fewer than `at_once` run. No
    queue but this one is in it: what others run on a cluster nobody knows.

    Args:
        durations: seconds of each job.
        after: the jobs that each waits for.
        at_once: at least 1.
    """
    waiting_for = [len(set(before)) for before in after]
    followers: list[list[int]] = [[] for _ in durations]
    for job, before in enumerate(after):
        for other in set(before):
            followers[other].append(job)
    ready = [(0.0, job) for job, count in enumerate(waiting_for) if not count]
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < at_once:
            _, job = heapq.heappop(ready)
            heapq.heappush(running, (now + durations[job], job))
        now, job = heapq.heappop(running)
        for other in followers[job]:
            waiting_for[other] -= 1
            if not waiting_for[other]:
                heapq.heappush(ready, (now, other))
    return now


def downloads(grid: Grid, products: Iterable[Product]) -> list[Download]:
    """What the jobs of `products` fetch from outside, once each, in the order of their names."""
    study = grid.study
    sources = [study.model, *study.datasets.values()]
    gated = {source.identity for source in sources if getattr(source, "gated", False)}
    sizes: dict[str, int] = defaultdict(int)
    for product in products:
        # of checkpoints each is a branch of a repository
        identity = grid.outside.get(product.key, "").partition(" (")[0]
        if identity.partition(":")[0] in _FETCHED:
            sizes[identity] += disk.product_bytes(grid, product)
    return [Download(name, sizes[name] or None, name in gated) for name in sorted(sizes)]


# -- as a person reads it ------------------------------------------------------------------------------------------


def lines(plan: Plan, root: Path) -> list[str]:
    """The plan of a dry-run: a table by stage, one by setting and method, and a line for each other cost.

    Args:
        plan: of at least one job.
        root: the store, whose disk must have room.
    """
    stages = [(name, cost) for name, cost in plan.stages.items()]
    text = [
        f"Plan of study {plan.study}, by stage:",
        *_table([*stages, ("total", plan.total)]),
    ]
    if plan.groups:
        ranked = sorted(
            plan.groups.items(), key=lambda item: (*(-round(hours, 6) for hours in _hours(item[1])), item[0])
        )
        shown, others = ranked[:_SHOWN], ranked[_SHOWN:]
        if len(others) == 1:
            shown, others = ranked, []
        rest = [(f"and {len(others)} more", sum((cost for _, cost in others), NOTHING))] if others else []
        text += [
            "",
            "What is trained and measured, by setting and method, the dearest first:",
            *_table([*shown, *rest]),
        ]
    text += ["", *_in_store(plan), f"Wall time: about {spoken(plan.wall_seconds)} with {plan.machine.words}."]
    text += disk.sentences(plan.disk, root)
    text += [*_downloads(plan.downloads), *_money(plan), *_unlocked(plan)]
    return text


def _table(rows: Iterable[tuple[str, Amount]]) -> list[str]:
    head = ("", "jobs", "GPU-hours", "CPU-hours", "tokens")
    return aligned([head, *((name, *_cells(cost)) for name, cost in rows)])


def _cells(cost: Amount) -> tuple[str, ...]:
    hours = (spoken_hours(value) if value else "-" for value in _hours(cost))
    return (f"{cost.jobs:,}", *hours, spoken_tokens(cost.tokens) if cost.tokens else "-")


def _hours(cost: Amount) -> tuple[float, float]:
    return cost.gpu_hours, cost.cpu_hours


def spoken_hours(hours: float) -> str:
    """Hours of a processor: 10,321.2, 0.06."""
    return f"{hours:,.1f}" if hours >= 9.95 else f"{hours:.2f}" if hours >= 0.005 or not hours else "<0.01"


def spoken_tokens(tokens: float) -> str:
    """Tokens to three digits: 612B, 32K."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if tokens >= 0.9995 * size:
            return f"{float(f'{tokens / size:.3g}'):g}{unit}"
    return f"{tokens:.0f}"


def _in_store(plan: Plan) -> list[str]:
    there = plan.in_store
    if not there.jobs and there.gpu_hours + there.cpu_hours < 0.005:
        return ["In the store: nothing of it yet."]
    return [
        f"In the store, and not counted: {there.jobs:,} jobs, {spoken_hours(there.gpu_hours)} GPU-hours, "
        f"{spoken_hours(there.cpu_hours)} CPU-hours."
    ]


def _downloads(found: Sequence[Download]) -> list[str]:
    if not found:
        return []
    known = [one for one in found if one.bytes]
    sizes = [f"{disk.spoken(sum(one.bytes or 0 for one in known))} of {_named(known)}"] if known else []
    if others := len(found) - len(known):
        sizes.append(f"the size of {'the other ' if known else ''}{others} is not known")
    gated = [one for one in found if one.gated]
    terms = f" {_named(gated)}: whoever asks must have accepted the terms first." if gated else ""
    return [f"Downloads: {len(found)} from outside ({'; '.join(sizes)}).{terms}"]


def _named(found: Sequence[Download]) -> str:
    return _listed([one.identity for one in found])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _money(plan: Plan) -> list[str]:
    if plan.price is None:
        return []
    amount_each, currency = plan.price
    return [f"Money: {plan.total.gpu_hours * amount_each:,.0f} {currency}, at {amount_each:g} {currency} a GPU-hour."]


def _unlocked(plan: Plan) -> list[str]:
    if not plan.unlocked:
        return []
    return [f"Not locked: {_listed(plan.unlocked)}; a launch needs `{lock_command(plan.study)}` first."]
