"""The share of problems that one of k generated programs solves, over k (figure S9): one panel per setting."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from scripts.artifacts import frames, style
from scripts.artifacts.points import Estimate, Origin, Points, ShownMethod, estimate
from scripts.components.tasks.pass_at_k import TASK
from scripts.launch.launch import Launch
from scripts.plan.evaluation import BASE
from scripts.plan.registry import Artifact

COLUMNS = (*frames.CONDITION, "k", "value", "stderr", "items", "samples", "temperature", "evaluation")
"""`value` is pass@k over `items` problems, of each of which `samples` programs were drawn at `temperature`."""
READING = (
    "How to read: how likely one of k programs passes a problem's tests, on average over the problems. Models whose "
    "curves come together to the right solve about as many problems, and differ in how many attempts they need."
)


@dataclass(frozen=True, kw_only=True)
class Curves(Origin):
    """What the figure shows."""

    rows: pandas.DataFrame
    methods: tuple[ShownMethod, ...]


def collect(launch: Launch, artifact: Artifact) -> list[dict[str, Any]]:
    """One row for each condition of the block, the base model among them, and each k."""
    task = launch.grid.study.evaluation.tasks.of(TASK.name)
    assert task is not None  # a block that measures pass@k has the task
    collected = []
    for condition in launch.grid.conditions(artifact.block, artifact.setting):
        key = condition.evaluations[TASK.name]
        results = launch.store.require(key)["results"]
        if "diverged" in results:
            collected.append(frames.diverged_cells(launch, condition))
            continue
        for k in sorted(int(metric.removeprefix("pass@")) for metric in results["metrics"]):
            collected.append({
                **frames.condition_cells(launch, condition),
                "k": k,
                "value": repr(results["metrics"][f"pass@{k}"]),
                "stderr": repr(results["errors"][f"pass@{k}"]),
                "items": results["items"],
                "samples": task.samples,
                "temperature": task.temperature,
                "evaluation": key.fingerprint,
            })  # fmt: skip
    return collected


def read(csv: Path) -> Curves:
    """The CSV; raises UserError where it is not of the right form, or a method's pass@k stands twice."""
    rows, origin = frames.read(csv, COLUMNS, (*frames.NUMBERS, "k", "value", "stderr", "samples", "temperature"))
    frames.once(csv, rows, ["setting", "method", "seed", "duration", "k"])
    there = rows[rows["value"].notna()]
    return Curves(**vars(origin), rows=there, methods=frames.methods_of(there))


def draw(artifact: Artifact, curves: Curves, commit: str) -> Figure:
    """The figure: a curve for each method, the base model's dashed."""
    looks = style.looks(curves.methods)

    def panel_of(ax: Axes, rows: pandas.DataFrame) -> None:
        series = {str(method): _series(part) for method, part in rows.groupby("method")}
        if base := series.pop(BASE, None):
            _base_curve(ax, base)
        for name, points in series.items():
            style.curve(ax, looks[name].colour, name, points, looks[name].dashes)
        ax.set_ylim(*style.limits([y for points in [*series.values(), base or []] for _, y in points], TASK.shown))
        style.value_axis(ax.yaxis)
        ks = sorted(rows["k"].unique())
        ax.set_xscale("log", base=2)
        ax.set_xlim(ks[0] / 2**0.3, ks[-1] * 2**0.3)
        ax.xaxis.set_major_locator(FixedLocator(ks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([f"{k:.0f}" for k in ks])
        ax.set_xlabel("k, generated programs per problem")
        ax.set_ylabel(style.axis_label(TASK.shown, curves.scale))

    def slot(place: int, label: str, title: str, rows: pandas.DataFrame) -> style.Slot:
        return style.Slot(place // 2, place % 2, lambda ax: panel_of(ax, rows), label, title, label)

    slots = [slot(place, *panel) for place, panel in enumerate(frames.drawn_for(curves.rows))]
    based = bool((curves.rows["kind"] == BASE).any())
    own = {name: value for name, value in vars(curves).items() if name != "rows"}
    legends = [style.legend_handles(Points(**own, panels=()), style.base_level_handle() if based else None)]
    return style.sheet(artifact, curves, commit, slots, legends, style.BELOW, _notes(curves.rows), READING)


def _series(rows: pandas.DataFrame) -> list[tuple[float, Estimate]]:
    """A method's estimates at each k, over its seeds."""
    return [(float(str(k)), estimate(part)) for k, part in rows.groupby("k")]


def _base_curve(ax: Axes, series: list[tuple[float, Estimate]]) -> None:
    """The base model has a curve of its own, where other figures have its one value as a line across."""
    x, y = [k for k, _ in series], [level.value for _, level in series]
    ax.plot(x, y, color=style.BASE, linestyle="--", linewidth=1.4, zorder=2.5, gid="base model")
    for at, level in series:
        style.bar(ax, at, level, style.BASE)


def _notes(rows: pandas.DataFrame) -> list[str]:
    drawn = rows[["samples", "temperature"]].drop_duplicates()
    how = " and ".join(f"{n:.0f} programs per problem at temperature {t:g}" for n, t in drawn.to_numpy())
    notes = [f"pass@k: unbiased estimate from {how}"]
    counts = rows.groupby(["setting", "method", "duration", "k"])["seed"].nunique()
    if counts.min() == 1 and rows["stderr"].gt(0).any():
        notes.append("Thin bars: one standard error over the problems")
    if counts.max() > 1:
        notes.append(f"Points of {counts.max()} seeds: mean, thin bar from lowest to highest")
    return notes
