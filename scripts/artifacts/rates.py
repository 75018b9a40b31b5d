"""Scores vs. learning rate, one panel per setting and need (figures S1, S2 and S3a, v1's figures 8 and S1).

And losses, of which the lowest is best: those that a sweep chooses rates by.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from scripts.artifacts import style
from scripts.artifacts.points import Panel, Point, Points, amount
from scripts.common.errors import UserError
from scripts.plan.registry import Artifact

VIABLE = 0.9
"""A rate counts as viable from this share of the method's best score on (paper, appendix B.1)."""
RING: dict[str, Any] = {
    "linestyle": "none", "marker": "o", "markerfacecolor": "none", "markersize": style.MARKER + 6,
    "markeredgewidth": 1.4,
}  # fmt: skip
LOWEST_CROSS, NEXT_CROSS = 0.035, 0.05
"""Heights of the crosses at one rate, as shares of the panel's."""
LEVEL: dict[str, Any] = {"linestyle": (0, (1, 2.5)), "linewidth": 1.1}
DECADES = 5  # from so many decades on the powers of ten alone have ticks


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure: a line for each method, its best rate ringed; of learning also the level where rates are viable.

    A rate at which training of a seed diverged is never the best, and has a cross at the panel's bottom.

    Raises UserError where a setting has several durations.
    """
    for panel in points.panels:
        if len(panel.durations) > 1:
            found = ", ".join(duration.label for duration in panel.durations)
            raise UserError(
                f"{artifact.name}: {panel.label} has models of several durations ({found} {panel.unit}), where the "
                "rates of one duration are compared"
            )
    looks = style.looks(points.methods)

    def panel_of(ax: Axes, panel: Panel, need: str) -> None:
        style.score_axis(ax, panel, need, [point.estimates[need] for point in panel.points], points.scale)
        for method in points.methods:
            look, series = looks[method.name], panel.series(method)
            style.curve(ax, look.colour, method.name, [(c.rate, c.estimates[need]) for c in series], look.dashes)
            if best := _best(panel, method.name, need):
                value = best.estimates[need].value
                ax.plot([best.rate], [value], color=look.colour, zorder=4.5, clip_on=False, gid="best", **RING)
                if need == "learning" and _has_shares(panel):
                    gid = f"viable {method.name}"
                    ax.axhline(VIABLE * value, color=look.colour, zorder=1.6, gid=gid, **LEVEL)
        (duration,) = panel.durations
        _rate_axis(ax, [point.rate for point in (*panel.points, *panel.diverged)])
        at: Counter[float] = Counter()
        for method in points.methods:
            for point in (point for point in panel.diverged if point.method == method.name):
                height = LOWEST_CROSS + NEXT_CROSS * at[point.rate]
                style.cross(ax, point.rate, height, looks[method.name].colour, ax.get_xaxis_transform())
                at[point.rate] += 1
        ax.set_xlabel(f"Learning rate (trained for {amount(duration.label, panel.unit)})")

    marks = [Line2D([], [], color=style.QUIET, label="a method's best rate", **RING)]
    notes = style.meanings(artifact.needs, points)
    if "learning" in artifact.needs and any(map(_has_shares, points.panels)):
        marks.append(Line2D([], [], color=style.QUIET, label=f"{VIABLE:.0%} of a method's best", **LEVEL))
        notes.append(_viable_note(points))
    marks += style.cross_handle(points)
    based = any(need in panel.base for panel in points.panels for need in artifact.needs)
    legends = [style.legend_handles(points, style.base_level_handle() if based else None), marks]
    return style.page(
        artifact, points, commit, style.views(artifact.needs, points, panel_of), legends, style.BELOW_TURNED, notes
    )


def _best(panel: Panel, method: str, need: str) -> Point | None:
    """The method's point with the best value; of a tie, the lowest rate; None where a seed diverged at every rate."""
    diverged = {point.rate for point in panel.diverged if point.method == method}
    known = [point for point in panel.points if point.method == method and point.rate not in diverged]
    sign = -1 if panel.shown(need).lower_is_better else 1
    return max(known, key=lambda point: (sign * point.estimates[need].value, -point.rate), default=None)


def _has_shares(panel: Panel) -> bool:
    """Whether a share of the best learning means anything: not of what falls as models get better."""
    return not panel.shown("learning").lower_is_better


def _viable_note(points: Points) -> str:
    """How many rates of each method are viable, of all that were tried, those at which it diverged too."""
    looks = style.looks(points.methods)
    counts = []
    for panel in filter(_has_shares, points.panels):
        own = []
        for method in points.methods:
            values = {point.rate: point.estimates["learning"].value for point in panel.series(method)}
            tried = {*values, *(point.rate for point in panel.diverged if point.method == method.name)}
            if tried:
                best = _best(panel, method.name, "learning")
                least = VIABLE * best.estimates["learning"].value if best else math.inf
                viable = sum(value >= least for value in values.values())
                own.append(f"{looks[method.name].label} {viable} of {len(tried)}")
        counts.append(f"{panel.label}: {', '.join(own)}")
    return f"Rates that learn at least {VIABLE:.0%} of the method's best, which is one of them: {'; '.join(counts)}"


def _rate_axis(ax: Axes, rates: Sequence[float]) -> None:
    """A logarithmic axis that holds the rates, with its labels turned."""
    room = max((max(rates) / min(rates)) ** 0.05, 1.15)
    low, high = min(rates) / room, max(rates) * room
    ticks = _ticks(low, high) or sorted(set(rates))
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([_rate(tick) for tick in ticks], rotation=60, ha="right", rotation_mode="anchor")


def _ticks(low: float, high: float) -> list[float]:
    """Those of 1, 2 and 5 times a power of ten that lie between; of a long axis 1 alone, of a short one none."""
    steps = (1, 2, 5) if high < low * 10**DECADES else (1,)
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [tick for power in powers for step in steps if low <= (tick := float(f"{step}e{power}")) <= high]
    return ticks if len(ticks) > 1 else []


def _rate(rate: float) -> str:
    """`5e-5`, `1.6e-2`."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
