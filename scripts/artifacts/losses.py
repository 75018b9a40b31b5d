"""Held-out losses vs. training tokens, two panels per setting: of the data being learned, and of pretraining's data."""

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.artifacts import style
from scripts.artifacts.points import Duration, Panel, Points, amount
from scripts.common.quantities import format_tokens
from scripts.components.measures import SOURCE_LOSS, TARGET_LOSS
from scripts.plan.registry import Artifact

READING = (
    "How to read: lower is better in both columns. Left is the loss on held-out records of the data that a model is "
    "finetuned on: the lower, the more was learned. Right is the loss on held-out records of the data that the base "
    "model was pretrained on: the higher above the base model, the more was forgotten."
)


def draw(artifact: Artifact, points: Points, commit: str) -> Figure:
    """The figure: left the target loss, right the source loss, each with its own scale.

    Source losses are all of the same records, so their panels have the same limits.
    """
    looks = style.looks(points.methods)
    spans = {
        (need, panel.setting): _span([panel], need) for panel in points.panels for need in (SOURCE_LOSS, TARGET_LOSS)
    }
    spans |= {(SOURCE_LOSS, panel.setting): _span(points.panels, SOURCE_LOSS) for panel in points.panels}
    wide = {need for (need, _), (low, high) in spans.items() if high > style.WIDE * low}

    def panel_of(ax: Axes, panel: Panel, need: str) -> None:
        if need in panel.base:
            style.base_level(ax, panel.base[need])
        for method in points.methods:
            series = [(point.tokens, point.estimates[need]) for point in panel.series(method)]
            style.curve(ax, looks[method.name].colour, method.name, series)
        style.loss_axis(ax, *spans[need, panel.setting], need in wide)
        _token_axis(ax, panel)
        ax.set_ylabel(style.axis_label(panel.shown(need), points.scale))

    views = [
        style.View(lambda ax, panel: panel_of(ax, panel, TARGET_LOSS), "learned: the finetuning data"),
        style.View(lambda ax, panel: panel_of(ax, panel, SOURCE_LOSS), "forgotten: the pretraining data"),
    ]
    based = any(panel.base for panel in points.panels)
    legends = [style.legend_handles(points, style.base_level_handle() if based else None)]
    return style.page(artifact, points, commit, views, legends, style.BELOW_TURNED, reading=READING)


def _span(panels: Iterable[Panel], need: str) -> tuple[float, float]:
    """The lowest and the highest loss that is drawn, with its bars; a bar that reaches 0 counts for nothing."""
    shown = [estimates for panel in panels for estimates in (panel.base, *(point.estimates for point in panel.points))]
    drawn = [estimates[need] for estimates in shown if need in estimates]
    ends = [end for estimate in drawn for end in (estimate.value, estimate.low, estimate.high) if end > 0]
    return min(ends), max(ends)


def _token_axis(ax: Axes, panel: Panel) -> None:
    """Every duration at its training tokens; epochs are named below."""
    tokens = {point.duration: point.tokens for point in panel.points}
    is_tokens = panel.unit == "tokens"
    ticks = [Duration(d.label if is_tokens else _short(tokens[d]), tokens[d]) for d in panel.durations]
    style.duration_axis(ax, ticks, "tokens")
    if not is_tokens:
        *others, last = [duration.label for duration in panel.durations]
        before = f"{', '.join(others)} and " if others else ""
        ax.set_xlabel(f"{ax.get_xlabel()} ({before}{amount(last, panel.unit)})")


def _short(tokens: float) -> str:
    """Three digits: `57.6K`."""
    return format_tokens(int(float(f"{tokens:.3g}")))
