"""Figure S7 from made-up spectra: which condition's it shows, and numpy's cumulative sums."""

from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save

from scripts.common.errors import UserError
from tests.artifacts import kinds
from tests.artifacts.conftest import assert_all_apart, data, footer, line

pytestmark = pytest.mark.arithmetic

MATRIX = "model.layers.26.self_attn.q_proj"
SIZE = 40


def values(part: str, tokens: int) -> numpy.ndarray:
    slope = {"base": 0.05, "tuned": 0.049, "delta": 0.02}[part]
    return numpy.exp(-slope * numpy.arange(SIZE)) * (1 + tokens / 1e11)


def made(tmp_path: Path) -> Path:
    launch = kinds.launch(tmp_path)
    for condition in kinds.conditions("spectra"):
        if condition.method == "full":
            found = {f"{part}.{MATRIX}": values(part, condition.amount) for part in ("base", "tuned", "delta")}
            key = condition.evaluations["spectra"]
            kinds.put(launch.store, key, {}, spectra__safetensors=save(found))
    kinds.collected(launch, "figS7", tmp_path / "figS7.csv")
    return tmp_path / "figS7.csv"


def test_the_longest_duration_s_spectra_and_what_they_explain(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert len(kinds.rows(path)) == 3 * SIZE
    drawn = kinds.figure(path, "figS7")
    left, right = drawn.axes
    for part in ("base", "tuned", "delta"):
        expected = values(part, 20_000_000_000)
        assert data(line(left, part)) == list(zip(range(1, SIZE + 1), expected, strict=True))
        shares = numpy.cumsum(expected**2) / numpy.sum(expected**2)
        assert [y for _, y in data(line(right, part))] == pytest.approx(shares)
        assert str(int(numpy.searchsorted(shares, 0.9)) + 1) in footer(drawn)
    assert list(line(right, "share").get_ydata()) == [0.9, 0.9]
    assert left.get_ylim()[0] == 0
    assert "q_proj, layer 26" in [text.get_text() for text in left.texts]
    assert "StarCoder-Python, full finetuning, 20B tokens" in footer(drawn)
    assert f"of {SIZE}" in footer(drawn)
    assert_all_apart(drawn)


def test_a_value_stands_once(tmp_path: Path) -> None:
    rows = kinds.rows(made(tmp_path))
    with pytest.raises(UserError, match=f"matrix {MATRIX}, part base, index 1"):
        kinds.figure(kinds.write(tmp_path / "twice.csv", [*rows, rows[0]]), "figS7")
