"""Singular values of one matrix before and after full finetuning, and of the difference (figure S7)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import frames, style
from scripts.artifacts.points import Origin
from scripts.common.errors import UserError
from scripts.launch.launch import Launch
from scripts.plan.registry import Artifact
from scripts.spectra.ranks import explained, place, rank_to_explain, read_spectra

COLUMNS = (*frames.CONDITION, "matrix", "part", "index", "value", "explained", "spectra")
"""`value` is the singular value number `index` (from 1, the largest) of `part` of a matrix: `base`, `tuned` or `delta`;
`explained` the share of the part's variance that it and the larger ones explain."""
SHARE = 0.9
PARTS = ("base", "tuned", "delta")
LOOKS: dict[str, dict[str, Any]] = {
    "base": {"color": style.FULL, "linewidth": 3.0, "label": "base model"},
    # before and after nearly coincide: the one is dashed on the other
    "tuned": {"color": style.RANKS[0], "linewidth": 1.6, "linestyle": (0, (4, 3)), "label": "finetuned model"},
    "delta": {"color": style.RANKS[1], "linewidth": style.LINE, "label": "difference (finetuned - base)"},
}
READING = (
    "How to read: a matrix of low rank would have a few large singular values and then none, and its curve on the "
    "right would reach 90 % at once."
)


@dataclass(frozen=True, kw_only=True)
class MatrixSpectra(Origin):
    """What the figure shows."""

    rows: pandas.DataFrame


def collect(launch: Launch, artifact: Artifact) -> list[dict[str, Any]]:
    """One row for each singular value of the matrices in the study's ``spectra.whole``.

    They are those of the condition of the block that was fully finetuned longest, of the first seed, and did not
    diverge. Raises UserError where all of them diverged.
    """
    assert launch.grid.study.spectra is not None  # a block that measures spectra has it
    conditions = launch.grid.conditions(artifact.block, artifact.setting)
    cells = [(condition, frames.condition_cells(launch, condition)) for condition in conditions]
    tuned = [pair for pair in cells if pair[1]["kind"] == "full"]
    spectra = {c.product: launch.store.require(c.evaluations["spectra"])["results"] for c, _ in tuned}
    there = [pair for pair in tuned if "diverged" not in spectra[pair[0].product]]
    if not there:
        raise UserError(f"{artifact.name}: training diverged in every fully finetuned model of {artifact.block}")
    condition, own = max(there, key=lambda pair: (pair[0].amount, -pair[0].seed))
    key = condition.evaluations["spectra"]
    found = read_spectra(launch.store.bytes_of(key))
    collected = []
    for matrix in launch.grid.study.spectra.whole:
        for part in PARTS:
            values = found[part][matrix]
            shares = explained(values)
            for index, (value, share) in enumerate(zip(values.tolist(), shares.tolist(), strict=True), start=1):
                numbers = {"index": index, "value": repr(value), "explained": repr(share)}
                collected.append({**own, "matrix": matrix, "part": part, **numbers, "spectra": key.fingerprint})
    return collected


def read(csv: Path) -> MatrixSpectra:
    """The CSV; raises UserError where it is not of the right form, or a singular value stands twice."""
    rows, origin = frames.read(csv, COLUMNS, (*frames.NUMBERS, "index", "value", "explained"))
    frames.once(csv, rows, ["matrix", "part", "index"])
    return MatrixSpectra(**vars(origin), rows=rows[rows["value"].notna()])


def draw(artifact: Artifact, spectra: MatrixSpectra, commit: str) -> Figure:
    """The figure: left the singular values, right the share of the variance that they explain; a row per matrix."""

    def slot(row: int, column: int, label: str, title: str, rows: pandas.DataFrame) -> style.Slot:
        shown = ("value", "explained")[column]
        return style.Slot(row, column, lambda ax: _panel(ax, rows, shown), label, title, f"{label} {shown}")

    slots, notes = [], []
    for row, (matrix, rows) in enumerate(spectra.rows.groupby("matrix", sort=False)):
        layer, module = place(str(matrix))
        label = f"{module}, layer {layer}"
        slots.append(slot(row, 0, label, "singular values", rows))
        slots.append(slot(row, 1, label, "explained variance", rows))
        ranks = {part: rank_to_explain(rows.loc[rows["part"] == part, "value"], SHARE) for part in PARTS}
        told = ", ".join(f"{LOOKS[part]['label'].split(' ')[0]} {rank}" for part, rank in ranks.items())
        notes.append(f"Singular values for 90 % of the variance of {label}: {told}, of {rows['index'].max():.0f}")
    first = spectra.rows.iloc[0]
    notes.insert(0, f"{first['setting_label']}, full finetuning, {frames.length_of(spectra.rows)}")
    handles = [Line2D([], [], **LOOKS[part]) for part in PARTS]
    handles.append(Line2D([], [], color=style.QUIET, linestyle=":", linewidth=1.4, label="90 % of the variance"))
    return style.sheet(artifact, spectra, commit, slots, [handles], style.BELOW, notes, READING)


def _panel(ax: Axes, rows: pandas.DataFrame, column: str) -> None:
    for part in PARTS:
        own = rows[rows["part"] == part].sort_values("index")
        ax.plot(own["index"], own[column], gid=part, **LOOKS[part])
    ax.set_xlim(0, rows["index"].max())
    ax.set_xlabel("Index of the singular value")
    if column == "value":
        ax.set_ylim(bottom=0)
        ax.set_ylabel("Singular value")
        return
    ax.axhline(SHARE, color=style.QUIET, linestyle=":", linewidth=1.4, gid="share")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("Share of the variance explained")
