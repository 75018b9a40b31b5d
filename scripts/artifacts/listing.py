"""Lists every figure and table, and whether a study has it.

python -m scripts.artifacts.listing
"""

import argparse

from scripts.artifacts import words
from scripts.common.errors import run
from scripts.launch.command import current_launch, launch_options
from scripts.plan.grid import Grid
from scripts.plan.registry import REGISTRY, load_registry


def listing(grid: Grid) -> str:
    """Every artifact with its title and its first file, or why the study does not have it."""
    lines = []
    for artifact in load_registry(REGISTRY).values():
        lack = artifact.lack(grid)
        lines.append(f"{artifact.name:<11} {words.of_study(artifact, grid.study).title}")
        lines.append(f"{'':<11} {f'not here: {lack}' if lack else artifact.files()[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    launch_options(parser)
    run(lambda arguments: print(listing(current_launch(arguments).grid)), parser)
