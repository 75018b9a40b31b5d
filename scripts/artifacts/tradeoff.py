"""Learning against forgetting, one panel per setting (figure 3)."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import style
from scripts.artifacts.points import Duration, Panel, Points
from scripts.study.registry import Artifact

NEEDS = ("forgetting", "learning")
SMALL, LARGE, STAR = 5.5, 12.0, 15.0


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure: x the forgetting average, so that right forgets less; y the learning task."""
    looks = style.looks(points.methods)
    durations = {
        unit: sorted({d for p in points.panels if p.unit == unit for d in p.durations}, key=lambda d: d.value)
        for unit in dict.fromkeys(panel.unit for panel in points.panels)
    }

    def panel_of(ax: Axes, panel: Panel) -> None:
        cells = list(panel.cells.values())
        if set(NEEDS) <= set(panel.base):
            cells.append(panel.base)
            at = [[panel.base[need].value] for need in NEEDS]
            ax.plot(
                *at, linestyle="none", marker="*", markersize=STAR, color=style.BASE,
                markeredgecolor="white", markeredgewidth=1.0, zorder=3.5, gid="base model", clip_on=False,
            )  # fmt: skip
        for method in points.methods:
            series = panel.series(method, NEEDS)
            colour = looks[method.name].colour
            x_values, y_values = [x.value for _, (x, _) in series], [y.value for _, (_, y) in series]
            ax.plot(x_values, y_values, color=colour, linewidth=1.5, zorder=3, gid=method.name)
            for duration, (x, y) in series:
                style.bar(ax, x.value, y, colour)
                style.bar(ax, y.value, x, colour, horizontal=True)
                size = marker_size(duration, durations[panel.unit])
                style.mark(ax, x.value, y.value, colour, x.trained and y.trained, size)
        ax.set_xlim(*style.limits([cell["forgetting"] for cell in cells]))
        ax.set_ylim(*style.limits([cell["learning"] for cell in cells]))
        style.value_axis(ax.xaxis)
        style.value_axis(ax.yaxis)
        ax.set_xlabel(f"{style.forgetting_label(points.scale)}, forgets less \N{RIGHTWARDS ARROW}")
        ax.set_ylabel(f"{style.task_label(panel.learning_task, points.scale)} \N{RIGHTWARDS ARROW}")

    star = Line2D([], [], linestyle="none", marker="*", markersize=STAR, color=style.BASE,
                  markeredgecolor="white", label="base model")  # fmt: skip
    based = any(set(NEEDS) <= set(panel.base) for panel in points.panels)
    sizes = [
        [
            Line2D([], [], linestyle="none", label=f"{style.UNITS.get(unit, unit)}:"),
            *(
                Line2D([], [], linestyle="none", marker="o", markersize=marker_size(duration, those),
                       color=style.QUIET, markeredgecolor="white", label=duration.label)
                for duration in those
            ),
        ]
        for unit, those in durations.items()
    ]  # fmt: skip
    average = "Forgetting average: 1/3 (HellaSwag + ARC-challenge + WinoGrande)"
    legends = [style.legend_handles(points, star if based else None), *sizes]
    return style.page(artifact, points, commit, panel_of, legends, style.BELOW, [average])


def marker_size(duration: Duration, among: list[Duration]) -> float:
    """Diameter in points; grows with the log of the duration from the shortest to the longest of its unit."""
    first, last = among[0].value, among[-1].value
    if first == last:
        return (SMALL + LARGE) / 2
    return SMALL + (LARGE - SMALL) * math.log(duration.value / first) / math.log(last / first)
