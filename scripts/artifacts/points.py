"""What is drawn: a figure's CSV read, checked, and arranged by panel, method, duration and learning rate.

The CSV has one row per (condition, metric):

study, study_title, model    the same in every row
scale                        `demo` or `paper`, the same in every row
setting, setting_label       `code-cpt`, `Code CPT`; empty for the base model (but its target losses name a setting)
domain                       `code`, `math`, `chat` or another; empty for the base model
regime                       `cpt` or `ift`
learning_task                the metric that counts as learning in this setting
method, kind, rank           `lora-r16`; `base`, `full` or `lora`; an integer for LoRA
seed
duration, duration_value     `20B`, 20e9; empty for the base model
duration_unit                `tokens` or `epochs`
tokens                       positions that were trained on; empty for the base model
learning_rate                peak learning rate; empty for the base model, and where a checkpoint's authors do not say
alpha, modules               of LoRA; modules are `all`, `attention`, `mlp`, or names joined by `+`
variant                      in what a condition differs from its setting: `weight decay 5e-05`, `AdamW`; else empty
chosen                       `yes` where that is the study's rate for the method, else `no`; empty for the base model
metric, value, stderr        losses are in bits per byte; a cell that is missing has an empty value, or no row
items                        how many test items
source                       `trained` here, `published` checkpoint, or `printed` in the paper
condition                    the fingerprint of the trained condition, or of the base model
tasks                        what the value is of, joined by `;`: the metric itself, or the tasks that it is made of
evaluations                  the fingerprints of the evaluations of these tasks, joined by `;`
state                        `diverged` where training did, so that there is no value and never will be one; else empty
shown                        only where rows are of the study's own tasks: how figures show them, by their names, as
                             JSON (`scripts.components.asking.shown`); the same in every row
chosen_by                    only where the figure shows what the study's sweep chooses learning rates by:
                             `target_loss`; the same in every row
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas

from scripts.artifacts.provenance import Collected, collected
from scripts.artifacts.repetitions import reach
from scripts.common.errors import UserError
from scripts.components.asking.shown import Shown
from scripts.components.measures import FORGETTING, LEARNING, SHOWN, TARGET_LOSS, forgetting_of
from scripts.components.methods import METHODS

COLUMNS = (
    "study", "study_title", "model", "scale", "setting", "setting_label", "domain", "regime", "learning_task",
    "method", "kind", "rank", "alpha", "modules", "variant", "seed", "duration", "duration_value", "duration_unit",
    "metric", "value", "stderr", "items", "tokens", "learning_rate", "chosen", "source", "condition", "tasks",
    "evaluations", "state",
)  # fmt: skip
NUMBERS = ("rank", "alpha", "duration_value", "tokens", "learning_rate", "value", "stderr")
DIVERGED = "diverged"
SHOWN_OWN, CHOSEN_BY = "shown", "chosen_by"
CHOICES = {
    "scale": ("demo", "own", "paper"),
    "kind": ("base", *METHODS),
    "source": ("trained", "published", "printed"),
    "state": ("", DIVERGED),
}
ABOVE_ZERO = ("duration_value", "tokens", "learning_rate")
REGIMES = ("cpt", "ift")
DOMAINS = ("code", "math", "chat")


@dataclass(frozen=True)
class Estimate:
    """A value (mean over seeds) with the ends of its bar: one standard error, or the range over seeds."""

    value: float
    low: float
    high: float
    seeds: int
    trained: bool
    reach: float = 0.0
    """How far from it a repetition may lie: of one seed, where that is known; see `scripts.artifacts.repetitions`."""

    @property
    def has_bar(self) -> bool:
        return self.high > self.low


@dataclass(frozen=True)
class ShownMethod:
    """A line of a figure. `name` is the method's, followed by its variant where it has one."""

    name: str
    kind: str
    rank: int
    alpha: float = 0.0
    modules: str = ""
    variant: str = ""


@dataclass(frozen=True)
class Duration:
    label: str
    value: float


@dataclass(frozen=True)
class Point:
    """What one point shows: the seeds of a method at one duration and learning rate; `estimates` by need."""

    method: str
    duration: Duration
    rate: float
    chosen: bool
    tokens: float
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class Panel:
    """One setting; `points` in order of duration, then of learning rate, `base` the base model's estimates by need.

    `printed` are the paper's own numbers that are laid over the study's. `diverged` are the points, without estimates,
    at which training of at least one seed diverged.
    """

    setting: str
    label: str
    domain: str
    regime: str
    learning_task: str
    unit: str
    durations: tuple[Duration, ...]
    points: tuple[Point, ...]
    base: dict[str, Estimate]
    printed: tuple[Point, ...] = ()
    diverged: tuple[Point, ...] = ()
    known: Mapping[str, Shown] = field(default_factory=lambda: SHOWN)
    """How each task and measure is shown, the study's own among them."""

    def shown(self, need: str) -> Shown:
        """How a need is shown here: learning as the setting's task is."""
        return self.known[self.learning_task if need == LEARNING else need]

    def series(self, method: ShownMethod) -> list[Point]:
        """The method's points, in order."""
        return [point for point in self.points if point.method == method.name]

    def estimates(self) -> Iterator[Estimate]:
        for point in self.points:
            yield from point.estimates.values()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a figure's numbers come from; `sources` counts what is drawn by `trained`, `published`, `printed`.

    `sources` is empty where nothing was trained for the figure. `missing` is how much of what it should show is not
    there yet, and `diverged` how much never will be, because training diverged. `fingerprint` is of the recipes (see
    `artifact_fingerprint`), `made` of the numbers.
    """

    study: str
    study_title: str
    model: str
    scale: str
    fingerprint: str
    made: Collected
    sources: dict[str, int]
    base_source: str | None = None
    missing: int = 0
    diverged: int = 0


@dataclass(frozen=True, kw_only=True)
class Points(Origin):
    """Everything that a figure of scores shows."""

    methods: tuple[ShownMethod, ...]
    panels: tuple[Panel, ...]
    averaged: tuple[str, ...] = ()
    """The tasks of the forgetting average, where it is shown; or the one that falls where less is forgotten."""
    known: Mapping[str, Shown] = field(default_factory=lambda: SHOWN)
    """How each task and measure is shown, the study's own among them."""
    chosen_by_loss: bool = False
    """Whether the target losses that are shown are of the records by which the study's sweep chooses rates."""


def artifact_fingerprint(conditions: Iterable[str]) -> str:
    """First 12 hex digits of the SHA-256 of the sorted unique condition fingerprints, joined by newlines.

    It is one of recipes: of what was to be trained on what data by which code version, and not of what came out. The
    same recipes on another machine, or averaged by other code, may give other values under it, which have a hash of
    their own (`scripts.artifacts.provenance`).
    """
    text = "\n".join(sorted({condition for condition in conditions if condition}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_points(path: Path | str, needs: Iterable[str], by_rate: bool = False) -> Points:
    """Reads a figure's CSV and arranges the metrics in `needs` for drawing.

    A need is `learning` (the setting's own task) or a metric's name. With `by_rate` a method has one point for each
    learning rate, without it one for each duration whatever the rate; and a method of which every model diverged is
    among the methods.

    Raises UserError, in one sentence, where the file, a column or every drawable row is missing, where a
    cell is not of the right form, or where a value stands twice.
    """
    needs = tuple(needs)
    rows = read_rows(Path(path))
    rows["method"] = rows["method"].str.cat(rows["variant"].where(rows["variant"] == "", ", " + rows["variant"]))
    rows["need"] = rows["metric"]
    if LEARNING in needs:
        # beside the task itself, which may be a need too
        taught = rows[rows["metric"] == rows["learning_task"]].assign(need=LEARNING)
        rows = pandas.concat([rows, taught], ignore_index=True)
    shown, fingerprint = _shown(rows, Path(path)), artifact_fingerprint(rows["condition"])
    known = reach(rows["study"].iloc[0])
    rows["reach"] = [known.get(pair, 0.0) for pair in zip(rows["setting"], rows["metric"], strict=True)]
    rows, printed = _split(rows)
    tuned = rows[(rows["kind"] != "base") & rows["need"].isin(needs)]
    key = ["setting", "method", "duration_value", *(["learning_rate"] if by_rate else [])]
    twice = tuned[tuned.duplicated([*key, "seed", "need"])]
    if len(twice):
        row = twice.iloc[0]
        rate = f" at learning rate {row['learning_rate']:g}" if by_rate else ""
        raise UserError(
            f"{path}: has {row['metric']} of {row['setting']} {row['method']} {row['duration']}{rate} "
            f"(seed {row['seed']}) more than once, where one row is allowed"
        )
    drawn, overlaid = _complete(tuned, key, needs), _complete(printed[printed["need"].isin(needs)], key, needs)
    # a printed number is shown beside the study's own, not instead of it
    overlaid = overlaid.merge(drawn[["setting", "method", "duration_value"]].drop_duplicates())
    if not len(drawn):
        raise UserError(f"{path}: has no row of a finetuned model with a value for {' and '.join(needs)}")
    averaged = _averaged(drawn, Path(path), shown)
    if averaged:
        shown = {**shown, FORGETTING: forgetting_of(averaged, shown)}
    base = rows[(rows["kind"] == "base") & rows["value"].notna()]
    diverged = tuned[tuned["state"] == DIVERGED]
    panels = tuple(
        _panel(str(setting), part, overlaid, diverged, base, key, needs, shown)
        for setting, part in drawn.groupby("setting")
    )
    named = (pandas.concat([drawn, diverged]) if by_rate else drawn).fillna({"rank": 0, "alpha": 0})
    methods = {
        ShownMethod(name, kind, int(rank), float(alpha), modules, variant)
        for name, kind, rank, alpha, modules, variant in zip(
            *(named[column] for column in ("method", "kind", "rank", "alpha", "modules", "variant")), strict=True
        )
    }
    conditions = pandas.concat([drawn, overlaid]).drop_duplicates([*key, "seed"])
    first = rows.iloc[0]
    return Points(
        study=first["study"],
        study_title=first["study_title"],
        model=first["model"],
        scale=first["scale"],
        fingerprint=fingerprint,
        made=collected(Path(path)),
        methods=tuple(sorted(methods, key=lambda m: (m.kind == "full", m.rank, m.modules != "all", m.alpha, m.name))),
        panels=tuple(sorted(panels, key=lambda panel: setting_order(panel.domain, panel.regime, panel.setting))),
        sources={s: n for s in CHOICES["source"] if (n := int((conditions["source"] == s).sum()))},
        base_source=None if base.empty else str(base["source"].iloc[0]),
        averaged=averaged,
        known=shown,
        chosen_by_loss=first.get(CHOSEN_BY) == TARGET_LOSS,
        missing=_count(tuned[tuned["value"].isna() & (tuned["state"] != DIVERGED)], key),
        diverged=_count(diverged, key),
    )


def _shown(rows: pandas.DataFrame, path: Path) -> dict[str, Shown]:
    """How each task and measure is shown; raises UserError where the column `shown` is not what collecting writes."""
    if SHOWN_OWN not in rows.columns:
        return SHOWN
    try:
        own = json.loads(rows[SHOWN_OWN].iloc[0])
        return {**SHOWN, **{name: Shown(**said) for name, said in own.items()}}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {SHOWN_OWN}: must be how tasks are shown, as JSON ({error})") from error


def _averaged(rows: pandas.DataFrame, path: Path, known: Mapping[str, Shown]) -> tuple[str, ...]:
    """The tasks of the forgetting average; raises UserError where rows have other ones, or one that there is not."""
    found = rows.loc[rows["metric"] == FORGETTING, "tasks"].unique()
    if len(found) > 1:
        raise UserError(f"{path}: tasks: must be the same for {FORGETTING} in every row, has {' and '.join(found)}")
    names = tuple(task for text in found for task in text.split(";"))
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{path}: tasks: no task is called {unknown[0]!r}; there are {', '.join(known)}")
    return names


def _count(rows: pandas.DataFrame, key: list[str]) -> int:
    """How many models they are of."""
    return len(rows[[*key, "seed"]].dropna().drop_duplicates())


def _split(rows: pandas.DataFrame) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """The study's own rows, and the paper's numbers that are laid over them (else none)."""
    tuned = rows["kind"] != "base"
    printed = tuned & (rows["source"] == "printed")
    return (rows, rows[:0]) if printed.equals(tuned) else (rows[~printed], rows[printed])


def _complete(rows: pandas.DataFrame, key: list[str], needs: tuple[str, ...]) -> pandas.DataFrame:
    """The rows that are drawn: a point needs all its metrics, and what lacks one is neither drawn nor counted."""
    there = rows[rows["value"].notna()]
    return there[there.groupby(key)["need"].transform("nunique") == len(set(needs))]


def read_rows(path: Path) -> pandas.DataFrame:
    """The rows of an artifact's CSV, checked; numbers as floats (NaN where empty), everything else as text.

    Raises UserError, in one sentence, where the file or a column is missing or a cell is not of the right form.
    """
    rows = read_text(path, COLUMNS)
    to_numbers(rows, NUMBERS, path)
    for column, allowed in CHOICES.items():
        bad = rows.loc[~rows[column].isin(allowed), column]
        if len(bad):
            raise UserError(
                f"{path}: {column}: {bad.iloc[0]!r} in row {bad.index[0] + 2} must be one of "
                f"{', '.join(one or 'empty' for one in allowed)}"
            )
    bad = rows.loc[(rows["state"] == DIVERGED) & rows["value"].notna(), "value"]
    if len(bad):
        raise UserError(f"{path}: value: row {bad.index[0] + 2} is of a model that diverged and must have none")
    tuned = rows[rows["kind"] != "base"]
    for column in ABOVE_ZERO:
        # what the authors of a checkpoint do not say of it is empty
        asked = tuned[(tuned["source"] == "trained") | tuned[column].notna() | (column == "duration_value")]
        bad = asked.loc[~(asked[column] > 0), column]
        if len(bad):
            raise UserError(f"{path}: {column}: row {bad.index[0] + 2} of a finetuned model must be above 0")
    bad = tuned.loc[~tuned["chosen"].isin(["yes", "no"]), "chosen"]
    if len(bad):
        raise UserError(
            f"{path}: chosen: {bad.iloc[0]!r} in row {bad.index[0] + 2} of a finetuned model must be yes or no"
        )
    for column in ("study", "study_title", "model", "scale"):
        if rows[column].nunique() > 1:
            raise UserError(
                f"{path}: {column}: must be the same in every row, has {' and '.join(rows[column].unique())}"
            )
    return rows


def read_text(path: Path, columns: Iterable[str]) -> pandas.DataFrame:
    """The rows of a CSV, every cell as text.

    Raises UserError, in one sentence, where the file or one of `columns` is missing, or there is no row.
    """
    try:
        # a fingerprint such as 12e456789012 must not become a number
        rows = pandas.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is not a CSV with a header line ({' '.join(str(error).split())})") from error
    if lacking := [column for column in columns if column not in rows.columns]:
        raise UserError(f"{path}: lacks the column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}")
    if not len(rows):
        raise UserError(f"{path}: has a header but no rows")
    return rows


def to_numbers(rows: pandas.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Makes the cells of `columns` floats, NaN where empty; raises UserError where one is no number."""
    for column in columns:
        numbers = pandas.to_numeric(rows[column].where(rows[column] != ""), errors="coerce")
        bad = rows.loc[numbers.isna() & (rows[column] != ""), column]
        if len(bad):
            raise UserError(f"{path}: {column}: {bad.iloc[0]!r} in row {bad.index[0] + 2} is not a number")
        rows[column] = numbers


def read_origin(rows: pandas.DataFrame, path: Path) -> Origin:
    """Where the numbers of a CSV come from that are no scores: its columns study, study_title, model, scale, source,
    condition (the last two empty where nothing was trained), value (empty where it is missing) and state, where it has
    these.

    Raises UserError where one of the columns is missing.
    """
    columns = ("study", "study_title", "model", "scale", "source", "condition")
    if lacking := [column for column in columns if column not in rows.columns]:
        raise UserError(f"{path}: lacks the column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}")
    if not len(rows):
        raise UserError(f"{path}: has a header but no rows")
    first = rows.iloc[0]
    shown = rows[rows["value"] != ""] if "value" in rows.columns else rows
    trained = shown[shown["condition"] != ""].drop_duplicates("condition")
    diverged = rows.loc[rows["state"] == DIVERGED, "condition"].nunique() if "state" in rows.columns else 0
    return Origin(
        study=first["study"],
        study_title=first["study_title"],
        model=first["model"],
        scale=first["scale"],
        fingerprint=artifact_fingerprint(rows["condition"]),
        made=collected(path),
        sources={s: n for s in CHOICES["source"] if (n := int((trained["source"] == s).sum()))},
        missing=int(rows["condition"].nunique() - shown["condition"].nunique()) - diverged,
        diverged=diverged,
    )


def _panel(
    setting: str,
    rows: pandas.DataFrame,
    overlaid: pandas.DataFrame,
    diverged: pandas.DataFrame,
    base: pandas.DataFrame,
    key: list[str],
    needs: tuple[str, ...],
    known: Mapping[str, Shown],
) -> Panel:
    first = rows.iloc[0]
    regime = first["regime"].lower()
    own = base[base["setting"].isin([setting, ""])]
    overlaid, diverged = overlaid[overlaid["setting"] == setting], diverged[diverged["setting"] == setting]
    metrics = {need: first["learning_task"] if need == LEARNING else need for need in needs}
    levels = {need: own[own["metric"] == metric].head(1) for need, metric in metrics.items()}
    shown = [_point(part) for _, part in rows.groupby(key)]
    return Panel(
        setting=setting,
        label=first["setting_label"] or setting,
        domain=first["domain"],
        regime=regime,
        learning_task=first["learning_task"],
        unit=first["duration_unit"],
        durations=tuple(sorted({point.duration for point in shown}, key=lambda d: d.value)),
        points=tuple(sorted(shown, key=lambda p: (p.duration.value, p.rate))),
        base={need: estimate(level) for need, level in levels.items() if len(level)},
        printed=tuple(_point(part) for _, part in overlaid.groupby(key)),
        diverged=tuple(_point(part) for _, part in diverged.groupby(key)),
        known=known,
    )


def _point(rows: pandas.DataFrame) -> Point:
    first = rows.iloc[0]
    return Point(
        method=first["method"],
        duration=Duration(first["duration"], float(first["duration_value"])),
        rate=float(first["learning_rate"]),
        chosen=first["chosen"] == "yes",
        tokens=float(rows["tokens"].mean()),
        estimates={str(need): estimate(part) for need, part in rows.groupby("need") if part["value"].notna().any()},
    )


def estimate(rows: pandas.DataFrame) -> Estimate:
    trained = bool((rows["source"] == "trained").all())
    value = float(rows["value"].mean())
    if len(rows) > 1:
        return Estimate(value, float(rows["value"].min()), float(rows["value"].max()), len(rows), trained)
    error = float(rows["stderr"].fillna(0.0).iloc[0])
    repeated = float(rows["reach"].iloc[0]) if trained and "reach" in rows.columns else 0.0
    return Estimate(value, value - error, value + error, 1, trained, repeated)


def setting_order(domain: str, regime: str, setting: str) -> tuple[int, str, int, str]:
    """The paper's order: code before math, in each CPT before IFT; what it lacks comes last."""
    known = DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS)
    return (known, domain, REGIMES.index(regime) if regime in REGIMES else len(REGIMES), setting)


def amount(label: str, unit: str) -> str:
    """`128K tokens`, `1 epoch`."""
    return f"{label} {unit.removesuffix('s') if label == '1' else unit}"
