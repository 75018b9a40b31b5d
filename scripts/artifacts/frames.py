"""Of which model a row of a CSV is; and how the CSVs are read of figures whose numbers are no scores.

A row has the columns `study`, `study_title`, `scale` and `model` (the same in every row), `CONDITION` where it is of a
trained model or of the base model, and the figure's own. An empty `value` is one that is missing. A model that diverged
has one row, with the `state` that says so and nothing of the figure's own.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas

from scripts.artifacts.points import DIVERGED, Origin, ShownMethod, amount, read_origin, read_text, to_numbers
from scripts.common.errors import UserError
from scripts.launch.launch import Launch
from scripts.plan.conditions import Condition
from scripts.plan.evaluation import BASE
from scripts.study.schema import Study

CONDITION = (
    "setting", "setting_label", "method", "kind", "rank", "alpha", "modules", "variant", "seed",
    "duration", "duration_value", "duration_unit", "source", "condition", "state",
)  # fmt: skip
"""See `scripts.artifacts.points`; of the base model the columns of setting, method's shape and duration are empty."""
NUMBERS = ("rank", "alpha", "seed", "duration_value")


def condition_cells(launch: Launch, condition: Condition) -> dict[str, Any]:
    """The columns `CONDITION` of one condition but `state`, which is that of what was measured of it."""
    cells: dict[str, Any] = {
        "method": condition.method,
        "kind": BASE,
        "seed": condition.seed,
        "source": "published" if condition.is_published else "trained",
        "condition": condition.product.fingerprint,
    }
    if condition.method != BASE:
        setting = launch.grid.study.settings[condition.setting]
        cells |= {
            "setting": condition.setting,
            "setting_label": setting.label,
            **method_cells(launch.grid.study, condition.method),
            "variant": ", ".join(condition.change.words),
            "duration": condition.duration,
            "duration_value": condition.amount,
            "duration_unit": setting.unit,
        }
    return cells


def diverged_cells(launch: Launch, condition: Condition) -> dict[str, Any]:
    """The one row of a condition that diverged."""
    return {**condition_cells(launch, condition), "state": DIVERGED}


def method_cells(study: Study, name: str) -> dict[str, Any]:
    """The columns `method`, `kind`, and of LoRA `rank`, `alpha` and `modules`."""
    method = study.methods[name]
    return {"method": name, "kind": method.kind, **method.cells()}


def read(path: Path, columns: Iterable[str], numbers: Iterable[str]) -> tuple[pandas.DataFrame, Origin]:
    """The rows of a figure's CSV, and where they come from; cells of `numbers` as floats, NaN where empty.

    Rows of models that diverged are counted in the origin and left out.

    Raises UserError, in one sentence, where the file or one of `columns` is missing, a cell is no number, or the CSV
    has no value at all.
    """
    rows = read_text(path, columns)
    origin = read_origin(rows, path)
    if "state" in rows.columns:
        rows = rows[rows["state"] != DIVERGED].copy()
    to_numbers(rows, numbers, path)
    if "value" in rows.columns and rows["value"].isna().all():
        raise UserError(f"{path}: has no row with a value")
    if "variant" in rows.columns:
        rows["method"] = rows["method"].str.cat(rows["variant"].where(rows["variant"] == "", ", " + rows["variant"]))
    return rows, origin


def once(path: Path, rows: pandas.DataFrame, key: list[str]) -> None:
    """Raises UserError where two rows have the same cells in the columns of `key`."""
    again = rows[rows.duplicated(key)]
    if len(again):
        same = ", ".join(f"{column} {again.iloc[0][column]}" for column in key if again.iloc[0][column] != "")
        raise UserError(f"{path}: has more than one row of {same}, where one is allowed")


def methods_of(rows: pandas.DataFrame) -> tuple[ShownMethod, ...]:
    """The methods in `rows`, but for the base model: adapters from the lowest rank up, then full finetuning."""
    tuned = rows[rows["kind"] != BASE].drop_duplicates("method").fillna({"rank": 0, "alpha": 0})
    if "variant" not in tuned.columns:
        tuned["variant"] = ""
    columns = ("method", "kind", "rank", "alpha", "modules", "variant")
    found = [
        ShownMethod(name, kind, int(rank), float(alpha), modules, variant)
        for name, kind, rank, alpha, modules, variant in zip(*(tuned[column] for column in columns), strict=True)
    ]
    return tuple(sorted(found, key=lambda m: (m.kind == "full", m.rank, m.alpha, m.name)))


def drawn_for(rows: pandas.DataFrame) -> list[tuple[str, str, pandas.DataFrame]]:
    """A panel's label (`Code IFT`), its title (`after 4 epochs`) and rows, for each setting and duration in `rows`.

    Every panel has the base model's rows besides its own.
    """
    base = rows[rows["kind"] == BASE]
    panels = []
    for (label, _), part in rows[rows["kind"] != BASE].groupby(["setting_label", "duration_value"]):
        panels.append((str(label), f"after {length_of(part)}", pandas.concat([base, part])))
    return panels


def length_of(rows: pandas.DataFrame) -> str:
    """The training duration of the first row: `4 epochs`, `1 epoch`, `20B tokens`."""
    return amount(*rows.iloc[0][["duration", "duration_unit"]])
