"""Ranks of what full finetuning changed, over the layers and the training (figure 6): a panel per kind of matrix."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scripts.artifacts import frames, style
from scripts.artifacts.points import Origin
from scripts.common.errors import UserError
from scripts.components.modules import ALL_LINEAR
from scripts.launch.launch import Launch
from scripts.plan.evaluation import BASE
from scripts.plan.registry import Artifact
from scripts.spectra.ranks import place, rank_to_explain, read_spectra

COLUMNS = (*frames.CONDITION, "module", "layer", "full_rank", "value", "spectra")
"""`value` is the rank that explains `SHARE` of the variance of a matrix's change, and is at most `full_rank`."""
SHARE = 0.9
WORDS = ("query", "key", "value", "output", "MLP gate", "MLP up", "MLP down")
LABELS: dict[str, str] = dict(zip(ALL_LINEAR, WORDS, strict=True))
ACROSS = 3
# The paper's direction: lighter is trained longer. Not yellow, which is too light for a line on white.
DARKEST, LIGHTEST = 0.0, 0.87
READING = (
    "How to read: how many of its singular directions it takes to explain 90 % of the variance of what finetuning "
    "added to a matrix. LoRA can add no more than its rank. Lighter lines were trained longer."
)


@dataclass(frozen=True, kw_only=True)
class Ranks(Origin):
    """What the figure shows."""

    rows: pandas.DataFrame


def collect(launch: Launch, artifact: Artifact) -> list[dict[str, Any]]:
    """One row for each linear matrix of each fully finetuned condition of the block."""
    collected = []
    for condition in launch.grid.conditions(artifact.block, artifact.setting):
        own = frames.condition_cells(launch, condition)
        if own["kind"] != "full":
            continue
        key = condition.evaluations["spectra"]
        if "diverged" in launch.store.require(key)["results"]:
            collected.append(frames.diverged_cells(launch, condition))
            continue
        for name, values in read_spectra(launch.store.bytes_of(key))["delta"].items():
            layer, module = place(name)
            collected.append({
                **own,
                "module": module,
                "layer": layer,
                "full_rank": len(values),
                "value": rank_to_explain(values, SHARE),
                "spectra": key.fingerprint,
            })  # fmt: skip
    return collected


def read(csv: Path) -> Ranks:
    """The CSV; raises UserError where it is not of the right form, has several settings, or a matrix stands twice."""
    rows, origin = frames.read(csv, COLUMNS, (*frames.NUMBERS, "layer", "full_rank", "value"))
    rows = rows[rows["kind"] != BASE]
    if (settings := rows["setting"].unique()).size != 1:
        raise UserError(f"{csv}: setting: has {', '.join(settings)}, where one is allowed")
    frames.once(csv, rows, ["method", "seed", "duration", "module", "layer"])
    return Ranks(**vars(origin), rows=rows)


def draw(artifact: Artifact, ranks: Ranks, commit: str) -> Figure:
    """The figure: x the layer, y the rank, a line for each duration (and seed); all panels have the same limits."""
    rows = ranks.rows
    durations = rows.sort_values("duration_value").drop_duplicates("duration_value")
    colours = dict(zip(durations["duration"], _colours(len(durations)), strict=True))
    top, last = rows["full_rank"].max(), rows["layer"].max()

    def panel_of(ax: Axes, of_module: pandas.DataFrame) -> None:
        highest = of_module["full_rank"].max()
        ax.axhline(highest, color=style.BASE, linestyle="--", linewidth=1.2, zorder=1.5, gid="full rank")
        ax.annotate(
            f"full rank {highest:.0f}", (1, highest), (-2, -3), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="top", ha="right", fontsize=8,
        )  # fmt: skip
        there = of_module[of_module["value"].notna()].sort_values("layer")
        for duration in durations["duration"]:
            for _, line in there[there["duration"] == duration].groupby("seed"):
                ax.plot(
                    line["layer"], line["value"], color=colours[duration], linewidth=1.4, marker="o", markersize=3,
                    zorder=3, gid=duration,
                )  # fmt: skip
        ax.set_xlim(-0.5, last + 0.5)
        ax.set_ylim(0, top * 1.06)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
        ax.set_xlabel("Layer")
        ax.set_ylabel("Rank for 90 % of the variance")

    def slot(number: int, module: str) -> style.Slot:
        row, column = divmod(number, ACROSS)
        of_module = rows[rows["module"] == module]
        return style.Slot(row, column, lambda ax: panel_of(ax, of_module), LABELS[module], module, module)

    found = [module for module in LABELS if module in set(rows["module"])]
    slots = [slot(number, module) for number, module in enumerate(found)]
    unit = durations.iloc[0]["duration_unit"]
    handles = [
        Line2D([], [], linestyle="none", label=f"{style.UNITS.get(unit, unit)}:"),
        *(Line2D([], [], color=colours[d], linewidth=style.LINE, label=d) for d in durations["duration"]),
    ]
    first = rows.iloc[0]
    notes = [f"{first['setting_label']}, full finetuning", *_missing(rows), _seeds(rows)]
    return style.sheet(artifact, ranks, commit, slots, [handles], style.BELOW, notes, READING)


def _colours(count: int) -> list[str]:
    """From dark to light."""
    places = numpy.linspace(DARKEST, LIGHTEST, count) if count > 1 else [(DARKEST + LIGHTEST) / 2]
    return [to_hex(matplotlib.colormaps["viridis"](float(place))) for place in places]


def _missing(rows: pandas.DataFrame) -> list[str]:
    count = int(rows["value"].isna().sum())
    return [f"Matrices that are not there yet: {count}"] if count else []


def _seeds(rows: pandas.DataFrame) -> str:
    count = rows["seed"].nunique()
    return f"A line for each of {count} seeds" if count > 1 else ""
