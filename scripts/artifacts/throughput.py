"""Training speed and peak memory over the global batch (figure S10), as measured on the device that the study had."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from scripts.artifacts import frames, style
from scripts.artifacts.points import Estimate, Origin, Points, ShownMethod
from scripts.launch.launch import Launch
from scripts.plan.registry import Artifact

COLUMNS = (
    "method", "kind", "rank", "alpha", "modules", "batch_rows", "pass_rows", "sequence_length", "precision", "device",
    "devices", "memory", "value", "peak_bytes", "source", "condition",
)  # fmt: skip
"""`value` is in tokens per second on all `devices`, `peak_bytes` of one of them, by the statistic called `memory`. Both
are empty where memory did not suffice. `condition` is the fingerprint of the benchmark's product."""
NUMBERS = ("rank", "alpha", "batch_rows", "pass_rows", "sequence_length", "devices", "value", "peak_bytes")
GIGABYTE = 1e9
READING = (
    "How to read: left, higher is faster; right, lower takes less memory. Speed and memory are the device's own: what "
    "compares with the paper is how the methods stand to each other."
)


@dataclass(frozen=True, kw_only=True)
class Speeds(Origin):
    """What the figure shows."""

    rows: pandas.DataFrame
    methods: tuple[ShownMethod, ...]


def collect(launch: Launch, artifact: Artifact) -> list[dict[str, Any]]:
    """One row for each method of the study's benchmark and each batch size."""
    study = launch.grid.study
    collected = []
    for method, key in launch.grid.throughput.items():
        manifest = launch.store.require(key)
        spec, results = manifest["spec"], manifest["results"]
        for point in results["points"]:
            speed, peak = point["tokens_per_second"], point["peak_bytes"]
            collected.append({
                **frames.method_cells(study, method),
                "batch_rows": point["batch_rows"],
                "pass_rows": point["pass_rows"],
                "sequence_length": spec["sequence_length"],
                "precision": spec["precision"],
                "device": results["device"],
                "devices": results["devices"],
                "memory": results["memory"],
                "value": "" if speed is None else repr(speed),
                "peak_bytes": "" if peak is None else peak,
                "source": "trained",
                "condition": key.fingerprint,
            })  # fmt: skip
    return collected


def read(csv: Path) -> Speeds:
    """The CSV; raises UserError where it is not of the right form, or a method's batch size stands twice."""
    rows, origin = frames.read(csv, COLUMNS, NUMBERS)
    frames.once(csv, rows, ["method", "batch_rows"])
    # what does not fit is not there for good: the notes say so, and nothing is still to come
    return Speeds(**{**vars(origin), "missing": 0}, rows=rows, methods=frames.methods_of(rows))


def draw(artifact: Artifact, measurements: Speeds, commit: str) -> Figure:
    """The figure: left tokens per second, right gigabytes (10^9 bytes); a line for each method."""
    rows = measurements.rows
    looks = style.looks(measurements.methods)
    batches = sorted(rows["batch_rows"].unique())

    def panel_of(ax: Axes, column: str, scale: float, label: str) -> None:
        there = rows[rows[column].notna()].sort_values("batch_rows")
        for method in measurements.methods:
            own = there[there["method"] == method.name]
            values = [(batch, value / scale) for batch, value in zip(own["batch_rows"], own[column], strict=True)]
            series = [(float(batch), Estimate(value, value, value, 1, True)) for batch, value in values]
            style.curve(ax, looks[method.name].colour, method.name, series, looks[method.name].dashes)
        low, high = there[column].min() / scale, there[column].max() / scale
        room = 0.08 * max(high - low, 0.2 * high)
        ax.set_ylim(max(0, low - room), high + room)
        style.value_axis(ax.yaxis)
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        ax.set_xscale("log", base=2)
        ax.set_xlim(batches[0] / 2**0.4, batches[-1] * 2**0.4)
        ax.xaxis.set_major_locator(FixedLocator(batches))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([f"{batch:.0f}" for batch in batches])
        ax.set_xlabel("Global batch, rows")
        ax.set_ylabel(label)

    speed, memory = "Training speed", "Peak memory"
    slots = [
        style.Slot(0, 0, lambda ax: panel_of(ax, "value", 1.0, "Tokens per second"), speed, name=speed),
        style.Slot(0, 1, lambda ax: panel_of(ax, "peak_bytes", GIGABYTE, "Gigabytes (GB)"), memory, name=memory),
    ]
    own = {name: value for name, value in vars(measurements).items() if name != "rows"}
    legends = [style.legend_handles(Points(**own, panels=()), None)]
    below = style.BELOW
    return style.sheet(artifact, measurements, commit, slots, legends, below, _notes(measurements), READING)


def _notes(measurements: Speeds) -> list[str]:
    """Where and how this was measured, and what did not fit."""
    rows = measurements.rows
    devices = [
        f"{device}, {count:.0f} device{'s' * (count != 1)}"
        for device, count in rows[["device", "devices"]].drop_duplicates().to_numpy()
    ]
    shapes = [
        f"Rows of {length:.0f} tokens, {precision}"
        for length, precision in rows[["sequence_length", "precision"]].drop_duplicates().to_numpy()
    ]
    looks = style.looks(measurements.methods)
    lacking = [
        f"{looks[str(method)].label} (batch {', '.join(f'{batch:.0f}' for batch in part['batch_rows'])})"
        for method, part in rows[rows["value"].isna()].groupby("method", sort=False)
    ]
    return [
        f"Measured on {' and '.join(devices)}; the paper measured on 8 H100",
        f"{' and '.join(shapes)}, at most {rows['pass_rows'].max():.0f} in one pass",
        f"Peak memory: {' and '.join(rows['memory'].unique())}",
        f"Out of memory: {', '.join(lacking)}" if lacking else "",
    ]
