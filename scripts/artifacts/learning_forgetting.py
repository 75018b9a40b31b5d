"""Scores vs. training duration, a column of panels for each need (figures 1, 2, 4, S3b to S6, v1's 5, S2 and S4)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.artifacts import style
from scripts.artifacts.points import Panel, Points
from scripts.plan.registry import Artifact

OPTIONS = {"x": ("log", "linear")}
"""The axis of durations; the first is the default."""


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure; `artifact.needs` names what is on the y axes, a column of panels each where there are several."""
    looks = style.looks(points.methods)

    def panel_of(ax: Axes, panel: Panel, need: str) -> None:
        style.score_axis(ax, panel, need, [point.estimates[need] for point in panel.points], points.scale)
        for method in points.methods:
            series = [(point.duration.value, point.estimates[need]) for point in panel.series(method)]
            look = looks[method.name]
            style.curve(ax, look.colour, method.name, series, look.dashes)
        for point in panel.printed:
            style.overlay(ax, point.duration.value, point.estimates[need].value, looks[point.method].colour)
        style.duration_axis(ax, panel.durations, panel.unit, artifact.options.get("x", OPTIONS["x"][0]))

    based = any(need in panel.base for panel in points.panels for need in artifact.needs)
    legends = [style.legend_handles(points, style.base_level_handle() if based else None)]
    views, notes = style.views(artifact.needs, points, panel_of), style.meanings(artifact.needs, points)
    return style.page(artifact, points, commit, views, legends, style.below(points), notes)
