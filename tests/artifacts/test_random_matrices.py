"""Figure S8 against the limits of random matrices, and its drawing read off matplotlib's objects."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from scripts.artifacts import random_matrices, style
from scripts.artifacts.random_matrices import rows
from tests.artifacts import kinds
from tests.artifacts.conftest import assert_all_apart, data, footer, line, texts

pytestmark = pytest.mark.arithmetic

SIZE = 150


@pytest.fixture(scope="module")
def frame() -> pandas.DataFrame:
    return pandas.DataFrame(rows(SIZE, 3))


def curve(frame: pandas.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    points = frame[frame["curve"] == name]
    return points["x"].to_numpy(), points["y"].to_numpy()


def test_what_stands_in_the_rows(frame: pandas.DataFrame) -> None:
    assert list(frame.columns) == ["panel", "curve", "x", "y"]
    assert frame.groupby(["panel", "curve"], sort=False).size().to_dict() == {
        ("spectra", "A"): SIZE,
        ("spectra", "A + 0.1 B"): SIZE,
        ("spectra", "0.1 B"): SIZE,
        ("differences", "mean absolute difference"): 19,
        ("differences", "c"): 19,
        ("differences", "c^2"): 19,
    }
    assert frame.equals(pandas.DataFrame(rows(SIZE, 3)))
    assert not frame.equals(pandas.DataFrame(rows(SIZE, 4)))


def test_spectra_follow_the_quarter_circle_law(frame: pandas.DataFrame) -> None:
    """Singular values of a random n x n matrix lie between 0 and 2 sqrt(n), and 8/(3 pi) sqrt(n) is their mean."""
    for name, scale in (("A", 1.0), ("A + 0.1 B", math.sqrt(1.01)), ("0.1 B", 0.1)):
        x, y = curve(frame, name)
        assert x.tolist() == list(range(1, SIZE + 1))
        assert (np.diff(y) <= 0).all()
        assert y[0] == pytest.approx(scale, rel=0.1)
        assert y.mean() == pytest.approx(scale * 8 / (3 * math.pi) / 2, rel=0.1)
        assert (y**2).mean() == pytest.approx(scale**2 / 4, rel=0.1)
    assert curve(frame, "A")[1][0] == 1
    assert curve(frame, "A + 0.1 B")[1][0] != 1


def test_differences_grow_with_the_change(frame: pandas.DataFrame) -> None:
    c, y = curve(frame, "mean absolute difference")
    np.testing.assert_allclose(c, np.logspace(-6, 0, 19), rtol=1e-5)
    # A small change moves the i-th value by c u_i' B v_i, and u_i' B v_i is standard normal.
    small = c < 2e-3
    np.testing.assert_allclose(y[small] / c[small], math.sqrt(2 / math.pi), rtol=0.15)
    assert y[3] / y[0] == pytest.approx(10, rel=1e-4)
    # A + B is distributed as sqrt(2) A.
    assert y[-1] == pytest.approx((math.sqrt(2) - 1) * 8 / (3 * math.pi) * math.sqrt(SIZE), rel=0.05)
    # Mirsky: the root of the mean square is at most c |B| / sqrt(n), about c sqrt(n).
    assert (y < 1.05 * c * math.sqrt(SIZE)).all()
    for name, power in (("c", 1), ("c^2", 2)):
        x, reference = curve(frame, name)
        np.testing.assert_allclose(reference, x**power, rtol=2e-5)
        assert x.tolist() == c.tolist()


def test_the_figure_shows_every_curve_and_is_no_study_s(
    tmp_path: Path, frame: pandas.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_matrices, "rows", lambda: rows(SIZE, 3))
    launch = kinds.launch(tmp_path)
    kinds.collected(launch, "figS8", tmp_path / "figS8.csv")
    demo = [{**row, "scale": "demo"} for row in kinds.rows(tmp_path / "figS8.csv")]
    drawn = kinds.figure(kinds.write(tmp_path / "demo.csv", demo), "figS8")
    panels: dict[str, Any] = {ax.get_label(): ax for ax in drawn.axes}
    for (panel, name), points in frame.groupby(["panel", "curve"]):
        np.testing.assert_array_equal(data(line(panels[panel], name)), points[["x", "y"]])
    for ax in drawn.axes:
        assert len({(found.get_color(), found.get_linestyle()) for found in ax.lines}) == 3
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [found.get_label() for found in ax.lines]
        assert ax.get_xlabel()
        assert ax.get_ylabel()
    spectra, differences = panels["spectra"], panels["differences"]
    assert spectra.get_xlim() == (0, SIZE)
    assert spectra.get_ylim()[0] == 0
    assert spectra.get_ylim()[1] >= frame.loc[frame["panel"] == "spectra", "y"].max()
    assert differences.get_xscale() == differences.get_yscale() == "log"
    assert f"Random matrices, {SIZE} x {SIZE}, the same in every study" in texts(drawn)
    assert "Computed, without any training" in footer(drawn)
    assert style.DEMO_NOTE not in texts(drawn)
    assert_all_apart(drawn)
