"""The values behind one panel of a figure: methods down, durations across (tables S1 to S8, S10 to S13)."""

from dataclasses import dataclass
from pathlib import Path

import pandas

from scripts.artifacts import style, words
from scripts.artifacts.points import Estimate, Panel, Points, ShownMethod, read_points, read_rows
from scripts.artifacts.tables import MISSING, Entry, Row, Table
from scripts.common.errors import UserError
from scripts.components.measures import FORGETTING, LEARNING
from scripts.plan.registry import Artifact

MARKS = {"published": "\N{DAGGER}", "printed": "\N{DOUBLE DAGGER}"}


@dataclass(frozen=True)
class Scores:
    """What a CSV holds of one need in one setting.

    `found` has a method and the value of its duration for every estimate; `methods` and `durations` are those of every
    row, whether or not it has a value, a duration as its value to its label.
    """

    need: str
    metric: str
    points: Points
    panel: Panel
    rows: pandas.DataFrame
    methods: tuple[ShownMethod, ...]
    durations: dict[float, str]
    found: dict[tuple[str, float], Estimate]

    @property
    def estimates(self) -> list[Estimate]:
        """All of them, the base model's too."""
        level = self.panel.base.get(self.need)
        return [*self.found.values(), *([level] if level else [])]

    @property
    def seeds(self) -> int:
        """How many are behind an estimate, at most."""
        return max(estimate.seeds for estimate in self.estimates)

    def base(self) -> Entry | None:
        return _entry(self.panel.base.get(self.need), self.rows[self.rows["kind"] == "base"], seeds=1)

    def entry(self, method: ShownMethod, duration: float) -> Entry | None:
        own = self.rows[(self.rows["method"] == method.name) & (self.rows["duration_value"] == duration)]
        return _entry(self.found.get((method.name, duration)), own, self.seeds)


def read_scores(artifact: Artifact, csv: Path, need: str) -> Scores:
    """The scores of the artifact's setting.

    Raises UserError where the CSV is not of the right form or has no value of the setting.
    """
    points, rows = read_points(csv, [need]), read_rows(csv)
    panel = next((panel for panel in points.panels if panel.setting == artifact.setting), None)
    if panel is None:
        raise UserError(f"{csv}: has no value of the setting {artifact.setting}, which {artifact.name} shows")
    metric = panel.learning_task if need == LEARNING else need
    rows = rows[(rows["metric"] == metric) & rows["setting"].isin([panel.setting, ""])]
    tuned = rows[rows["kind"] != "base"]
    durations = tuned.drop_duplicates("duration_value").sort_values("duration_value")
    return Scores(
        need=need,
        metric=metric,
        points=points,
        panel=panel,
        rows=rows,
        methods=tuple(_methods(tuned)),
        durations=dict(zip(durations["duration_value"], durations["duration"], strict=True)),
        found={(point.method, point.duration.value): point.estimates[need] for point in panel.points},
    )


def table(artifact: Artifact, csv: Path, commit: str) -> Table:
    """The table; `artifact.needs` names the one metric, `artifact.setting` the one setting that it shows.

    Every method and duration that has a row in the CSV has its place, whether or not it has a value.

    Raises UserError where the CSV is not of the right form or has no value of the setting.
    """
    (need,) = artifact.needs
    scores = read_scores(artifact, csv, need)
    points, panel = scores.points, scores.panel
    artifact = words.of_points(artifact, points)
    base, looks = scores.base(), style.looks(scores.methods)
    grid = [Row(looks[m.name].label, tuple(scores.entry(m, d) for d in scores.durations)) for m in scores.methods]
    return Table(
        number=artifact.name.replace("table", "").replace("/", "-"),
        heading=artifact.heading,
        title=artifact.title,
        warning=style.demo_warning(points.scale),
        caption=f"{panel.label}, {points.study_title}. {measure(scores)}. {artifact.caption}",
        corner=style.UNITS.get(panel.unit, panel.unit),
        columns=tuple(scores.durations.values()),
        base=base,
        rows=tuple(grid),
        notes=(
            " ".join([*items(scores), *spreads(scores.estimates, scores.seeds)]),
            *absences([base, *(entry for row in grid for entry in row.entries)]),
            *marks(scores.rows),
            *style.footer(artifact, points, commit),
        ),
    )


def _methods(tuned: pandas.DataFrame) -> list[ShownMethod]:
    """Adapters from the lowest to the highest rank, then full finetuning."""
    known = zip(tuned["method"], tuned["kind"], tuned["rank"].fillna(0), strict=True)
    return sorted({ShownMethod(m, k, int(r)) for m, k, r in known}, key=lambda m: (m.kind == "full", m.rank, m.name))


def _entry(estimate: Estimate | None, rows: pandas.DataFrame, seeds: int) -> Entry | None:
    """`rows` are those of the estimate, `seeds` how many an estimate of this table has at most."""
    if estimate is None:
        return None
    if estimate.seeds > 1:
        fewer = f", n={estimate.seeds}" if estimate.seeds < seeds else ""
        spread = f"({estimate.low:.3f}\N{EN DASH}{estimate.high:.3f}{fewer})"
    else:
        spread = f"\N{PLUS-MINUS SIGN} {estimate.high - estimate.value:.3f}" if estimate.has_bar else ""
    marks = "".join(mark for source, mark in MARKS.items() if _has(rows, source))
    return Entry(f"{estimate.value:.3f}", marks, spread)


def _has(rows: pandas.DataFrame, source: str) -> bool:
    """Whether a value comes from `source`."""
    return bool((rows["value"].notna() & (rows["source"] == source)).any())


def measure(scores: Scores) -> str:
    """What a value is."""
    if scores.need == FORGETTING:
        return style.forgetting_note(scores.points)
    shown = scores.panel.shown(scores.need)
    label = style.axis_label(shown, scores.points.scale)
    return ", ".join(filter(None, (label, shown.scored, shown.averaged)))


def marks(rows: pandas.DataFrame) -> list[str]:
    """What the marks at the values of these rows mean."""
    return [f"{mark}: {style.SOURCES[source]}." for source, mark in MARKS.items() if _has(rows, source)]


def items(scores: Scores) -> list[str]:
    """How many test items are behind each value, nothing where the CSV does not say."""
    rows = scores.rows
    counts = pandas.to_numeric(rows.loc[rows["value"].notna(), "items"], errors="coerce").dropna()
    if counts.empty:
        return []
    low, high = int(counts.min()), int(counts.max())
    return [f"{low} test items." if low == high else f"{low} to {high} test items."]


def spreads(estimates: list[Estimate], seeds: int) -> list[str]:
    """What stands beside the values."""
    single = [estimate for estimate in estimates if estimate.seeds == 1]
    notes = [f"Mean of {seeds} seeds, the lowest and the highest in parentheses." if seeds > 1 else "One seed."]
    if any(1 < estimate.seeds < seeds for estimate in estimates):
        notes.append("n: how many seeds, where it is fewer.")
    if any(estimate.has_bar for estimate in single):
        where = ", where there is one seed" if seeds > 1 else ""
        notes.append(f"\N{PLUS-MINUS SIGN}: one standard error over the test items{where}.")
    if any(not estimate.has_bar for estimate in single):
        notes.append("No \N{PLUS-MINUS SIGN}: the standard error is 0 or not known.")
    return notes


def absences(entries: list[Entry | None]) -> list[str]:
    missing = entries.count(None)
    return [f"{MISSING}: missing, {missing} of {len(entries)} values."] if missing else []
