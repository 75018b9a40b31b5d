"""What a plan costs before anything is paid: jobs, hours, tokens, room, downloads and money, as a person reads it.

A `Plan` is computed from jobs that somebody else has listed: those of a dry-run, or all that a figure would take.
"""

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from scripts.common.files import project, read_yaml
from scripts.components.making import lock_command
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES
from scripts.plan.evaluation import BASE
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.planning import cluster, disk
from scripts.planning.disk import Forecast
from scripts.planning.estimate import Estimate
from scripts.planning.reports import aligned, spoken

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
LICENCES = project("config/licences.yaml")
_DRAWING_SECONDS = 1.0
_HOURS = ("GPU-hours", "CPU-hours")
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
    licence: str | None = None
    """None where the project does not know it."""


@dataclass(frozen=True)
class Plan:
    """Jobs, and what they cost."""

    study: str
    stages: Mapping[str, Amount]
    groups: Mapping[str, Amount]
    """By setting and method, of what is trained and measured: `code-cpt lora-r16`; the base model is one, too."""
    wall_seconds: float
    gpus_at_once: int
    """At most, in the time that `wall_seconds` are."""
    machine: Machine
    disk: Forecast
    downloads: Sequence[Download]
    in_store: Amount | None
    """What was asked for and is there, so that no job makes it; None where no product was asked for."""
    unlocked: Sequence[str]
    """Identities that ``config/data.lock`` has no entry for."""
    price: tuple[float, str] | None
    """Of a GPU-hour, and its currency."""

    @property
    def total(self) -> Amount:
        return sum(self.stages.values(), NOTHING)


def plan_of(estimate: Estimate, jobs: Sequence[Job], whole: Iterable[Product], machine: Machine) -> Plan:
    """The plan of jobs that are going to run.

    Args:
        estimate: of the study; what of families is in its store is not made again.
        jobs: in any order.
        whole: the products whose jobs would run if nothing were in the store.
        machine: what the jobs run on.
    """
    grid = estimate.grid
    products = [job.product for job in jobs if job.product]
    made = estimate.store.made(key for product in products for key in product.members or (product.key,))
    durations = [estimate.seconds(job.product, made) if job.product else _DRAWING_SECONDS for job in jobs]
    costs = [
        _amount(estimate, job.product, made, machine, duration) for job, duration in zip(jobs, durations, strict=True)
    ]
    stages: dict[str, Amount] = defaultdict(Amount)
    groups: dict[str, Amount] = defaultdict(Amount)
    coming: dict[str, Amount] = {}
    for job, cost in zip(jobs, costs, strict=True):
        stages[stage(job.product)] += cost
        if job.product:
            coming[job.product.key] = cost
            if group := _group(grid, job.product):
                groups[group] += cost
    price = grid.study.resources.gpu_hour_price
    begun = starts(durations, [job.after for job in jobs], machine.at_once)
    gpus = [cluster.devices_of(grid, job.product) if job.product else 0 for job in jobs]
    return Plan(
        study=grid.name,
        stages={name: stages[name] for name in STAGES if name in stages},
        groups=dict(groups),
        wall_seconds=max(map(sum, zip(begun, durations, strict=True)), default=0.0),
        gpus_at_once=most_at_once(begun, durations, gpus),
        machine=machine,
        disk=disk.forecast(grid, products, made, machine.at_once),
        downloads=downloads(grid, products),
        in_store=_in_store(estimate, whole, coming, machine),
        unlocked=sorted({grid.unlocked[key] for key in coming if key in grid.unlocked}),
        price=(price.amount, price.currency) if price else None,
    )


def _in_store(
    estimate: Estimate, whole: Iterable[Product], coming: Mapping[str, Amount], machine: Machine
) -> Amount | None:
    """What the jobs of `whole` cost less than they would from nothing; `coming` are the costs of those that run."""
    there: Amount | None = None
    for product in whole:
        there = there or NOTHING
        if product.key not in coming:
            there += amount(estimate, product, machine)
        elif product.members:  # of which some may be there
            full, left = amount(estimate, product, machine), coming[product.key]
            there += Amount(
                0, full.gpu_hours - left.gpu_hours, full.cpu_hours - left.cpu_hours, full.tokens - left.tokens
            )
    return there


def amount(estimate: Estimate, product: Product, machine: Machine) -> Amount:
    """What the job of a product costs that makes all of it."""
    return _amount(estimate, product, (), machine, estimate.seconds(product, set()))


def _amount(
    estimate: Estimate, product: Product | None, made: Collection[str], machine: Machine, duration: float
) -> Amount:
    grid = estimate.grid
    gpus = cluster.devices_of(grid, product) if product else 0
    cpus = _cpus(grid, product) if product and machine.is_cluster else 1
    members = [grid.products[key] for key in product.members] or [product] if product else []
    return Amount(
        jobs=1,
        gpu_hours=gpus * duration / 3600,
        cpu_hours=0.0 if gpus else cpus * duration / 3600,
        tokens=math.fsum(_tokens(estimate, member) for member in members if member.key not in made),
    )


def stage(product: Product | None) -> str:
    """The stage that the job of a product belongs to."""
    if product is None:
        return DRAWN
    return "judging" if product.is_judged else _STAGES[product.kind]


def _cpus(grid: Grid, product: Product) -> int:
    """The CPUs that a cluster gives a job without a GPU; one where it runs beside Snakemake."""
    if product.key in grid.outside or product.kind in ("records", "tokenizer"):
        return 1
    resources = grid.study.resources
    cpus: int = getattr(resources.jobs, stage(product)).cpus
    return cpus * (resources.devices.count if stage(product) == cluster.TRAINING else 1)


def _tokens(estimate: Estimate, product: Product) -> float:
    """That are trained on, of the base model too; 0 where nobody can know yet."""
    if product.kind == "model":
        return float(estimate.grid.study.model.tokens_to_train(product.key) or 0)
    return estimate.tokens(product) or 0.0


def _group(grid: Grid, product: Product) -> str | None:
    """Setting and method of what is trained or measured; None for all else."""
    key = product.members[0] if product.members else product.key
    first, _, rest = key.within.partition("/")
    if first == BASE:
        return "the base model"
    return f"{first} {rest.partition('/')[0]}" if first in grid.study.settings and rest else None


def starts(durations: Sequence[float], after: Sequence[Collection[int]], at_once: int) -> list[float]:
    """When each job starts, in seconds, if it starts as soon as it may: list scheduling (Graham 1966).

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
    begun = [0.0] * len(durations)
    now = 0.0
    while ready or running:
        while ready and len(running) < at_once:
            _, job = heapq.heappop(ready)
            begun[job] = now
            heapq.heappush(running, (now + durations[job], job))
        now, job = heapq.heappop(running)
        for other in followers[job]:
            waiting_for[other] -= 1
            if not waiting_for[other]:
                heapq.heappush(ready, (now, other))
    return begun


def most_at_once(begun: Sequence[float], durations: Sequence[float], counts: Sequence[int]) -> int:
    """The most of what jobs hold, `counts` of each while it runs, that is held at one time."""
    # what ends at a moment is free for what starts then
    changes = [
        change
        for start, duration, count in zip(begun, durations, counts, strict=True)
        for change in ((start, count), (start + duration, -count))
    ]
    return max(itertools.accumulate(count for _, count in sorted(changes)), default=0)


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
    licences = read_yaml(LICENCES)
    return [
        Download(
            name,
            sizes[name] or None,
            name in gated,
            next((licence for pattern, licence in licences.items() if fnmatchcase(name, pattern)), None),
        )
        for name in sorted(sizes)
    ]


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
    gpus = f", on up to {plan.gpus_at_once:,} GPUs" if plan.gpus_at_once else ""
    text += ["", *_there(plan), f"Wall time: about {spoken(plan.wall_seconds)} with {plan.machine.words}{gpus}."]
    text += disk.sentences(plan.disk, root)
    text += [*_downloads(plan.downloads), *_money(plan), *_unlocked(plan)]
    return text


def _table(rows: Iterable[tuple[str, Amount]]) -> list[str]:
    head = ("", "jobs", *_HOURS, "tokens")
    return aligned([head, *((name, *cells(cost)) for name, cost in rows)])


def cells(cost: Amount) -> tuple[str, ...]:
    """Jobs, GPU-hours, CPU-hours and tokens, each as a table has it."""
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


def _there(plan: Plan) -> list[str]:
    there = plan.in_store
    if there is None:
        return []
    if not there.jobs and there.gpu_hours + there.cpu_hours < 0.005:
        return ["In the store: nothing of it yet."]
    hours = [f"{spoken_hours(value)} {name}" for name, value in zip(_HOURS, _hours(there), strict=True) if value]
    return [f"In the store, and not counted: {', '.join([f'{there.jobs:,} jobs', *hours])}."]


def _downloads(found: Sequence[Download]) -> list[str]:
    if not found:
        return []
    known = [one for one in found if one.bytes]
    sizes = [f"{disk.spoken(sum(one.bytes or 0 for one in known))} of {_named(known)}"] if known else []
    if others := len(found) - len(known):
        sizes.append(f"the size of {'the other ' if known else ''}{others} is not known")
    text = [f"Downloads: {len(found)} from outside ({'; '.join(sizes)})."]
    if gated := [one for one in found if one.gated]:
        text.append(f"Terms to be accepted first, on its page: {_named(gated)}.")
    licensed: dict[str | None, list[Download]] = defaultdict(list)
    for one in found:
        licensed[one.licence].append(one)
    unknown = licensed.pop(None, [])
    said = [f"{licence} ({_named(licensed[licence])})" for licence in licensed]
    said += [f"not known of {_named(unknown)}"] if unknown else []
    return [*text, f"Licences: {'; '.join(said)}."]


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
