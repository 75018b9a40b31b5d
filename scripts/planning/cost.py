"""What a study's products were expected to take, what a cluster is asked for, and what they took: `results/cost.md`.

python -m scripts.planning.cost [--study NAME] [--store DIR]
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.common.commands import python_command
from scripts.common.devices import known
from scripts.common.errors import run
from scripts.common.files import atomic_path
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.planning import cluster
from scripts.planning.disk import spoken
from scripts.planning.estimate import Estimate, device_seconds
from scripts.planning.table import STAGES, spoken_hours
from scripts.planning.table import stage as stage_of

FILE = "cost.md"


@dataclass
class Stage:
    """What the products of a stage took, in seconds: GPUs times the time of each, or its time where it has none."""

    name: str
    gpus: int
    products: int = 0
    planned: float = 0.0
    """By operations and devices alone, whatever the store has measured."""
    asked: float | None = None
    """Of a cluster; None where a job makes several products."""
    used: float = 0.0
    memory: int = 0
    """Bytes, the most that a product took; 0 where none says."""
    operations: float = 0.0
    """FLOP of those that ran on GPUs whose peak is known, over that peak."""

    @property
    def ratio(self) -> float | None:
        """Used over planned; None where nothing was planned."""
        return self.used / self.planned if self.planned else None

    @property
    def utilization(self) -> float | None:
        """The share of the peak that training reached (MFU); None where it is not known."""
        return self.operations / self.used if self.operations and self.used else None


def stages(launch: Launch) -> list[Stage]:
    """Those that have products in the store, in the order of the work. What diverged or was shipped counts too."""
    grid, store = launch.grid, launch.store
    estimate = Estimate(grid, store, measures=False)
    made = store.made(product.key for product in grid)
    found: dict[str, Stage] = {}
    for product in grid:
        manifest = store.read(product.key) if product.key in made and not product.members else None
        if manifest is None or "seconds" not in manifest.get("provenance", {}):
            continue
        name = stage_of(product)
        stage = found.setdefault(name, Stage(name, cluster.devices_of(grid, product)))
        stage.products += 1
        alone = grid.study.grain == "condition"  # each product has a job, whose start counts
        stage.planned += (estimate.seconds(product, set()) if alone else estimate.work(product)) * max(stage.gpus, 1)
        used = device_seconds(manifest)
        stage.used += used
        if alone and (minutes := cluster.minutes(estimate, product)):
            stage.asked = (stage.asked or 0.0) + 60 * minutes * max(stage.gpus, 1)
        training = manifest["provenance"].get("training", {})
        for attempt in training.get("attempts", ()):
            stage.memory = max(stage.memory, attempt.get("memory_bytes", 0))
        if product.kind in ("leg", "run") and (peak := _peak(training, grid.study.precision)):
            stage.operations += estimate.operations(product) / peak
    return [found[name] for name in STAGES if name in found]


def _peak(training: dict[str, Any], precision: str) -> float | None:
    """FLOP/s of the GPU that all attempts had; None where it is not known."""
    devices = {known(attempt["device"]) for attempt in training.get("attempts", ())}
    device = devices.pop() if len(devices) == 1 else None
    return device.peak(precision) if device else None


def page(launch: Launch, found: Iterable[Stage]) -> str:
    """The Markdown page."""
    found = list(found)
    total = Stage("all", 0)
    for stage in found:
        total.products += stage.products
        total.planned += stage.planned
        total.used += stage.used
    if all(stage.asked is not None for stage in found):
        total.asked = sum(stage.asked or 0.0 for stage in found)
    devices = launch.grid.study.resources.devices
    where = f"{devices.count} x {devices.kind}" if devices.gpus else devices.kind
    head = ["stage", "products", "on", "planned", "asked", "used", "used / planned", "of the peak", "most memory"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *map(_row, [*found, total])]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""\
# What {launch.name} cost

Hours of all that lies in the store: on GPUs times their number, else of a job's process. `planned` is the work that the
cost model counts, with training on {where}; `asked` what a cluster is asked for at the first attempt;
`used` what the manifests say. `{python_command("scripts.planning.cost", study=launch.name)}` prints this at any time.

{table}
"""


def _row(stage: Stage) -> list[str]:
    on = "" if stage.name == "all" else f"{stage.gpus} GPU{'s' * (stage.gpus > 1)}" if stage.gpus else "CPU"
    return [
        stage.name,
        f"{stage.products:,}",
        on,
        spoken_hours(stage.planned / 3600),
        "-" if stage.asked is None else spoken_hours(stage.asked / 3600),
        spoken_hours(stage.used / 3600),
        "-" if stage.ratio is None else f"{stage.ratio:.2f}",
        "-" if stage.utilization is None else f"{stage.utilization:.0%}",
        spoken(stage.memory) if stage.memory else "-",
    ]


def write(launch: Launch, directory: Path) -> None:
    """Writes the page into the directory of results, where the store has anything of the study."""
    if found := stages(launch):
        with atomic_path(directory / FILE) as new:
            new.write_text(page(launch, found), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    launch_options(parser)
    run(lambda arguments: print(page(launch := current_launch(arguments), stages(launch))), parser)
