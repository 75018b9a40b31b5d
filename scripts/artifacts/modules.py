"""Scores vs. training duration by what is adapted: a panel for each rank (figure 7, v1's figure 9)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.artifacts import style
from scripts.artifacts.points import Panel, Points, ShownMethod
from scripts.common.errors import UserError
from scripts.components.modules import SETS
from scripts.plan.registry import Artifact

COLOURS = ("#0072b2", "#009e73", "#e69f00", "#cc79a7", "#d55e00", "#56b4e9")
"""Okabe and Ito's, which readers with any colour vision tell apart."""


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure: `artifact.needs` names the one metric on the y axis; a setting has a row, a rank a column.

    Raises UserError where a method adapts no modules, or two adapt the same ones at the same rank.
    """
    (need,) = artifact.needs
    sets = _sets(artifact, points)
    looks = {
        modules: style.Look(
            COLOURS[i % len(COLOURS)], _name(modules), style.DASHES[(len(sets) - 1 - i) % len(style.DASHES)]
        )
        for i, modules in enumerate(sets)
    }
    ranks = sorted({method.rank for method in points.methods})

    def panel_of(ax: Axes, panel: Panel, rank: int) -> None:
        # all ranks of a setting have the same limits
        style.score_axis(ax, panel, need, [point.estimates[need] for point in panel.points], points.scale)
        for method in points.methods:
            if method.rank == rank:
                series = [(point.duration.value, point.estimates[need]) for point in panel.series(method)]
                look = looks[method.modules]
                style.curve(ax, look.colour, method.name, series, look.dashes)
        style.duration_axis(ax, panel.durations, panel.unit)

    def slot(panel: Panel, row: int, rank: int) -> style.Slot:
        name = f"{panel.setting} {rank}"
        return style.Slot(row, ranks.index(rank), lambda ax: panel_of(ax, panel, rank), f"r={rank}", panel.label, name)

    slots = [slot(panel, row, rank) for row, panel in enumerate(points.panels) for rank in ranks]
    based = any(need in panel.base for panel in points.panels)
    legend = style.look_handles(points, looks.values(), style.base_level_handle() if based else None)
    notes = [style.bars_note(points), *style.meanings(artifact.needs, points)]
    return style.sheet(artifact, points, commit, slots, [legend], style.below(points), notes)


def _sets(artifact: Artifact, points: Points) -> list[str]:
    """The sets of adapted modules, from the smallest."""
    seen: dict[tuple[int, str], ShownMethod] = {}
    for method in points.methods:
        if not method.modules:
            raise UserError(f"{artifact.name}: {method.name} adapts no modules, and what LoRA adapts is compared")
        other = seen.setdefault((method.rank, method.modules), method)
        if other is not method:
            raise UserError(
                f"{artifact.name}: {other.name} and {method.name} adapt the same modules at the same rank, where one "
                "method is allowed"
            )
    return sorted({modules for _, modules in seen}, key=lambda modules: (style.modules_size(modules), modules))


def _name(modules: str) -> str:
    """`Attention`, `MLP`, `All`."""
    label = style.modules_label(modules)
    return label[0].upper() + label[1:] if modules in SETS else label
