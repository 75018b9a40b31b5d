"""How much room a study's models take in the store, known from the base model's shape before anything is there.

python -m scripts.planning.disk [--study NAME] [--store DIR] [--jobs N] [--target fig2]
"""

import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.common.commands import python_command
from scripts.common.errors import run
from scripts.components.methods import method_of
from scripts.components.optimizers import OPTIMIZERS
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan.grid import Grid
from scripts.plan.product import Key, Product
from scripts.plan.specs import Recipe, Trained
from scripts.planning.reports import aligned
from scripts.planning.targets import counted, target_option

_TRAINED_BYTES = 4
"""Of a weight that is trained here, and of each of its numbers in the optimizer's state: fp32."""
_HUB_BYTES = 2
"""Of a weight on the hub, as Llama-2 and the paper's checkpoints lie there: 16 bits."""
_CHECKPOINTS = 3
"""Of a running job: the last two, and the one that is being written."""


@dataclass(frozen=True)
class Forecast:
    """Bytes that jobs are going to write."""

    legs: int = 0
    """Leg ends: weights and optimizer state."""
    models: int = 0
    """Trained weights of the runs, and what is downloaded in their place."""
    checkpoints: int = 0
    """What the jobs that run at the same time keep of their checkpoints, at most."""
    pruned: int = 0
    """What lies there at a time, at most, if one job runs after another and after each what is done with is deleted.

    A leg end is, when the legs and branches that start from it are there; a run is, when it is evaluated.
    """

    @property
    def total(self) -> int:
        return self.legs + self.models + self.checkpoints


def forecast(grid: Grid, jobs: Iterable[Product], made: set[str], at_once: int) -> Forecast:
    """What `jobs` will write, of products that are not in `made`.

    Not in it: records, rows, evaluations and spectra, whose size nobody knows before their text is read; beside fully
    finetuned models they are small.

    Args:
        grid: the study.
        jobs: legs, runs and families of them, base models and published checkpoints; others write nothing that counts.
        made: keys of the products that are in the store already.
        at_once: how many of the jobs run at the same time.
    """
    members = [[key for key in job.members or (job.key,) if key not in made] for job in _in_order(grid, jobs)]
    last_user: dict[str, int] = {
        start: index for index, keys in enumerate(members) for key in keys for start in grid.products[key].inputs
    }
    sizes = {key: product_bytes(grid, grid.products[key]) for keys in members for key in keys}
    live: set[Key] = set()
    leaves: dict[int, list[Key]] = defaultdict(list)
    held = most = 0
    for index, keys in enumerate(members):
        for key in keys:
            # the product is written when no checkpoint is, and takes about as much as one
            most = max(most, held + checkpoint_bytes(grid, grid.products[key]))
            if key not in live:
                live.add(key)
                held += sizes[key]
                if key != grid.model.key:
                    leaves[max(index, last_user.get(key, 0))].append(key)
        most = max(most, held)
        for done in leaves.pop(index, ()):
            live.remove(done)
            held -= sizes[done]
    running = sorted(max((checkpoint_bytes(grid, grid.products[key]) for key in keys), default=0) for keys in members)
    legs = sum(size for key, size in sizes.items() if grid.products[key].kind == "leg")
    return Forecast(
        legs=legs,
        models=sum(sizes.values()) - legs,
        checkpoints=sum(running[-at_once:]),
        pruned=most,
    )


def _in_order(grid: Grid, jobs: Iterable[Product]) -> list[Product]:
    """As the study lists them: a leg, the branches that start from it, the next leg."""
    place = {key: index for index, key in enumerate(grid.products)}
    return sorted(jobs, key=lambda job: place[job.key])


def product_bytes(grid: Grid, product: Product) -> int:
    """Bytes of a leg end, a run, a base model or a published checkpoint; 0 for all else."""
    model, spec = grid.study.model, product.spec
    if product.kind == "model":
        return model.stored_bytes
    if product.kind == "published":
        return _HUB_BYTES * method_of(spec["method"]).trained_parameters(model)
    if product.kind not in ("leg", "run"):
        return 0
    recipe = Trained.read(spec).recipe
    method = method_of(recipe.method)
    state = _states(recipe) * method.trained_parameters(model) if product.kind == "leg" else 0
    return _TRAINED_BYTES * (method.written_parameters(model) + state)


def checkpoint_bytes(grid: Grid, product: Product) -> int:
    """Bytes of the checkpoints that the job of a leg or run keeps while it runs; 0 for all else."""
    if product.kind not in ("leg", "run"):
        return 0
    recipe = Trained.read(product.spec).recipe
    trained = method_of(recipe.method).trained_parameters(grid.study.model)
    return _CHECKPOINTS * _TRAINED_BYTES * trained * (1 + _states(recipe))


def _states(recipe: Recipe) -> int:
    """Numbers that the optimizer keeps for each weight."""
    return len(OPTIMIZERS[recipe.optimizer["name"]].state)


def free_bytes(root: Path) -> int:
    """What is free on the disk of a store, which need not be there yet."""
    place = root.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def spoken(size: float) -> str:
    """Bytes as people say them, in powers of 1000: 53.9 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:.0f} {unit}" if size >= 99.95 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def sentences(coming: Forecast, root: Path) -> list[str]:
    """What a plan says of the room it needs: a line, and a warning where the disk has less. Nothing for nothing."""
    if not coming.total:
        return []
    free = free_bytes(root)
    # which studies count is all of them, and not the one that is planned
    prune = python_command("scripts.planning.prune", "--delete", options=("store",))
    said = [
        f"Disk: up to {spoken(coming.total)} for models, leg ends and checkpoints (data and samples are not counted), "
        f"{spoken(coming.pruned)} if one job follows another and each is pruned; {spoken(free)} are free in {root}."
    ]
    if coming.pruned > free:
        said.append(f"Warning: {root} has too little room, even with `{prune}` after every job.")
    elif coming.total > free:
        said.append(f"Warning: {root} has too little room, unless `{prune}` is called while the jobs run.")
    return said


def main(launch: Launch, at_once: int, target: str | None = None) -> None:
    """Prints what the families of the study need that are not there yet, and all of them together.

    Args:
        launch: the study and the store.
        at_once: how many jobs run at the same time.
        target: a figure or table; then only what it needs counts.

    Raises:
        UserError: there is no such target, or the study cannot have it.
    """
    grid, store = launch.grid, launch.store
    made = store.made(product.key for product in grid)
    jobs: dict[str, list[Product]] = {}
    is_counted = counted(grid, target)
    for product in grid:
        if product.kind == "trained":
            if found := list(filter(is_counted, _jobs(grid, product))):
                jobs[product.name.removeprefix("families/trained/")] = found
        elif product.kind == "published" and is_counted(product):
            jobs.setdefault(product.name.rpartition("/")[0], []).append(product)
        elif product.kind == "model" and is_counted(product):
            jobs[product.name] = [product]
    every = dict.fromkeys(job for unit in jobs.values() for job in unit)
    rows = {name: forecast(grid, unit, made, at_once) for name, unit in jobs.items()}
    whole = forecast(grid, every, made, at_once)
    table: list[tuple[str, ...]] = [("", "leg ends", "models", "checkpoints", "in all", "pruned")]
    for name, row in [
        *((name, row) for name, row in rows.items() if row.total),
        (target or f"study {grid.name}", whole),
    ]:
        sizes = (row.legs, row.models, row.checkpoints, row.total, row.pruned)
        table.append((name, *(spoken(size) if size else "-" for size in sizes)))
    print(*aligned(table), *sentences(whole, store.root), sep="\n")


def _jobs(grid: Grid, family: Product) -> list[Product]:
    """The jobs that make a family, at the study's grain."""
    return [family] if grid.study.grain == "family" else [grid.products[key] for key in family.members]


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    launch_options(parser)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many jobs run at the same time")
    target_option(parser)
    run(lambda arguments: main(current_launch(arguments), arguments.jobs, arguments.target), parser)
