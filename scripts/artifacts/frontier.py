"""Learning against forgetting at one learning rate per method, and at all of a sweep: two panels per setting."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import style
from scripts.artifacts.points import Panel, Point, Points, amount
from scripts.plan.registry import Artifact

SHADE = "#ececec"
FIRST_CROSS, NEXT_CROSS = (0.035, 0.045), 0.045
"""Where crosses stand, as shares of the panel's width and height."""
RING: dict[str, Any] = {
    "linestyle": "none", "marker": "o", "markerfacecolor": "none", "markeredgecolor": "#e08a00", "markeredgewidth": 1.6,
}  # fmt: skip
READING = "How to read: up has learned more, right has forgotten less; a line joins a method's rates in their order."
GREY = (
    "Grey is what full finetuning's line matches or beats in both (to its right no lower rate was tried). If LoRA "
    "forgot less at equal learning, its lines on the right would run well outside the grey; where they do not, "
    "forgetting is a matter of the rate, not of the method."
)


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure, of a sweep: left the points at the study's own rates, right all of them, on the same axes.

    Rates at which training of a seed diverged are crosses in the lower left corner: a method's from its lowest rate up.
    """
    looks = style.looks(points.methods)

    def panel_of(ax: Axes, panel: Panel, shown: Sequence[Point], diverged: Sequence[Point]) -> None:
        style.plane(ax, panel, points.scale)
        crosses = 0
        for method in points.methods:
            rates = [point.rate for point in (*panel.points, *panel.diverged) if point.method == method.name]
            those = [point for point in shown if point.method == method.name]
            if method.kind == "full":
                _shade(ax, [_place(point) for point in those])
            sizes = [style.marker_size(point.rate, rates) for point in those]
            style.path(ax, looks[method.name].colour, method.name, those, sizes)
            for point, size in zip(those, sizes, strict=True):
                if point.chosen:
                    x, y = _place(point)
                    ax.plot([x], [y], markersize=size + 4, zorder=4.5, clip_on=False, gid="chosen", **RING)
            for point in (point for point in diverged if point.method == method.name):
                size = 0.8 * style.marker_size(point.rate, rates)
                place = (FIRST_CROSS[0] + NEXT_CROSS * crosses, FIRST_CROSS[1])
                style.cross(ax, *place, looks[method.name].colour, ax.transAxes, size)
                crosses += 1
        if not shown and not diverged:
            ax.text(0.5, 0.5, "no rate is chosen yet", transform=ax.transAxes, ha="center", color=style.QUIET)

    def one_rate(ax: Axes, panel: Panel) -> None:
        panel_of(ax, panel, *([point for point in those if point.chosen] for those in (panel.points, panel.diverged)))

    def all_rates(ax: Axes, panel: Panel) -> None:
        panel_of(ax, panel, panel.points, panel.diverged)

    views = [
        style.View(one_rate, "one rate per method, as in the paper"),
        style.View(all_rates, "all rates of the sweep"),
    ]
    sizes = [
        Line2D([], [], linestyle="none", label="A method's learning rates:"),
        style.size_handle(style.SMALL, "lowest"),
        style.size_handle(style.LARGE, "highest"),
        Line2D([], [], markersize=style.MARKER + 4, label="the study's choice", **RING),
        *style.cross_handle(points),
    ]
    reading = READING
    if any(method.kind == "full" for method in points.methods):
        label = "matched or beaten by full finetuning"
        sizes.append(Line2D([], [], linestyle="none", marker="s", markersize=13, color=SHADE, label=label))
        reading = f"{READING} {GREY}"
    legends = [style.legend_handles(points, style.star_handle(points)), sizes]
    notes = [_rates_note(points), style.average_note(points), style.turned_note(style.PLANE, points)]
    if any(panel.diverged for panel in points.panels):
        notes.append("Crosses in the corner: rates at which training diverged, where they stand says nothing")
    return style.page(artifact, points, commit, views, legends, style.BELOW, notes, reading)


def _place(point: Point) -> tuple[float, float]:
    x, y = (point.estimates[need].value for need in style.PLANE)
    return x, y


def _shade(ax: Axes, path: Sequence[tuple[float, float]]) -> None:
    """Fills, inside the panel's limits, what some place on the path matches or beats in both x and y."""
    left, bottom = ax.get_xlim()[0], ax.get_ylim()[0]
    for ends in zip(path, path[1:] or path, strict=False):
        (x, y), (right, low) = sorted(ends)
        top = max(y, low)  # of a segment that rises to the right, its right end beats all the rest
        corners = ([left, x, right, right, left], [top, top, low, bottom, bottom])
        ax.fill(*corners, color=SHADE, linewidth=0, zorder=0.2, gid="as good")


def _rates_note(points: Points) -> str:
    """How long the models of a sweep were trained, and the span of every method's rates."""
    looks = style.looks(points.methods)
    trained = ", ".join(
        f"{panel.label} {amount(duration.label, panel.unit)}" for panel in points.panels for duration in panel.durations
    )
    spans = []
    for method in points.methods:
        those = (point for panel in points.panels for point in (*panel.points, *panel.diverged))
        rates = [point.rate for point in those if point.method == method.name]
        if rates:
            spans.append(f"{looks[method.name].label} {_rate(min(rates))} to {_rate(max(rates))}")
    return f"Training: {trained}. Learning rates: {', '.join(spans)}"


def _rate(rate: float) -> str:
    """`5e-5`, `1.6e-2`."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
