"""The look that all figures share: the paper's colours and marks, the page around the panels, its provenance.

Colours and marks are those of the paper's figures 1 and 2 (v2): LoRA plum, slateblue and darkblue from the
lowest to the highest rank, full finetuning black, the base model a dashed black line, round markers with white
edges, and seaborn's whitegrid. DejaVu Sans comes with matplotlib, so a page looks the same on every machine.
"""

import math
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from scripts.artifacts.points import Duration, Estimate, Origin, Panel, Point, Points, ShownMethod
from scripts.components.asking.shown import Shown
from scripts.components.measures import FORGETTING, LEARNING, SHOWN, averaged
from scripts.components.modules import SETS
from scripts.plan.registry import Artifact
from scripts.study.schema import REGIMES

RANKS = ("plum", "slateblue", "darkblue")
FULL = BASE = "black"
FULL_VARIANTS, LORA_VARIANTS = ("#8a4b14", "#d39a55", "#6e6e6e", "#ababab"), ("#12807a", "#7cc8b8")
"""Of methods that differ from the plain one: none of these is a rank's colour."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.4)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
INK, QUIET, GRID = "#1a1a1a", "#5c5c5c", "#e3e3e3"
BADGE = {"boxstyle": "round,pad=0.45", "facecolor": "#fff1c9", "edgecolor": "#c98a00", "linewidth": 0.9}
DEMO_NOTE = "DEMO STUDY: not the paper's numbers"
LINE, MARKER, BAR = 2.0, 7.5, 0.9
SMALL, LARGE = 5.5, 12.0
STAR: dict[str, Any] = {
    "linestyle": "none", "marker": "*", "markersize": 15.0, "color": BASE, "markeredgecolor": "white",
    "markeredgewidth": 1.0,
}  # fmt: skip
REACH: dict[str, Any] = {"linewidth": 8.0, "alpha": 0.18, "zorder": 1.8, "solid_capstyle": "butt", "gid": "reach"}
PRINTED: dict[str, Any] = {"marker": "D", "markerfacecolor": "none", "markeredgewidth": 1.4}
CROSS: dict[str, Any] = {"linestyle": "none", "marker": "x", "markeredgewidth": 1.7}
PLANE = (FORGETTING, LEARNING)
SCALES = {"demo": "Demo study - not the paper's numbers", "own": "Own model and data - not the paper's"}
WIDE = 4.0  # highest over lowest loss, from which on an axis is logarithmic
UNITS = {"tokens": "Training tokens", "epochs": "Epochs"}
TURNED = ("tokens",)
SOURCES = {
    "trained": "trained here",
    "published": "from published checkpoints",
    "printed": "printed in the paper",
}

# Inches. A page is as wide as its columns need; its height follows from rows, legend and footer.
WIDTH, WIDTH_OF_ONE = 10.0, 9.0
LEFT, RIGHT, EDGE, GAP = 0.9, 0.68, 0.3, 1.36
PANEL, TITLE, BELOW, BELOW_TURNED = 2.65, 0.42, 0.52, 0.8
LEGEND, FOOTER = 0.29, 0.165
BADGE_WIDTH = 3.0
COLUMN_GAP = 1.7  # of the legend, in font sizes


@dataclass(frozen=True)
class Look:
    colour: str
    label: str
    dashes: Any = DASHES[0]


@dataclass(frozen=True)
class View:
    """One way to show a setting; `title` stands over its panels, the setting's regime where it is None."""

    draw: Callable[[Axes, Panel], None]
    title: str | None = None


@dataclass(frozen=True)
class Slot:
    """A panel's place and what is drawn there; `label` stands over its left end, `title` over its right."""

    row: int
    column: int
    draw: Callable[[Axes], None]
    label: str
    title: str = ""
    name: str = ""


@contextmanager
def whitegrid() -> Iterator[None]:
    """Matplotlib's settings for drawing and saving, whatever the machine's own are."""
    settings: dict[Any, Any] = {
        **seaborn.axes_style("whitegrid"),
        "font.sans-serif": ["DejaVu Sans"],
        "axes.axisbelow": True,
        "axes.edgecolor": "#c4c4c4",
        "axes.labelcolor": INK,
        "axes.labelsize": 9.5,
        "axes.linewidth": 0.9,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "pdf.fonttype": 42,
        "svg.hashsalt": "artifacts",
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def looks(methods: Sequence[ShownMethod]) -> dict[str, Look]:
    """Colour, legend label and dashes of each method: adapters from the lowest rank, then full finetuning.

    Adapters are spread over the paper's three colours by rank, then by alpha and modules; those with fewer modules are
    dashed too. Plain full finetuning is black and solid. Variants have other colours, and dashes. A label names alpha
    where it differs within a rank, modules where they differ at all, and a variant always.
    """
    ordered = sorted(methods, key=lambda m: (m.kind == "full", *_place(m)))
    adapters = [m for m in ordered if m.kind == "lora"]
    variants = [m for m in ordered if m.kind == "full" and m.variant]
    colours = {
        **_spread([m for m in adapters if not m.variant], RANKS, alone=1),
        **_spread([m for m in adapters if m.variant], LORA_VARIANTS, alone=0),
        **_spread(variants, FULL_VARIANTS, alone=0),
    }
    kinds = sorted({(m.variant, -modules_size(m.modules), m.modules) for m in adapters})
    dashes = {m.name: kinds.index((m.variant, -modules_size(m.modules), m.modules)) for m in adapters}
    dashes |= {m.name: 1 + number % (len(DASHES) - 1) for number, m in enumerate(variants)}
    told = {"modules"} if len({m.modules for m in adapters}) > 1 else set()
    if len({(m.rank, m.alpha) for m in adapters}) > len({m.rank for m in adapters}):
        told.add("alpha")
    names = {m.name: _label(m, told) for m in ordered}
    labels = list(names.values())
    return {
        m.name: Look(
            colours.get(m.name, to_hex(FULL)),
            names[m.name] if labels.count(names[m.name]) == 1 else f"{names[m.name]}, {m.name}",
            DASHES[dashes.get(m.name, 0) % len(DASHES)],
        )
        for m in ordered
    }


def _label(method: ShownMethod, told: Collection[str]) -> str:
    """`LoRA (r=16, alpha=32, attention), AdamW`, with what is to be told of its alpha and modules."""
    if method.kind != "lora":
        return f"full, {method.variant}" if method.variant else "full finetuning"
    parts = [f"r={method.rank}"]
    if "alpha" in told:
        parts.append(f"alpha={method.alpha:g}")
    if "modules" in told:
        parts.append(modules_label(method.modules))
    return f"LoRA ({', '.join(parts)})" + (f", {method.variant}" if method.variant else "")


def modules_label(modules: str) -> str:
    """`attention`, `MLP`, `MLP without gate`, `all`."""
    return modules.replace("mlp", "MLP") if modules in SETS else modules


def _place(method: ShownMethod) -> tuple[Any, ...]:
    return (
        method.rank,
        method.alpha,
        modules_size(method.modules),
        method.modules,
        _natural(method.variant),
        method.name,
    )


def modules_size(modules: str) -> int:
    """From few adapted modules to all of them; sets without a name come first."""
    return list(SETS).index(modules) if modules in SETS else -1


def _natural(variant: str) -> tuple[str, float]:
    """Sorts `weight decay 5e-05` before `weight decay 0.0001`."""
    words, _, number = variant.rpartition(" ")
    try:
        return words, float(number)
    except ValueError:
        return variant, 0.0


def _spread(methods: Sequence[ShownMethod], palette: Sequence[str], alone: float) -> dict[str, str]:
    """Each method's colour: those at 0, 1, 2, ... of the palette and mixtures between; one method alone has `alone`."""
    places = numpy.linspace(0, len(palette) - 1, len(methods)) if len(methods) > 1 else [alone]
    channels = list(zip(*map(to_rgb, palette), strict=True))

    def mixture(place: float) -> str:
        red, green, blue = (float(numpy.interp(place, range(len(palette)), channel)) for channel in channels)
        return to_hex((red, green, blue))

    return {method.name: mixture(place) for method, place in zip(methods, places, strict=False)}


def axis_label(shown: Shown, scale: str) -> str:
    """`Accuracy in HumanEval`; a demo's items are generated, and the axis says so."""
    return shown.axis + (" (demo)" if scale == "demo" else "")


def need_title(need: str, points: Points) -> str:
    """`learning`, `forgetting`, `MMLU`, `language understanding`: what stands over a column of panels."""
    return need if need == LEARNING else points.known[need].label


def average_note(points: Points) -> str:
    """`Forgetting average: 1/2 (HellaSwag + WinoGrande)`; or `Forgetting: source loss`."""
    if points.known[FORGETTING].lower_is_better:
        return f"Forgetting: {points.known[points.averaged[0]].label}"
    return f"{SHOWN[FORGETTING].axis}: {averaged(points.averaged, points.known)}"


def forgetting_note(points: Points) -> str:
    """`average_note`, and which way it goes."""
    way = "lower" if points.known[FORGETTING].lower_is_better else "higher"
    return f"{average_note(points)}, {way} forgets less"


def turned_note(needs: Sequence[str], points: Points) -> str:
    """What is said of axes along which values fall; empty where there is none."""
    falls = any(panel.shown(need).lower_is_better for panel in points.panels for need in needs)
    return "Axes of what falls as models get better are turned round: up, or right, is better" if falls else ""


def meanings(needs: Sequence[str], points: Points) -> list[str]:
    """Notes on those needs that are no accuracy of one task."""
    notes = [
        forgetting_note(points) if need == FORGETTING else points.known[need].note
        for need in needs
        if need in points.known
    ]
    return [note for note in (*notes, turned_note(needs, points)) if note]


def limits(estimates: Sequence[Estimate], shown: Shown) -> tuple[float, float]:
    """Axis limits for what is shown: all values and bars, room around them, nothing far beyond what it can be.

    The better end comes last, so that the axis of what falls as models get better is turned round.
    """
    low = min(min(e.low, e.value - e.reach) for e in estimates)
    high = max(max(e.high, e.value + e.reach) for e in estimates)
    span = max(high - low, 0.04)
    middle = (low + high) / 2
    low, high = middle - 0.58 * span, middle + 0.58 * span
    # A sliver beyond the ends keeps a marker that lies there whole.
    ends = max(low, shown.least - 0.04 * span), min(high, shown.most + 0.04 * span)
    return ends[::-1] if shown.lower_is_better else ends


def value_axis(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def duration_axis(ax: Axes, durations: Sequence[Duration], unit: str, scale: str = "log") -> None:
    """Durations on a log2 or a linear axis, with their exact labels; tokens have long labels, so they are turned.

    On a linear axis the short ones stand close together, and a label that has no room is left out.
    """
    first, last = durations[0].value, durations[-1].value
    if scale == "log":
        ax.set_xscale("log", base=2)
        room = max((last / first) ** 0.06, 2**0.2)
        ax.set_xlim(first / room, last * room)
    else:
        ax.set_xlim(-0.04 * last, 1.04 * last)
        durations = _apart(durations, 0.07 * last)
    ax.xaxis.set_major_locator(FixedLocator([duration.value for duration in durations]))
    ax.xaxis.set_minor_locator(NullLocator())
    turned: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if unit in TURNED else {}
    ax.set_xticklabels([duration.label for duration in durations], **turned)
    ax.set_xlabel(UNITS.get(unit, unit))


def _apart(durations: Sequence[Duration], least: float) -> list[Duration]:
    """From the longest down, those that are `least` apart."""
    kept: list[Duration] = []
    for duration in reversed(durations):
        if not kept or kept[-1].value - duration.value >= least:
            kept.append(duration)
    return kept[::-1]


def loss_axis(ax: Axes, low: float, high: float, logarithmic: bool) -> None:
    """Losses from `low` to `high` with room around them; logarithmic where a linear axis would flatten the small."""
    if logarithmic:
        room = max(high / low, 1.2) ** 0.08
        ax.set_yscale("log")
        ax.set_ylim(low / room, high * room)
    else:
        margin = 0.08 * max(high - low, 0.2 * high)
        ax.set_ylim(low - margin, high + margin)
    # A logarithmic axis that spans little has too few of these round numbers inside.
    powers = logarithmic and high > WIDE * low
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)) if powers else MaxNLocator(9, steps=[1, 2, 5, 10]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def score_axis(ax: Axes, panel: Panel, need: str, estimates: Sequence[Estimate], scale: str) -> None:
    """A need up a panel: limits that hold `estimates` and the base model, which is drawn too, and its label.

    Where lower is better the axis is turned round, and values that lie far apart have a logarithmic one.
    """
    base = panel.base.get(need)
    if base:
        base_level(ax, base)
    printed = [point.estimates[need] for point in panel.printed]
    shown, drawn = panel.shown(need), [*estimates, *printed, *([base] if base else [])]
    ends = [end for one in drawn for end in (one.value, one.low, one.high)]
    if shown.lower_is_better and max(ends) > WIDE * min(ends) > 0:
        loss_axis(ax, min(ends), max(ends), logarithmic=True)
        ax.invert_yaxis()
    else:
        ax.set_ylim(*limits(drawn, shown))
        value_axis(ax.yaxis)
    ax.set_ylabel(axis_label(shown, scale))


def marker(colour: str, trained: bool) -> dict[str, Any]:
    """A round marker: filled with a white edge where a model was trained here, hollow where it was not."""
    face, edge, width = (colour, "white", 1.0) if trained else ("white", colour, 1.6)
    return {"marker": "o", "markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": width}


def mark(ax: Axes, x: float, y: float, colour: str, trained: bool, size: float = MARKER) -> None:
    """One model."""
    ax.plot([x], [y], linestyle="none", markersize=size, zorder=4, clip_on=False, **marker(colour, trained))


def overlay(ax: Axes, x: float, y: float, colour: str, size: float = MARKER) -> None:
    """One number that the paper prints, over the study's own: hollow, and joined by no line."""
    ax.plot([x], [y], linestyle="none", markersize=1.2 * size, zorder=5, clip_on=False, gid="printed",
            **PRINTED, markeredgecolor=colour)  # fmt: skip


def cross(ax: Axes, x: float, y: float, colour: str, transform: Any, size: float = 0.8 * MARKER) -> None:
    """One model that diverged, in the transform's coordinates: it has no score, and stands at the panel's bottom."""
    ax.plot([x], [y], markersize=size, color=colour, transform=transform, zorder=5, clip_on=False, gid="diverged",
            **CROSS)  # fmt: skip


def cross_handle(points: Points) -> list[Line2D]:
    """The legend entry of models that diverged, where a panel has one."""
    if not any(panel.diverged for panel in points.panels):
        return []
    label = "diverged, no score"
    return [Line2D([], [], markersize=0.8 * MARKER, color=QUIET, label=label, **CROSS)]


def bar(ax: Axes, at: float, estimate: Estimate, colour: str, horizontal: bool = False) -> None:
    """The thin bar of an estimate, where it has one; and the wide one, where a repetition may lie."""
    looks: list[tuple[bool, float, float, dict[str, Any]]] = [
        (estimate.reach > 0, estimate.value - estimate.reach, estimate.value + estimate.reach, REACH),
        (estimate.has_bar, estimate.low, estimate.high, {"linewidth": BAR, "alpha": 0.5, "zorder": 2}),
    ]
    for there, low, high, look in looks:
        if there:
            ends, fixed = [low, high], [at, at]
            ax.plot(*((ends, fixed) if horizontal else (fixed, ends)), color=colour, **look)


def marker_size(value: float, among: Sequence[float]) -> float:
    """Diameter in points; grows with the log of the value from the lowest to the highest of its kind."""
    first, last = min(among), max(among)
    if first == last:
        return (SMALL + LARGE) / 2
    return SMALL + (LARGE - SMALL) * math.log(value / first) / math.log(last / first)


def curve(ax: Axes, colour: str, name: str, series: Sequence[tuple[float, Estimate]], dashes: Any = DASHES[0]) -> None:
    """A method's estimates, each at its x: a line, bars and markers."""
    line: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": LINE}
    ax.plot([x for x, _ in series], [y.value for _, y in series], zorder=3, gid=name, **line)
    for x, y in series:
        bar(ax, x, y, colour)
        mark(ax, x, y.value, colour, y.trained)


def base_level(ax: Axes, base: Estimate) -> None:
    """The base model as a dashed line across a panel."""
    ax.axhline(base.value, color=BASE, linestyle="--", linewidth=1.4, zorder=1.5, gid="base model")
    ax.annotate(
        "base\nmodel", (1, base.value), (5, 0), xycoords=("axes fraction", "data"),
        textcoords="offset points", va="center", fontsize=8, linespacing=1.0,
    )  # fmt: skip


def base_level_handle() -> Line2D:
    return Line2D([], [], color=BASE, linestyle="--", linewidth=1.4, label="base model")


def plane(ax: Axes, panel: Panel, scale: str, needs: tuple[str, str] = PLANE) -> None:
    """The axes of a trade-off: x what may be forgotten, so that right forgets less; y the learning task.

    The base model is a star. The limits hold every point of the panel.
    """
    x, y = needs
    cells = [point.estimates for point in (*panel.points, *panel.printed)]
    if set(needs) <= set(panel.base):
        cells.append(panel.base)
        ax.plot(*([panel.base[need].value] for need in needs), zorder=3.5, gid="base model", clip_on=False, **STAR)
    ax.set_xlim(*limits([estimates[x] for estimates in cells], panel.shown(x)))
    ax.set_ylim(*limits([estimates[y] for estimates in cells], panel.shown(y)))
    value_axis(ax.xaxis)
    value_axis(ax.yaxis)
    across, up = (axis_label(panel.shown(need), scale) for need in needs)
    ax.set_xlabel(f"{across}{', forgets less' if needs == PLANE else ''} \N{RIGHTWARDS ARROW}")
    ax.set_ylabel(f"{up} \N{RIGHTWARDS ARROW}")


def path(
    ax: Axes,
    colour: str,
    name: str,
    series: Sequence[Point],
    sizes: Sequence[float],
    needs: tuple[str, str] = PLANE,
    dashes: Any = DASHES[0],
) -> None:
    """A method's points on a plane, joined in their order, each a marker of its size with bars both ways."""
    places = [tuple(point.estimates[need] for need in needs) for point in series]
    line: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.5}
    ax.plot([x.value for x, _ in places], [y.value for _, y in places], zorder=3, gid=name, **line)
    for (x, y), size in zip(places, sizes, strict=True):
        bar(ax, x.value, y, colour)
        bar(ax, y.value, x, colour, horizontal=True)
        mark(ax, x.value, y.value, colour, x.trained and y.trained, size)


def star_handle(points: Points, needs: tuple[str, str] = PLANE) -> Line2D | None:
    """The legend entry of the star, where a panel has one."""
    based = any(set(needs) <= set(panel.base) for panel in points.panels)
    return Line2D([], [], label="base model", **STAR) if based else None


def size_handle(size: float, label: str) -> Line2D:
    """The legend entry of a marker's size."""
    return Line2D(
        [], [], linestyle="none", marker="o", markersize=size, color=QUIET, markeredgecolor="white", label=label
    )


def legend_handles(points: Points, base: Line2D | None) -> list[Line2D]:
    """Legend entries: the methods, the base model, and what is filled and hollow where a figure has both."""
    return look_handles(points, looks(points.methods).values(), base)


def look_handles(points: Points, shown: Iterable[Look], base: Line2D | None) -> list[Line2D]:
    """Legend entries of lines that are not one for each method; see `legend_handles`."""
    ours = "trained" in points.sources
    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            linestyle=look.dashes,
            linewidth=LINE,
            markersize=MARKER,
            label=look.label,
            **marker(look.colour, ours),
        )
        for look in shown
    ]
    if base:
        handles.append(base)
    over = any(panel.printed for panel in points.panels)
    apart = {"trained", "printed"} if over else {"trained"}
    others = " or ".join(SOURCES[source] for source in points.sources if source not in apart)
    if ours and others:
        for label, trained in ((SOURCES["trained"], True), (others, False)):
            handles.append(Line2D([], [], linestyle="none", markersize=MARKER, label=label, **marker(QUIET, trained)))
    if over:
        shape = {**PRINTED, "markeredgecolor": QUIET, "markersize": 1.2 * MARKER}
        handles.append(Line2D([], [], linestyle="none", label=SOURCES["printed"], **shape))
    return handles


def views(needs: Sequence[str], points: Points, draw: Callable[[Axes, Panel, str], None]) -> list[View]:
    """A view for each need, with the need's title where there are several."""

    def view(need: str) -> View:
        return View(lambda ax, panel: draw(ax, panel, need), need_title(need, points) if len(needs) > 1 else None)

    return [view(need) for need in needs]


def below(points: Points) -> float:
    """The room that labels of durations take under a panel, in inches."""
    return BELOW_TURNED if any(panel.unit in TURNED for panel in points.panels) else BELOW


def sources_note(points: Origin) -> str:
    """Where the points come from: `all points trained here`, or how many come from each source."""
    if not points.sources:
        return "computed, without any training" if not points.missing else "nothing is there yet"
    if len(points.sources) == 1:
        note = f"all points {SOURCES[next(iter(points.sources))]}"
    else:
        note = ", ".join(f"{n} point{'s' * (n > 1)} {SOURCES[source]}" for source, n in points.sources.items())
    if points.base_source not in (None, "trained") and set(points.sources) != {points.base_source}:
        note += f"; base model {SOURCES[points.base_source]}"
    if points.missing:
        note += f"; {points.missing} more not there yet"
    if points.diverged:
        note += f"; {points.diverged} diverged"
    return note


def bars_note(points: Points) -> str:
    """What the bars of this figure mean, empty where it has none."""
    drawn = [estimate for panel in points.panels for estimate in panel.estimates()]
    seeds = sorted({estimate.seeds for estimate in drawn if estimate.seeds > 1})
    notes = []
    if any(estimate.seeds == 1 and estimate.has_bar for estimate in drawn):
        notes.append("Thin bars: one standard error over the test items")
    if any(estimate.reach for estimate in drawn):
        notes.append("Wide pale bars: where two of three repetitions lie (another seed; other CPUs round otherwise)")
    if seeds:
        count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        notes.append(f"Points of {count} seeds: mean, thin bar from lowest to highest")
    return ". ".join(notes)


def provenance(artifact: Artifact, points: Origin, commit: str) -> dict[str, str]:
    """What a footer and a file's metadata say about where a figure comes from."""
    return {
        "artifact": f"{artifact.name} ({artifact.edition})",
        "study": points.study,
        "model": points.model,
        "scale": points.scale,
        "fingerprint": points.fingerprint,
        "values": points.made.values,
        **({"collected": points.made.commit} if points.made.commit else {}),
        "commit": commit,
        "points": sources_note(points),
    }


def scale_note(scale: str) -> list[str]:
    """What the first statement of a footer begins with, where a study is not of the paper's scale."""
    return [note] if (note := SCALES.get(scale)) else []


def demo_warning(scale: str) -> str:
    """The sentence that stands over the table of a demo; else empty."""
    return f"{SCALES[scale]}." if scale == "demo" else ""


def footer(artifact: Artifact, points: Origin, commit: str) -> tuple[str, str]:
    """Two statements: what was studied, and where the numbers and the drawing come from."""
    facts = provenance(artifact, points, commit)
    said = [facts["artifact"], f"study: {facts['study']}", f"model: {facts['model']}"]
    what = " · ".join([*scale_note(points.scale), *said])
    made = f"fingerprint {facts['fingerprint']} · {points.made.words} · drawn at commit {facts['commit']}"
    where = f"{facts['points']} · {made}"
    return what, where[0].upper() + where[1:]


def choice_note(points: Points) -> str:
    """What a reader of target losses should know where these chose the learning rates; else empty."""
    if not points.chosen_by_loss:
        return ""
    return (
        "The study's sweep chooses learning rates by the target loss on these same held-out records: at a chosen rate "
        "it looks a little better than it is"
    )


def page(
    artifact: Artifact,
    points: Points,
    commit: str,
    views: Sequence[View],
    legends: Sequence[Sequence[Line2D]],
    below: float,
    notes: Sequence[str] = (),
    reading: str = "",
) -> Figure:
    """A whole figure of scores: one panel per setting and view; see `sheet`.

    With one view columns are regimes and rows are domains, as in the paper, and one or two panels stand in one
    line. With several each setting has a row and each view a column.
    """
    places = _places(points.panels) if len(views) == 1 else [(row, 0) for row in range(len(points.panels))]

    def slot(panel: Panel, view: View, row: int, column: int) -> Slot:
        title = REGIMES.get(panel.regime, panel.regime) if view.title is None else view.title
        return Slot(row, column, lambda ax: view.draw(ax, panel), panel.label, title, panel.setting)

    slots = [
        slot(panel, view, row, column + place)
        for panel, (row, column) in zip(points.panels, places, strict=True)
        for place, view in enumerate(views)
    ]
    notes = [bars_note(points), *notes, choice_note(points)]
    return sheet(artifact, points, commit, slots, legends, below, notes, reading)


def sheet(
    artifact: Artifact,
    origin: Origin,
    commit: str,
    slots: Sequence[Slot],
    legends: Sequence[Sequence[Line2D]],
    below: float,
    notes: Sequence[str] = (),
    reading: str = "",
) -> Figure:
    """A whole figure: title, panels, the `legends` one under the other, footer.

    `below` is the room for tick and axis labels under a panel, in inches; `notes` are remarks without a full stop;
    `reading` says over the panels how to read them.
    """
    shape = (1 + max(slot.row for slot in slots), 1 + max(slot.column for slot in slots))

    width = WIDTH if shape[1] > 1 else WIDTH_OF_ONE
    subtitle = _wrap(f"{origin.study_title} · {origin.model}", 9.5, width - 2 * EDGE)
    guide = _wrap(reading, 9, width - 2 * EDGE)
    remarks = ". ".join(note for note in notes if note)
    statements = (f"{remarks}." if remarks else "", *footer(artifact, origin, commit))
    small = [line for statement in statements for line in _wrap(statement, 7.5, width - 2 * EDGE)]
    legend_lines = [line for handles in legends for line in _legend_lines(handles, width - 2 * EDGE)]
    top = 0.62 + 0.19 * len(subtitle) + (0.1 + 0.18 * len(guide) if guide else 0) + TITLE
    bottom = 0.4 + FOOTER * len(small) + LEGEND * len(legend_lines)
    height = top + shape[0] * (PANEL + below) + (shape[0] - 1) * TITLE + bottom
    panel_width = (width - LEFT - RIGHT - (shape[1] - 1) * GAP) / shape[1]
    figure = Figure(figsize=(width, height), facecolor="white")

    for letter, slot in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", slots, strict=False):
        left = LEFT + slot.column * (panel_width + GAP)
        low = height - top - slot.row * (PANEL + below + TITLE) - PANEL
        ax = figure.add_axes((left / width, low / height, panel_width / width, PANEL / height), label=slot.name)
        over: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "baseline"}
        ax.annotate(letter, (0, 1), (0, 8), fontsize=13, fontweight="bold", **over)
        ax.annotate(slot.label, (0, 1), (19, 8), fontsize=11, **over)
        ax.annotate(slot.title, (1, 1), (0, 8), fontsize=9, color=QUIET, ha="right", **over)
        slot.draw(ax)

    def text(x: float, y: float, content: str, **options: Any) -> None:
        figure.text(x / width, y / height, content, **options)

    # a long title gets smaller, so that it does not run under the badge
    room = width - 2 * EDGE - (BADGE_WIDTH if origin.scale == "demo" else 0.0)
    size = min(14.0, room * 72 / (0.66 * len(artifact.heading)))
    text(EDGE, height - 0.42, artifact.heading, fontsize=size, fontweight="bold", va="baseline")
    for line, content in enumerate(subtitle):
        text(EDGE, height - 0.66 - 0.19 * line, content, fontsize=9.5, color=QUIET, va="baseline")
    for line, content in enumerate(guide):
        below_subtitle = height - 0.78 - 0.19 * len(subtitle)
        text(EDGE, below_subtitle - 0.18 * line, content, fontsize=9, va="baseline", gid="reading")
    if origin.scale == "demo":
        text(width - EDGE - 0.06, height - 0.39, DEMO_NOTE, fontsize=8.5, fontweight="bold", color="#6b4a00",
             ha="right", va="center", bbox=BADGE)  # fmt: skip
    for line, content in enumerate(reversed(small)):
        text(EDGE, 0.18 + FOOTER * line, content, fontsize=7.5, color=QUIET, va="baseline", gid="footer")
    for line, handles in enumerate(legend_lines):
        figure.legend(
            handles=handles, loc="center", ncols=len(handles), frameon=False, fontsize=9.5, handletextpad=0.5,
            columnspacing=COLUMN_GAP, handlelength=_handle_length(handles), borderaxespad=0,
            bbox_to_anchor=(0.5, (bottom - 0.06 - LEGEND * (line + 0.5)) / height),
        )  # fmt: skip
    return figure


def _places(panels: Sequence[Panel]) -> list[tuple[int, int]]:
    """Row and column of each panel where there is one for each setting."""
    if len(panels) <= 2:
        return [(0, column) for column in range(len(panels))]
    columns = sorted({panel.regime for panel in panels}, key=[*REGIMES, *(p.regime for p in panels)].index)
    rows = list(dict.fromkeys(panel.domain for panel in panels))
    return [(rows.index(panel.domain), columns.index(panel.regime)) for panel in panels]


def _wrap(text: str, points: float, inches: float) -> list[str]:
    """Lines that fit; a letter of DejaVu Sans is on average less than 0.57 of the font size wide."""
    return textwrap.wrap(text, int(inches * 72 / (0.57 * points)), break_on_hyphens=False)


def _handle_length(handles: Sequence[Line2D]) -> float:
    if all(handle.get_linestyle() == "None" for handle in handles):
        return 1.2
    # dashes must show on both sides of a marker
    return 3.6 if any(handle.is_dashed() and handle.get_marker() == "o" for handle in handles) else 2.4


def _legend_lines(handles: Sequence[Line2D], inches: float) -> list[list[Line2D]]:
    """Legend entries in as few lines as fit."""
    lines: list[list[Line2D]] = [[]]
    used = 0.0
    for handle in handles:
        letters = 0.57 * len(str(handle.get_label())) + 0.5 + COLUMN_GAP + _handle_length(handles)
        if lines[-1] and (used + letters) * 9.5 / 72 > inches:
            lines.append([])
            used = 0.0
        lines[-1].append(handle)
        used += letters
    return lines
