"""Learning against forgetting, one panel per setting (figure 3)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import style
from scripts.artifacts.points import Panel, Points
from scripts.study.registry import Artifact


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure: x the forgetting average, so that right forgets less; y the learning task."""
    looks = style.looks(points.methods)
    durations = {
        unit: sorted({d for p in points.panels if p.unit == unit for d in p.durations}, key=lambda d: d.value)
        for unit in dict.fromkeys(panel.unit for panel in points.panels)
    }
    values = {unit: [duration.value for duration in those] for unit, those in durations.items()}

    def panel_of(ax: Axes, panel: Panel) -> None:
        style.plane(ax, panel, points.scale)
        for method in points.methods:
            series = panel.series(method)
            sizes = [style.marker_size(cell.duration.value, values[panel.unit]) for cell in series]
            style.path(ax, looks[method.name].colour, method.name, series, sizes)

    sizes = [
        [
            Line2D([], [], linestyle="none", label=f"{style.UNITS.get(unit, unit)}:"),
            *(style.size_handle(style.marker_size(d.value, values[unit]), d.label) for d in those),
        ]
        for unit, those in durations.items()
    ]
    legends = [style.legend_handles(points, style.star_handle(points)), *sizes]
    return style.page(artifact, points, commit, [style.View(panel_of)], legends, style.BELOW, [style.AVERAGE])
