"""The values behind one panel of a figure: methods down, durations across (tables S1 to S8)."""

from pathlib import Path

import pandas

from scripts.artifacts import style
from scripts.artifacts.points import FORGETTING, Estimate, Method, read_points, read_rows
from scripts.artifacts.tables import MISSING, Entry, Row, Table
from scripts.study.errors import UserError
from scripts.study.registry import Artifact

MEASURES = {"humaneval": "pass@1", "gsm8k": "strict match"}
MARKS = {"published": "\N{DAGGER}", "printed": "\N{DOUBLE DAGGER}"}


def table(artifact: Artifact, csv: Path, commit: str) -> Table:
    """The table; `artifact.needs` names the one metric, `artifact.setting` the one setting that it shows.

    Every method and duration that has a row in the CSV has its place, whether or not it has a value.

    Raises UserError where the CSV is not of the right form or has no value of the setting.
    """
    (need,) = artifact.needs
    points, rows = read_points(csv, artifact.needs), read_rows(csv)
    panel = next((panel for panel in points.panels if panel.setting == artifact.setting), None)
    if panel is None:
        raise UserError(f"{csv}: has no value of the setting {artifact.setting}, which {artifact.name} shows")
    metric = FORGETTING if need == "forgetting" else panel.learning_task
    rows = rows[(rows["metric"] == metric) & rows["setting"].isin([panel.setting, ""])]
    base, tuned = rows[rows["kind"] == "base"], rows[rows["kind"] != "base"]
    methods = _methods(tuned)
    durations = tuned.drop_duplicates("duration_value").sort_values("duration_value")
    level = panel.base.get(need)
    found = {(cell.method, cell.duration.value): cell.estimates[need] for cell in panel.cells}
    estimates = [*found.values(), *([level] if level else [])]
    seeds = max(estimate.seeds for estimate in estimates)

    def entry(method: Method, duration: float) -> Entry | None:
        own = tuned[(tuned["method"] == method.name) & (tuned["duration_value"] == duration)]
        return _entry(found.get((method.name, duration)), own, seeds)

    base_entry = _entry(level, base, seeds=1)
    looks = style.looks(methods)
    grid = [Row(looks[m.name].label, tuple(entry(m, d) for d in durations["duration_value"])) for m in methods]
    what, where = style.footer(artifact, points, commit)
    return Table(
        number=artifact.name.replace("table", "").replace("/", "-"),
        heading=artifact.heading,
        title=artifact.title,
        warning="Demo study - not the paper's numbers." if points.scale == "demo" else "",
        caption=f"{panel.label}, {points.study_title}. {_measure(metric, points.scale)}. {artifact.caption}",
        corner=style.UNITS.get(panel.unit, panel.unit),
        columns=tuple(durations["duration"]),
        base=base_entry,
        rows=tuple(grid),
        notes=(
            " ".join([*_items(rows), *_spreads(estimates, seeds)]),
            *_absences([base_entry, *(entry for row in grid for entry in row.entries)]),
            *(f"{mark}: {style.SOURCES[source]}." for source, mark in MARKS.items() if _has(rows, source)),
            what,
            where,
        ),
    )


def _methods(tuned: pandas.DataFrame) -> list[Method]:
    """Adapters from the lowest to the highest rank, then full finetuning."""
    known = zip(tuned["method"], tuned["kind"], tuned["rank"].fillna(0), strict=True)
    return sorted({Method(m, k, int(r)) for m, k, r in known}, key=lambda m: (m.kind == "full", m.rank, m.name))


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


def _measure(metric: str, scale: str) -> str:
    if metric == FORGETTING:
        return f"{style.AVERAGE}, higher forgets less"
    measure = f", {MEASURES[metric]}" if metric in MEASURES else ""
    return f"{style.task_label(metric, scale)}{measure}"


def _items(rows: pandas.DataFrame) -> list[str]:
    """How many test items are behind each value, nothing where the CSV does not say."""
    counts = pandas.to_numeric(rows.loc[rows["value"].notna(), "items"], errors="coerce").dropna()
    if counts.empty:
        return []
    low, high = int(counts.min()), int(counts.max())
    return [f"{low} test items." if low == high else f"{low} to {high} test items."]


def _spreads(estimates: list[Estimate], seeds: int) -> list[str]:
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


def _absences(entries: list[Entry | None]) -> list[str]:
    missing = entries.count(None)
    return [f"{MISSING}: missing, {missing} of {len(entries)} values."] if missing else []
