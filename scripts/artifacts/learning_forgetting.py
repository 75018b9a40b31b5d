"""Learning or forgetting vs. training duration, one panel per setting (figures 1 and 2)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.artifacts import style
from scripts.artifacts.points import Panel, Points
from scripts.study.registry import Artifact


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure; `artifact.needs` names the one metric on the y axis."""
    (need,) = artifact.needs
    looks = style.looks(points.methods)

    def panel_of(ax: Axes, panel: Panel) -> None:
        base = panel.base.get(need)
        if base:
            style.base_level(ax, base)
        for method in points.methods:
            series = [(cell.duration.value, cell.estimates[need]) for cell in panel.series(method)]
            style.curve(ax, looks[method.name].colour, method.name, series)
        ax.set_ylim(*style.limits([*panel.estimates(), *([base] if base else [])]))
        style.value_axis(ax.yaxis)
        style.duration_axis(ax, panel.durations, panel.unit)
        if need == "learning":
            ax.set_ylabel(style.task_label(panel.learning_task, points.scale))
        else:
            ax.set_ylabel(style.forgetting_label(points.scale))

    base_line = style.base_level_handle() if any(need in panel.base for panel in points.panels) else None
    turned = any(panel.unit in style.TURNED for panel in points.panels)
    below = style.BELOW_TURNED if turned else style.BELOW
    notes = [f"{style.AVERAGE}, higher forgets less"] if need == "forgetting" else []
    legends = [style.legend_handles(points, base_line)]
    return style.page(artifact, points, commit, [style.View(panel_of)], legends, below, notes)
