"""All that is measured of one setting: methods down, every metric at every duration across (table S9)."""

from collections.abc import Sequence
from pathlib import Path

import pandas

from scripts.artifacts import style, words
from scripts.artifacts.points import ShownMethod
from scripts.artifacts.score_table import Scores, absences, items, marks, measure, read_scores, spreads
from scripts.artifacts.tables import BASE, Row, Table
from scripts.plan.registry import Artifact


def table(artifact: Artifact, csv: Path, commit: str) -> Table:
    """The table; `artifact.needs` names the metrics from left to right, `artifact.setting` the one setting.

    Every method and duration that has a row of any metric in the CSV has its place, whether or not it has a value.

    Raises UserError where the CSV is not of the right form or a metric has no value of the setting.
    """
    parts = [read_scores(artifact, csv, need) for need in artifact.needs]
    columns = [(part, duration) for part in parts for duration in _durations(parts)]
    methods = _methods(parts)
    looks = style.looks(methods)
    grid = [
        Row(BASE, tuple(part.base() for part, _ in columns)),
        *(Row(looks[m.name].label, tuple(part.entry(m, duration) for part, duration in columns)) for m in methods),
    ]
    # the metric that the most models have says where the models come from
    points = max((part.points for part in parts), key=lambda points: sum(points.sources.values()))
    artifact = words.of_points(artifact, points)
    panel, labels = parts[0].panel, _durations(parts)
    estimates = [estimate for part in parts for estimate in part.estimates]
    # the base model's one value stands under every duration
    absent = [*(part.base() for part in parts), *(entry for row in grid[1:] for entry in row.entries)]
    return Table(
        number=artifact.name.replace("table", "").replace("/", "-"),
        heading=artifact.heading,
        title=artifact.title,
        warning=style.demo_warning(points.scale),
        caption=f"{panel.label}, {points.study_title}. {artifact.caption}",
        corner=style.UNITS.get(panel.unit, panel.unit),
        columns=tuple(f"{_title(part)} {labels[duration]}" for part, duration in columns),
        base=None,
        has_base=False,
        rows=tuple(grid),
        notes=(
            *(" ".join([f"{_title(part)}: {measure(part)}.", *items(part)]) for part in parts),
            " ".join(spreads(estimates, max(part.seeds for part in parts))),
            *absences(absent),
            *marks(pandas.concat(part.rows for part in parts)),
            *style.footer(artifact, points, commit),
        ),
    )


def _title(part: Scores) -> str:
    """`MT-bench`, `GSM8K`, `Forgetting`: what stands over a column."""
    title = style.need_title(part.metric, part.points)
    return title[0].upper() + title[1:]


def _durations(parts: Sequence[Scores]) -> dict[float, str]:
    """Those of every part, in order."""
    return dict(sorted({value: label for part in parts for value, label in part.durations.items()}.items()))


def _methods(parts: Sequence[Scores]) -> list[ShownMethod]:
    """Those of every part: adapters from the lowest to the highest rank, then full finetuning."""
    known = {method for part in parts for method in part.methods}
    return sorted(known, key=lambda m: (m.kind == "full", m.rank, m.name))
