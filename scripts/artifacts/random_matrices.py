"""Spectra of random matrices: what a small random change does to singular values (figure S8). Needs no training."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame

from scripts.artifacts import frames, style
from scripts.artifacts.points import Origin
from scripts.launch.launch import Launch
from scripts.plan.registry import Artifact

COLUMNS = ("panel", "curve", "x", "y", "source", "condition")
"""The last two are empty: no model was trained, nor asked for."""
SPECTRA, DIFFERENCES = "spectra", "differences"
BEFORE, AFTER, CHANGE = "A", "A + 0.1 B", "0.1 B"
MEASURED, LINEAR, SQUARE = "mean absolute difference", "c", "c^2"
_CHANGE = 0.1
_PER_DECADE, _DECADES = 3, 6
LOOKS: dict[str, dict[str, Any]] = {
    BEFORE: {"color": style.FULL, "linewidth": 3.0, "label": "A"},
    # the spectra of A and A + 0.1 B nearly coincide: the one is dashed on the other
    AFTER: {"color": style.RANKS[0], "linewidth": 1.6, "linestyle": (0, (4, 3)), "label": "A + 0.1 B"},
    CHANGE: {"color": style.RANKS[1], "linewidth": style.LINE, "label": "0.1 B"},
    MEASURED: {"color": style.FULL, "linewidth": style.LINE, "marker": "o", "markersize": 5, "markeredgecolor": "white",
               "label": "A and A + cB"},
    LINEAR: {"color": style.RANKS[1], "linewidth": 1.4, "linestyle": "--", "label": "$c$"},
    SQUARE: {"color": style.QUIET, "linewidth": 1.4, "linestyle": ":", "label": "$c^2$"},
}  # fmt: skip
READING = (
    "How to read: left, adding a small random matrix hardly moves the spectrum of a random matrix. Right, by how much "
    "it does on average: while the change is small, in proportion to c, not to its square."
)


@dataclass(frozen=True, kw_only=True)
class RandomSpectra(Origin):
    """What the figure shows."""

    rows: DataFrame


def rows(size: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """The numbers of figure S8, as rows with the columns ``panel``, ``curve``, ``x`` and ``y``.

    A and B are `size` x `size`, their entries independent and standard normal. Panel ``spectra``: singular values of A,
    A + 0.1 B and 0.1 B over the largest of A, at their place from 1 to `size`. Panel ``differences``: (1/n) sum over i
    of abs(sigma_i(A) - sigma_i(A + c B)) for c from 1e-6 to 1, and the curves c and c^2 to compare it with.

    Values have six digits: more would differ between machines, as singular values are exact to 1e-13 and the smallest
    difference is 1e-6.
    """
    draw = numpy.random.default_rng(seed)
    a, b = draw.standard_normal((2, size, size))
    before = _spectrum(a)
    spectra = {BEFORE: before, AFTER: _spectrum(a + _CHANGE * b), CHANGE: _CHANGE * _spectrum(b)}
    scales = numpy.logspace(-_DECADES, 0, _DECADES * _PER_DECADE + 1)
    differences = {
        MEASURED: numpy.array([numpy.abs(before - _spectrum(a + scale * b)).mean() for scale in scales]),
        LINEAR: scales,
        SQUARE: scales**2,
    }
    places = numpy.arange(1, size + 1)
    return [
        *(row for curve, values in spectra.items() for row in _points(SPECTRA, curve, places, values / before[0])),
        *(row for curve, values in differences.items() for row in _points(DIFFERENCES, curve, scales, values)),
    ]


def _spectrum(matrix: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Singular values, from the largest down. Of the matrix itself: its Gram matrix would lose the small ones."""
    return numpy.asarray(numpy.linalg.svd(matrix, compute_uv=False), dtype=numpy.float64)


def _points(panel: str, curve: str, xs: NDArray[Any], ys: NDArray[Any]) -> Iterator[dict[str, Any]]:
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        yield {"panel": panel, "curve": curve, "x": float(f"{x:.6g}"), "y": float(f"{y:.6g}")}


def collect(launch: Launch, artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of the CSV; they need neither of the two, and are the same in every study."""
    return rows()


def read(csv: Path) -> RandomSpectra:
    """The CSV; raises UserError where it is not of the right form."""
    frame, origin = frames.read(csv, COLUMNS, ("x", "y"))
    size = int(frame.loc[frame["panel"] == SPECTRA, "x"].max())
    # what the study is, and of which scale, says nothing about these numbers
    own = {
        "study_title": f"Random matrices, {size} x {size}, the same in every study",
        "model": "no model",
        "scale": "computed",
    }
    return RandomSpectra(**{**vars(origin), **own}, rows=frame)


def draw(artifact: Artifact, curves: RandomSpectra, commit: str) -> Figure:
    """The figure: left the spectra, right by how much they differ."""

    def slot(column: int, panel: str, label: str) -> style.Slot:
        shown = curves.rows[curves.rows["panel"] == panel]
        return style.Slot(0, column, lambda ax: _panel(ax, shown), label, name=panel)

    slots = [slot(0, SPECTRA, "Spectra"), slot(1, DIFFERENCES, "How much they differ")]
    notes = ["A, B: entries independent and standard normal"]
    return style.sheet(artifact, curves, commit, slots, [], style.BELOW, notes, READING)


def _panel(ax: Axes, curves: DataFrame) -> None:
    """One of the two panels: the spectra, or the mean differences on two logarithmic scales."""
    for curve in curves["curve"].unique():
        points = curves[curves["curve"] == curve]
        ax.plot(points["x"], points["y"], gid=curve, **LOOKS[curve])
    ax.legend(frameon=False, fontsize=9)
    if curves["panel"].iloc[0] == SPECTRA:
        ax.set_xlim(0, curves["x"].max())
        ax.set_ylim(bottom=0)
        ax.set_xlabel("Index of the singular value")
        ax.set_ylabel("Singular value / largest of A")
    else:
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("Scale of the change, c")
        ax.set_ylabel("Mean absolute difference of spectra")
