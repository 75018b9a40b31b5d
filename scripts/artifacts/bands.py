"""Scores vs. training duration with all LoRA configurations as one: lowest, mean, highest (v1's figures 2 and 3)."""

from dataclasses import replace
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import style
from scripts.artifacts.points import Estimate, Panel, Points
from scripts.plan.registry import Artifact

PURPLE = "#7b2d9e"
EDGE: dict[str, Any] = {"color": PURPLE, "linewidth": 1.0, "alpha": 0.6, "zorder": 2.2, "marker": "_", "markersize": 8}
FILL: dict[str, Any] = {"color": PURPLE, "linewidth": 0, "alpha": 0.16, "zorder": 2}


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure; `artifact.needs` names the one metric on the y axis. Full finetuning is drawn as in figure 1."""
    (need,) = artifact.needs
    adapters = {method.name for method in points.methods if method.kind == "lora"}
    others = [method for method in points.methods if method.name not in adapters]
    looks = style.looks(others)

    def panel_of(ax: Axes, panel: Panel) -> None:
        band = [(duration, _spread(those)) for duration, those in _by_duration(panel, adapters, need).items()]
        own = [point.estimates[need] for point in panel.points if point.method not in adapters]
        style.score_axis(ax, panel, need, [*own, *(spread for _, spread in band)], points.scale)
        if band:
            at, low, high = zip(*((duration, spread.low, spread.high) for duration, spread in band), strict=True)
            ax.fill_between(at, low, high, gid="LoRA", **FILL)
            ax.plot(at, low, gid="LoRA, lowest", **EDGE)
            ax.plot(at, high, gid="LoRA, highest", **EDGE)
            # a band is its own bar, but that of one duration has no width
            line = [(at, replace(one, low=one.value, high=one.value)) for at, one in band] if len(band) > 1 else band
            style.curve(ax, PURPLE, "LoRA", line)
        for method in others:
            series = [(point.duration.value, point.estimates[need]) for point in panel.series(method)]
            style.curve(ax, looks[method.name].colour, method.name, series, looks[method.name].dashes)
        for point in panel.printed:
            colour = looks[point.method].colour if point.method in looks else PURPLE
            style.overlay(ax, point.duration.value, point.estimates[need].value, colour)
        style.duration_axis(ax, panel.durations, panel.unit)

    shown, notes = list(looks.values()), style.meanings(artifact.needs, points)
    if adapters:
        shown.insert(0, style.Look(PURPLE, "LoRA, mean"))
        notes.append(_configurations(points, adapters, need))
    based = any(need in panel.base for panel in points.panels)
    legend = style.look_handles(points, shown, style.base_level_handle() if based else None)
    if adapters:
        square = Line2D([], [], linestyle="none", marker="s", markersize=13, color=PURPLE, alpha=0.3)
        square.set_label("LoRA, lowest to highest")
        legend.insert(1, square)
    return style.page(artifact, points, commit, [style.View(panel_of)], [legend], style.below(points), notes)


def _by_duration(panel: Panel, adapters: set[str], need: str) -> dict[float, list[Estimate]]:
    """The estimates of the LoRA configurations that are there, by duration in its order."""
    found: dict[float, list[Estimate]] = {}
    for point in panel.points:
        if point.method in adapters:
            found.setdefault(point.duration.value, []).append(point.estimates[need])
    return found


def _spread(those: list[Estimate]) -> Estimate:
    """Mean, lowest and highest of several estimates."""
    values = [estimate.value for estimate in those]
    return Estimate(fmean(values), min(values), max(values), len(values), all(one.trained for one in those))


def _configurations(points: Points, adapters: set[str], need: str) -> str:
    """How many LoRA configurations a band is of, and which."""
    counts = sorted({len(those) for panel in points.panels for those in _by_duration(panel, adapters, need).values()})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    labels = style.looks([method for method in points.methods if method.name in adapters])
    return (
        f"LoRA at one duration: {number} configuration{'s' * (counts != [1])}, of "
        f"{', '.join(look.label for look in labels.values())}"
    )
