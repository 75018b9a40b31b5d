"""Learning against what may be forgotten, a panel per setting and need (figure 3, v1's figures 4 and S5)."""

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import style
from scripts.artifacts.points import Panel, Points
from scripts.plan.registry import Artifact


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure: y the learning task; x every other need of the artifact in turn, so that right forgets less."""
    across = [need for need in artifact.needs if need != "learning"]
    looks = style.looks(points.methods)
    durations = {
        unit: sorted({d for p in points.panels if p.unit == unit for d in p.durations}, key=lambda d: d.value)
        for unit in dict.fromkeys(panel.unit for panel in points.panels)
    }
    values = {unit: [duration.value for duration in those] for unit, those in durations.items()}

    def panel_of(ax: Axes, panel: Panel, need: str) -> None:
        style.plane(ax, panel, points.scale, (need, "learning"))
        for method in points.methods:
            look, series = looks[method.name], panel.series(method)
            sizes = [style.marker_size(point.duration.value, values[panel.unit]) for point in series]
            style.path(ax, look.colour, method.name, series, sizes, (need, "learning"), look.dashes)
        for point in panel.printed:
            size = style.marker_size(point.duration.value, values[panel.unit])
            x, y = point.estimates[need].value, point.estimates["learning"].value
            style.overlay(ax, x, y, looks[point.method].colour, size)

    sizes = [
        [
            Line2D([], [], linestyle="none", label=f"{style.UNITS.get(unit, unit)}:"),
            *(style.size_handle(style.marker_size(d.value, values[unit]), d.label) for d in those),
        ]
        for unit, those in durations.items()
    ]
    stars = (style.star_handle(points, (need, "learning")) for need in across)
    star = next((handle for handle in stars if handle), None)
    notes = [style.average_note(points)] if "forgetting" in across else []
    notes.append(style.turned_note(artifact.needs, points))
    legends = [style.legend_handles(points, star), *sizes]
    views = style.views(across, points, panel_of)
    if len(views) > 1:
        # the x axis says which task, and three panels in a line leave no room to say it twice
        views = [replace(view, title="") for view in views]
    return style.page(artifact, points, commit, views, legends, style.BELOW, notes)
