"""How many of a problem's generated programs are different texts, passing and failing ones apart (figure 5).

The paper's plot type is not known: here every problem is a point, and a box shows their quartiles.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scripts.artifacts import frames, style
from scripts.artifacts.points import Origin, ShownMethod
from scripts.components.measures import DIVERSITY, MEASURES
from scripts.evaluation.diversity import distinct_generations
from scripts.evaluation.results import read_samples
from scripts.launch.launch import Launch
from scripts.plan.evaluation import BASE
from scripts.plan.registry import Artifact

COLUMNS = (*frames.CONDITION, "item", "outcome", "generations", "value", "evaluation")
"""`value` of a problem's `generations` with this `outcome` are different texts; empty where there are none."""
OUTCOMES = PASSING, FAILING = "passing", "failing"
BASE_COLOUR = "#9a9a9a"
BOX, SPREAD = 0.62, 0.24
READING = (
    "How to read: each small point is one problem. Up means that the model wrote more different programs for it, "
    "left among those that passed the problem's tests, right among those that failed."
)
MEAN: dict[str, Any] = {"linestyle": "none", "marker": "D", "markersize": 6, "markeredgecolor": "white"}


@dataclass(frozen=True, kw_only=True)
class DistinctPrograms(Origin):
    """What the figure shows."""

    rows: pandas.DataFrame
    methods: tuple[ShownMethod, ...]


def collect(launch: Launch, artifact: Artifact) -> list[dict[str, Any]]:
    """Two rows (`passing`, `failing`) for each problem and each condition of the block, the base model among them."""
    (task,) = MEASURES[DIVERSITY].tasks or ()
    collected = []
    for condition in launch.grid.conditions(artifact.block, artifact.setting):
        key = condition.evaluations[task]
        if "diverged" in launch.store.require(key)["results"]:
            collected.append(frames.diverged_cells(launch, condition))
            continue
        distinct = distinct_generations(read_samples(launch.store.bytes_of(key)))
        own = {**frames.condition_cells(launch, condition), "evaluation": key.fingerprint}
        for counts in distinct:
            for outcome, different, generations in (
                (PASSING, counts.passing, counts.passed),
                (FAILING, counts.failing, counts.failed),
            ):
                row = {"item": counts.item, "outcome": outcome, "generations": generations}
                collected.append({**own, **row, "value": different if generations else ""})
    return collected


def read(csv: Path) -> DistinctPrograms:
    """The CSV; raises UserError where it is not of the right form, or a problem stands twice."""
    rows, origin = frames.read(csv, COLUMNS, (*frames.NUMBERS, "generations", "value"))
    frames.once(csv, rows, ["setting", "method", "seed", "duration", "item", "outcome"])
    return DistinctPrograms(**vars(origin), rows=rows, methods=frames.methods_of(rows))


def draw(artifact: Artifact, programs: DistinctPrograms, commit: str) -> Figure:
    """The figure: a row of two panels for each setting; groups are the base model, LoRA's ranks, full finetuning."""
    looks = {BASE: style.Look(BASE_COLOUR, "base model"), **style.looks(programs.methods)}
    order = [name for name in (BASE, *(m.name for m in programs.methods)) if name in set(programs.rows["method"])]
    written = _written(programs.rows)

    def panel_of(ax: Axes, rows: pandas.DataFrame) -> None:
        names = [name for name in order if name in set(rows["method"])]
        for place, name in enumerate(names):
            own = rows.loc[rows["method"] == name, "value"].dropna()
            _group(ax, place, own, looks[name].colour, name)
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set_ylim(0, written * 1.04)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
        ax.grid(visible=False, axis="x")
        ax.set_xticks(range(len(names)), [_tick(looks[name].label, rows[rows["method"] == name]) for name in names])
        ax.tick_params(axis="x", labelsize=8 if len(names) < 6 else 6.5)
        ax.set_ylabel(f"Different programs of {written}{' (demo)' if programs.scale == 'demo' else ''}")

    def slot(row: int, outcome: str, label: str, title: str, rows: pandas.DataFrame) -> style.Slot:
        shown = rows[rows["outcome"] == outcome]
        return style.Slot(
            row, OUTCOMES.index(outcome), lambda ax: panel_of(ax, shown), label, f"{outcome} programs, {title}", outcome
        )

    panels = frames.drawn_for(programs.rows)
    slots = [slot(row, outcome, *panel) for row, panel in enumerate(panels) for outcome in OUTCOMES]
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=4, color=style.QUIET, label="a problem"),
        Line2D([], [], linestyle="none", marker="s", markersize=11, markerfacecolor="none", color=style.QUIET,
               label="quartiles, line at the median"),
        Line2D([], [], color=style.QUIET, label="mean", **MEAN),
    ]  # fmt: skip
    below = style.BELOW_TURNED
    return style.sheet(artifact, programs, commit, slots, [handles], below, _notes(programs.rows), READING)


def _group(ax: Axes, place: int, values: pandas.Series, colour: str, name: str) -> None:
    """A method's problems, spread sideways so that equal ones lie side by side, behind their box and mean."""
    if values.empty:
        return
    spread = numpy.random.default_rng(0).uniform(-SPREAD, SPREAD, len(values))
    ax.scatter(place + spread, values, s=9, color=colour, alpha=0.45, linewidths=0, zorder=2, gid=name)
    line = {"color": colour, "linewidth": 1.3}
    box = ax.boxplot(
        [values], positions=[place], widths=BOX, showfliers=False, whis=(0, 100), manage_ticks=False, zorder=3,
        boxprops=line, whiskerprops=line, capprops=line, medianprops={**line, "linewidth": 2.6},
    )  # fmt: skip
    box["medians"][0].set_gid(f"{name} median")
    ax.plot([place], [values.mean()], color=colour, zorder=4, gid=f"{name} mean", **MEAN)


def _tick(label: str, rows: pandas.DataFrame) -> str:
    """The method, and how many of the problems (of all seeds) are there."""
    method = "\n".join(textwrap.wrap(label, 9, break_long_words=False))
    return f"{method}\n{rows['value'].notna().sum()} of {len(rows)}"


def _written(rows: pandas.DataFrame) -> int:
    """How many programs were generated for a problem."""
    return int(rows.groupby(["setting", "method", "seed", "duration", "item"])["generations"].sum().max())


def _notes(rows: pandas.DataFrame) -> list[str]:
    seeds = rows.loc[rows["kind"] != BASE, "seed"].nunique()
    return [
        "Under a method: of how many problems. One is left out where the model wrote no such program for it",
        "Different: not letter for letter the same",
        "A model that passes more often has more passing programs that can differ",
        f"The problems of {seeds} seeds stand together" if seeds > 1 else "",
    ]
