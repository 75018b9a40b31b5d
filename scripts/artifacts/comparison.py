"""Sets every score that the paper prints beside the study's own: as CSV, as a page to read, and as a picture.

python -m scripts.artifacts.comparison --csv results/comparison.csv --md results/comparison.md \\
    --pdf results/comparison.pdf

What is compared, and the rule, stands in `scripts.artifacts.counterparts`.
"""

import argparse
import csv
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scripts.artifacts import recipes, style
from scripts.artifacts.counterparts import (
    FALSE,
    MODEL,
    WIDTH,
    Agreement,
    Compared,
    compare,
    implied_stderr,
    incomparable,
)
from scripts.artifacts.points import ShownMethod, artifact_fingerprint
from scripts.artifacts.printed import FORGETTING_ITEMS, ITEMS
from scripts.artifacts.provenance import write_record
from scripts.artifacts.published import SCORES, load_published
from scripts.common.checkout import commit
from scripts.common.errors import run
from scripts.common.files import atomic_path
from scripts.components.measures import FORGETTING, SHOWN
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan.evaluation import BASE

COLUMNS = (
    "study", "model", "scale", "artifact", "edition", "setting", "method", "duration", "metric", "published",
    "published_stderr", "published_items", "ours", "ours_stderr", "ours_items", "seeds", "source", "difference",
    "stderr", "verdict", "reason", "conditions", "read_from", "note",
)  # fmt: skip
METRICS = {
    name: SHOWN[name].axis if name == FORGETTING else ", ".join(filter(None, (SHOWN[name].label, SHOWN[name].scored)))
    for name in SCORES
}
MINUS, PLUS_MINUS, DASH = "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}", "\N{EM DASH}"


@dataclass(frozen=True)
class ComparedStudy:
    """What the page and every row of the CSV say of the study; `incomparable` is a sentence, or empty."""

    study: str
    title: str
    model: str
    scale: str
    incomparable: str
    fingerprint: str
    commit: str


def main(launch: Launch, table: Path, text: Path, picture: Path) -> None:
    """Writes the CSV, the page and the picture, and the record of how they were made.

    Raises:
        UserError: the published values or a manifest are malformed.
    """
    recipe = recipes.of_comparison(launch, launch.store.is_made)
    compared = compare(launch, load_published())
    source = source_of(launch, compared)
    with atomic_path(table) as new_table, atomic_path(text) as new_text, atomic_path(picture) as new_picture:
        with new_table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows(compared, source))
        new_text.write_text(page(compared, source), encoding="utf-8", newline="\n")
        with style.whitegrid():
            facts = {"Title": f"The paper's scores beside this study's ({source.title})", "CreationDate": None}
            drawn(compared, source).savefig(new_picture, format="pdf", metadata=facts)
    write_record(recipe, table, text, picture)


def source_of(launch: Launch, compared: Iterable[Compared]) -> ComparedStudy:
    """Which study it is; the fingerprint is of the models that were compared."""
    study = launch.grid.study
    conditions = [condition for one in compared if one.ours for condition in one.ours.conditions]
    return ComparedStudy(
        study=launch.name,
        title=study.title,
        model=study.model.label,
        scale=study.scale,
        incomparable=incomparable(study),
        fingerprint=artifact_fingerprint(conditions) if conditions else "none",
        commit=commit(),
    )


# -- the CSV --------------------------------------------------------------------------------------


def rows(compared: Iterable[Compared], source: ComparedStudy) -> list[dict[str, Any]]:
    """One row for each printed score, with `COLUMNS`; what is not there is empty."""
    return [_row(one, source) for one in compared]


def _row(one: Compared, source: ComparedStudy) -> dict[str, Any]:
    value, ours = one.published, one.ours
    row: dict[str, Any] = {
        "study": source.study,
        "model": source.model,
        "scale": source.scale,
        "artifact": value.artifact,
        "edition": value.edition,
        "setting": value.setting or "",
        "method": value.method,
        "duration": value.duration or "",
        "metric": value.metric,
        "published": value.value,
        "published_stderr": "" if one.published_stderr is None else repr(one.published_stderr),
        "published_items": ITEMS.get(value.metric, ""),
        "verdict": one.verdict,
        "reason": one.reason,
        "read_from": value.read_from,
        "note": value.note,
    }
    if ours:
        row |= {
            "ours": repr(ours.value),
            "ours_stderr": repr(ours.stderr),
            "ours_items": ours.items,
            "seeds": ours.seeds,
            "source": ours.source,
            "difference": repr(one.difference),
            "stderr": repr(one.stderr),
            "conditions": ";".join(ours.conditions),
        }
    return row


# -- the page -------------------------------------------------------------------------------------


def page(compared: Sequence[Compared], source: ComparedStudy) -> str:
    """The page in GitHub's Markdown: what is compared, the counts, the rule, then every artifact's numbers."""
    artifacts = dict.fromkeys(one.published.artifact for one in compared)
    sections = [
        line
        for artifact in artifacts
        for line in _section(artifact, [one for one in compared if one.published.artifact == artifact])
    ]
    return "\n".join([*_head(source), *_counts(compared, source), *_rule(), *sections]) + "\n"


def _head(source: ComparedStudy) -> list[str]:
    lines = ["# The paper's scores beside this study's", ""]
    if source.incomparable:
        lines += [f"> **{source.incomparable}.**", ""]
    return [
        *lines,
        "| | |",
        "|---|---|",
        f"| study | {source.study}: {source.title} |",
        f"| scale | {source.scale} |",
        f"| model | {source.model} (the paper's: {MODEL}) |",
        f"| fingerprint | {source.fingerprint} |",
        f"| compared at commit | {source.commit} |",
        "",
    ]


def count(compared: Iterable[Compared]) -> dict[Agreement, int]:
    """How many of each verdict."""
    found = Counter(one.verdict for one in compared)
    return {verdict: found[verdict] for verdict in Agreement}


def summary(compared: Collection[Compared]) -> str:
    """`3 agree, 1 differs, 4 are not run`."""
    counts = count(compared)
    agree, differ, missing = (counts[verdict] for verdict in Agreement)
    return (
        f"{agree} agree{'s' * (agree == 1)}, {differ} differ{'s' * (differ == 1)}, "
        f"{missing} {'is' if missing == 1 else 'are'} not run"
    )


def _counts(compared: Collection[Compared], source: ComparedStudy) -> list[str]:
    lines = [f"**Of the {len(compared)} scores that the paper prints {summary(compared)}.**"]
    run = sum(one.ours is not None for one in compared)
    if run:
        lines.append(f"By the chance of the items alone up to {FALSE * run:.1f} of the {run} compared would differ.")
    published = sum(one.ours is not None and one.ours.source == "published" for one in compared)
    if published:
        lines.append(
            f"{published} {'is' if published == 1 else 'are'} of the authors' own checkpoints, evaluated here."
        )
    why = Counter(one.reason for one in compared if one.ours is None and not source.incomparable)
    return [
        *lines,
        "",
        "| score | agrees | differs | not run |",
        "|---|---|---|---|",
        *(
            f"| {label} | {' | '.join(str(number) for number in count(own).values())} |"
            for metric, label in METRICS.items()
            if (own := [one for one in compared if one.published.metric == metric])
        ),
        "",
        *(f"- Not run, {number}: {reason}." for reason, number in why.most_common()),
        *([""] if why else []),
    ]


def _rule() -> list[str]:
    items = ", ".join(f"{SHOWN[metric].label} {number}" for metric, number in ITEMS.items() if metric != FORGETTING)
    parts = " + ".join(str(number) for number in FORGETTING_ITEMS.values())
    return f"""## The rule

A printed score and ours **agree** where they are no more than {WIDTH:g} standard errors of their difference apart, and
**differ** otherwise. What has no counterpart in the study, is not evaluated yet, or diverged in training is
**not run**.

* **The published score's error** is what the size of the evaluation implies, since the paper prints none:
  sqrt(p (1 - p) / n) for a score p on n items.
  Items: {items}.
  Of the forgetting average, on {parts} items, only the mean is printed: it is the plain average of
  three such errors at that mean. Where the paper does not say how many items (MMLU, MT-bench) its error is taken to be
  ours.
* **Our error** is that of the evaluation, over its items. Over several seeds the variance of the seeds' scores divided
  by their number is added.
* **The difference's error** is the root of the sum of both squares, as if the two had been asked different items. They
  were asked the same, so it is rather too large, and the rule slow to say that scores differ.
* The paper ran each model once. What another seed would have given it is not in its error, and may be behind a
  difference.
* The paper's estimates of memory are no scores: tables S14 to S16 have them beside their formulae.
""".split("\n")


def _section(artifact: str, compared: Sequence[Compared]) -> list[str]:
    return [
        f"## {artifact}",
        "",
        f"{summary(compared)[:1].upper()}{summary(compared)[1:]}.",
        "",
        f"| score | setting | method | duration | published | ours | difference {PLUS_MINUS} standard error | |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, compared),
        "",
    ]


def _line(one: Compared) -> str:
    value, ours = one.published, one.ours
    cells = [
        METRICS[value.metric],
        value.setting or "",
        "base model" if value.kind == BASE else value.method,
        value.duration or "",
        str(value.value),
        _number(ours.value) if ours else DASH,
        f"{_signed(one.difference)} {PLUS_MINUS} {_number(one.stderr)}" if one.difference is not None else DASH,
        f"**{one.verdict}**" if one.verdict is Agreement.DIFFERS else str(one.verdict),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _signed(value: float) -> str:
    text = f"{abs(value):.3f}"
    return text if float(text) == 0 else f"{MINUS if value < 0 else '+'}{text}"


# -- the picture ----------------------------------------------------------------------------------

# Inches.
PAGE, EDGE, PANEL, ACROSS, DOWN, TOP, BOTTOM = 10.0, 0.3, 2.5, 3.2, 3.35, 1.35, 1.2
COLUMNS_OF_PANELS = 3
DIFFERENT = "#d1495b"


def drawn(compared: Sequence[Compared], source: ComparedStudy) -> Figure:
    """Published scores on x, ours on y, a panel for each; or, where nothing was run, a page that says so.

    Call it within `style.whitegrid`.
    """
    there = [one for one in compared if one.ours]
    panels = [own for metric in METRICS if (own := [one for one in there if one.published.metric == metric])]
    lines = math.ceil(len(panels) / COLUMNS_OF_PANELS)
    height = TOP + lines * DOWN + BOTTOM if panels else 3.2
    figure = Figure(figsize=(PAGE, height), facecolor="white")

    def text(x: float, y: float, content: str, **options: Any) -> None:
        figure.text(x / PAGE, y / height, content, va="baseline", **options)

    text(EDGE, height - 0.42, "The paper's scores beside this study's", fontsize=14, fontweight="bold")
    text(EDGE, height - 0.66, f"{source.title} · {source.model}", fontsize=9.5, color=style.QUIET)
    text(EDGE, height - 0.9, f"Of the {len(compared)} scores that the paper prints {summary(compared)}.", fontsize=9)
    if source.scale == "demo":
        figure.text(
            (PAGE - EDGE - 0.06) / PAGE, (height - 0.39) / height, style.DEMO_NOTE, fontsize=8.5, fontweight="bold",
            color="#6b4a00", ha="right", va="center", bbox=style.BADGE,
        )  # fmt: skip
    study = f"study: {source.study} · model: {source.model}"
    where = f"fingerprint {source.fingerprint} · drawn at commit {source.commit}"
    text(EDGE, 0.18, f"{study} · {where}", fontsize=7.5, color=style.QUIET)
    if not panels:
        text(EDGE, 1.45, "Nothing to draw: no score of this study stands beside one of the paper's.", fontsize=11)
        why = source.incomparable or "None of the models that the paper has scores of has been evaluated yet"
        text(EDGE, 1.15, f"{why}.", fontsize=9, color=style.QUIET)
        return figure

    note = (
        f"Band: {PLUS_MINUS}{WIDTH:g} standard errors of a difference, ours at its mean of the panel; the verdict "
        "takes each number's own."
    )
    text(EDGE, 0.18 + style.FOOTER, note, fontsize=7.5, color=style.QUIET)
    # the colours of all that the paper prints, so that a method has its own however many were run
    looks = style.looks(_methods_of(compared))
    shown = _methods_of(there)
    for number, own in enumerate(panels):
        row, column = divmod(number, COLUMNS_OF_PANELS)
        box = (0.75 + column * ACROSS, height - TOP - row * DOWN - PANEL, PANEL, PANEL)
        metric = own[0].published.metric
        ax = figure.add_axes((box[0] / PAGE, box[1] / height, box[2] / PAGE, box[3] / height), label=metric)
        _panel(ax, own, {name: look.colour for name, look in looks.items()})
    handles: list[Any] = [
        Line2D([], [], linestyle="none", markersize=style.MARKER, label=look.label, **style.marker(look.colour, True))
        for look in (looks[method.name] for method in shown)
    ]
    if any(one.published.kind == BASE for one in there):
        handles.append(Line2D([], [], label="base model", **style.STAR))
    marks: list[Any] = [
        Line2D([], [], color=style.QUIET, linewidth=1.0, label="ours as published"),
        Patch(color=style.GRID, label=f"{PLUS_MINUS}{WIDTH:g} standard errors"),
        Line2D([], [], linestyle="none", marker="o", markersize=11, markerfacecolor="none", markeredgecolor=DIFFERENT,
               markeredgewidth=1.5, label="differs"),
    ]  # fmt: skip
    if any(one.ours and one.ours.source == "published" for one in there):
        look: dict[str, Any] = {"linestyle": "none", "markersize": style.MARKER, **style.marker(style.QUIET, False)}
        marks.append(Line2D([], [], label=style.SOURCES["published"], **look))
    for line, entries in enumerate((handles, marks)):
        figure.legend(
            handles=entries, loc="center", ncols=len(entries), frameon=False, fontsize=9.5, handletextpad=0.5,
            columnspacing=style.COLUMN_GAP, borderaxespad=0,
            bbox_to_anchor=(0.5, (BOTTOM - 0.25 - style.LEGEND * line) / height),
        )  # fmt: skip
    return figure


def _methods_of(compared: Iterable[Compared]) -> list[ShownMethod]:
    """From the lowest to the highest rank, then full finetuning."""
    known = {ShownMethod(one.published.method, one.published.kind, one.published.rank or 0) for one in compared}
    ranked = (method for method in known if method.kind == "full" or method.rank)
    return sorted(ranked, key=lambda m: (m.kind == "full", m.rank, m.name))


def _panel(ax: Axes, compared: Sequence[Compared], colours: dict[str, str]) -> None:
    """One metric: the diagonal with its band, every score, and a ring around those that differ."""
    metric = compared[0].published.metric
    pairs = [(one, one.value, one.ours.value, one.ours.stderr) for one in compared if one.ours]
    ends = [number for _, x, y, _ in pairs for number in (x, y)]
    room = max(0.12 * (max(ends) - min(ends)), 0.02)
    low, high = min(ends) - room, max(ends) + room
    ours = math.sqrt(math.fsum(error * error for *_, error in pairs) / len(pairs))
    grid = numpy.linspace(low, high, 200)
    shares = [implied_stderr(metric, min(max(float(x), 0.0), 1.0)) for x in grid]
    band = numpy.array([WIDTH * math.hypot(ours if share is None else share, ours) for share in shares])
    ax.fill_between(grid, grid - band, grid + band, color=style.GRID, linewidth=0, zorder=1, gid="band")
    ax.plot([low, high], [low, high], color=style.QUIET, linewidth=1.0, zorder=2, gid="equal")
    for one, x, y, _ in pairs:
        if one.published.kind == BASE:
            ax.plot([x], [y], zorder=5, gid="base model", **style.STAR)
        else:
            style.mark(ax, x, y, colours[one.published.method], one.ours is not None and one.ours.source == "trained")
        if one.verdict is Agreement.DIFFERS:
            ax.plot([x], [y], linestyle="none", marker="o", markersize=11, markerfacecolor="none",
                    markeredgecolor=DIFFERENT, markeredgewidth=1.5, zorder=6, gid="differs")  # fmt: skip
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    style.value_axis(ax.xaxis)
    style.value_axis(ax.yaxis)
    ax.set_xlabel("published")
    ax.set_ylabel("ours")
    over: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "baseline"}
    ax.annotate(METRICS[metric], (0, 1), (0, 8), fontsize=10.5, **over)
    counts = count(compared)
    found = f"{counts[Agreement.DIFFERS]} of {len(pairs)} differ"
    ax.annotate(found, (1, 1), (0, 8), fontsize=9, color=style.QUIET, ha="right", **over)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--md", type=Path, required=True)
    parser.add_argument("--pdf", type=Path, required=True)
    launch_options(parser)
    run(lambda arguments: main(current_launch(arguments), arguments.csv, arguments.md, arguments.pdf), parser)
