"""Learning or forgetting vs. training duration, one panel per setting (figures 1 and 2)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import style
from scripts.artifacts.points import Panel, Points
from scripts.study.registry import Artifact


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure; `artifact.needs` names the one metric on the y axis."""
    (need,) = artifact.needs
    looks = style.looks(points.methods)

    def panel_of(ax: Axes, panel: Panel) -> None:
        base = panel.base.get(need)
        shown = [cell[need] for cell in panel.cells.values()] + ([base] if base else [])
        if base:
            ax.axhline(base.value, color=style.BASE, linestyle="--", linewidth=1.4, zorder=1.5, gid="base model")
            ax.annotate(
                "base\nmodel", (1, base.value), (5, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", fontsize=8, linespacing=1.0,
            )  # fmt: skip
        for method in points.methods:
            series = panel.series(method, (need,))
            colour = looks[method.name].colour
            x, y = [d.value for d, _ in series], [e.value for _, (e,) in series]
            ax.plot(x, y, color=colour, linewidth=style.LINE, zorder=3, gid=method.name)
            for duration, (estimate,) in series:
                style.bar(ax, duration.value, estimate, colour)
                style.mark(ax, duration.value, estimate.value, colour, estimate.trained)
        ax.set_ylim(*style.limits(shown))
        style.value_axis(ax.yaxis)
        style.duration_axis(ax, panel.durations, panel.unit)
        if need == "learning":
            ax.set_ylabel(style.task_label(panel.learning_task, points.scale))
        else:
            ax.set_ylabel(style.forgetting_label(points.scale))

    based = any(need in panel.base for panel in points.panels)
    base_line = Line2D([], [], color=style.BASE, linestyle="--", linewidth=1.4, label="base model") if based else None
    turned = any(panel.unit in style.TURNED for panel in points.panels)
    below = style.BELOW_TURNED if turned else style.BELOW
    average = "Forgetting average: 1/3 (HellaSwag + ARC-challenge + WinoGrande), higher forgets less"
    notes = [average] if need == "forgetting" else []
    return style.page(artifact, points, commit, panel_of, [style.legend_handles(points, base_line)], below, notes)
