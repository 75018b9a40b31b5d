"""Says what the pilot of a study took, beside what was planned for it.

python -m scripts.planning.pilot RUN [--study NAME] [--store DIR]

The pilot is one short condition, trained, evaluated and, where the study has that, decomposed: `snakemake pilot`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.common.commands import snakemake_again
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.components.measures import SPECTRA
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan.conditions import SWEEP, Condition
from scripts.plan.grid import Grid
from scripts.plan.product import Key, Product
from scripts.planning import cluster
from scripts.planning.estimate import Estimate, device_seconds
from scripts.planning.reports import aligned, spoken

FILE = "pilot.md"


def condition(launch: Launch, fits: Callable[[Product], bool]) -> tuple[str, Condition]:
    """The condition that costs least of those that fit, and its block; one with spectra where there is any.

    What the store has measured is no part of the choice, so that it stays the same while the pilot runs.

    Args:
        launch: the study, on the devices that are to be tried.
        fits: whether the training of a leg or run fits into their memory.

    Raises:
        UserError: the study trains nothing that fits; its grain is not that of single conditions.
    """
    grid = launch.grid
    if grid.study.grain != "condition":
        again = snakemake_again(sys.argv[1:], "grain=condition")
        raise UserError(f"pilot: is one condition, and study {launch.name!r} makes families of them; try `{again}`")
    estimate = Estimate(grid, launch.store, measures=False)
    found = [
        (SPECTRA not in one.evaluations, sum(map(estimate.work, trained)), block, one)
        for block, conditions in grid.blocks.items()
        if block != SWEEP
        for one in conditions
        if not one.is_base and not one.is_published and all(map(fits, trained := chain(grid, one.product)))
    ]
    if not found:
        devices = grid.study.resources.devices
        raise UserError(f"pilot: study {launch.name!r} trains nothing that fits into the memory of {devices.kind}")
    _, _, block, chosen = min(found, key=lambda entry: entry[:2])
    return block, chosen


def chain(grid: Grid, run_: Key) -> list[Product]:
    """A run, and the legs that it starts from."""
    products = [grid.products[run_]]
    while legs := products[-1].inputs_of("leg"):
        products.append(grid.products[legs[0]])
    return products


def report(launch: Launch, chosen: Condition) -> str:
    """The page: what each product of the condition took, and what that says of the whole study."""
    grid, store = launch.grid, launch.store
    planned = Estimate(grid, store, measures=False)
    rows: list[tuple[str, ...]] = [("", "planned", "took", "took / planned")]
    measured = [grid.products[key] for key in chosen.evaluations.values()]
    written = [grid.products[key] for one in measured for key in one.inputs_of("samples")]
    for product in (*reversed(chain(grid, chosen.product)), *written, *measured):
        expected = planned.seconds(product, set()) * max(cluster.devices_of(grid, product), 1)
        took = device_seconds(store.require(product.key))
        rows.append((product.name, spoken(expected), spoken(took), f"{took / expected:.2f}"))
    products = [product for product in grid if not product.members]
    before = cluster.gpu_hours(planned, products)
    after = cluster.gpu_hours(Estimate(grid, store), products)
    return "\n".join(
        [
            f"Pilot of {launch.name}: {chosen.setting}, {chosen.method}, {chosen.duration}. Times are of whole jobs, "
            "times their devices.",
            "",
            *aligned(rows),
            "",
            f"All of {launch.name} was planned with {before:,.1f} GPU-hours; by what the store has measured it takes "
            f"{after:,.1f}.",
        ]
    )


def main(launch: Launch, name: str) -> None:
    """Prints the page of the condition with this run, and leaves it among the results.

    Raises:
        UserError: the study has no such run; something of the condition is not made.
    """
    key = launch.grid.find(name).key
    # the same run may be measured by less in another block
    chosen = max(
        (one for block in launch.grid.blocks.values() for one in block if one.product == key),
        key=lambda one: len(one.evaluations),
    )
    text = report(launch, chosen)
    with atomic_path(Path(launch.results) / FILE) as new:
        new.write_text(f"```\n{text}\n```\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    launch_options(parser)
    parser.add_argument("run", metavar="RUN", help="the key of the condition's run, or its name")
    run(lambda arguments: main(current_launch(arguments), arguments.run), parser)
