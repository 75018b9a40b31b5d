"""What one figure or table takes, for those who ask for its cost or its state alone."""

import argparse
import difflib
from collections.abc import Callable, Collection

from scripts.common.errors import UserError
from scripts.launch.missing import Missing
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.plan.registry import REGISTRY, Artifact, load_registry


def target_option(parser: argparse.ArgumentParser) -> None:
    """`--target`, for commands that count what a study has."""
    parser.add_argument("--target", metavar="NAME", help="a figure or table, as fig2: count only what it needs")


def artifact_of(name: str) -> Artifact:
    """The figure or table of a name, or of the path of one of its files; raises UserError where there is none."""
    registry = load_registry(REGISTRY)
    by_path = {path: one for one in registry.values() for path in (*one.files(), one.csv())}
    found = registry.get(name) or by_path.get(name)
    if found is None:
        near = ", ".join(difflib.get_close_matches(name, registry, 3, 0.0))
        raise UserError(f"--target {name}: is no figure or table; the nearest are {near}")
    return found


def jobs_of(grid: Grid, artifact: Artifact, made: Collection[str] = ()) -> list[Product]:
    """The products whose jobs a figure or table waits for, at the study's grain.

    Args:
        grid: the study.
        artifact: the figure or table.
        made: keys of the products that are there; a family is if all that it is for is.

    Raises:
        UserError: the study cannot have it.
    """
    now = Missing(grid, made)
    keys = now.jobs(artifact.block, artifact.measurements(grid, now.is_made))
    return [grid.products[key] for key in now.behind(keys)]


def counted(grid: Grid, target: str | None) -> Callable[[Product], bool]:
    """Whether a product is to be counted: all are, or those that a target needs and what the jobs of these make."""
    if target is None:
        return lambda product: True
    jobs = jobs_of(grid, artifact_of(target))
    keys = {key for job in jobs for key in (job.key, *job.members)}
    return lambda product: product.key in keys
