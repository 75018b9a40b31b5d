"""Ranks against exact fractions, closed forms and the limit of random matrices."""

from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from scripts.spectra.ranks import explained, place, rank_to_explain, read_spectra

pytestmark = pytest.mark.arithmetic

# whole numbers: what they explain is known exactly, and no share in percent is missed by a rounding error alone
SPECTRA = st.lists(st.integers(0, 1000), min_size=1, max_size=40)
PERCENT = st.integers(1, 100)


def exact_rank(values: list[int], percent: int) -> int:
    squares = sorted((value**2 for value in values), reverse=True)
    reached, rank = 0, 0
    while Fraction(reached) < Fraction(percent, 100) * sum(squares):
        reached += squares[rank]
        rank += 1
    return rank


@given(SPECTRA, PERCENT)
def test_rank_is_that_of_exact_arithmetic(values: list[int], percent: int) -> None:
    assert rank_to_explain(values, percent / 100) == exact_rank(values, percent)


@given(SPECTRA, PERCENT, st.floats(1e-300, 1e300))
def test_scale_changes_nothing(values: list[int], percent: int, scale: float) -> None:
    assert rank_to_explain(np.array(values) * scale, percent / 100) == exact_rank(values, percent)


@given(SPECTRA, PERCENT, st.randoms())
def test_order_and_zeros_change_nothing(values: list[int], percent: int, draw: Random) -> None:
    shuffled = [*values, 0, 0]
    draw.shuffle(shuffled)
    assert rank_to_explain(shuffled, percent / 100) == rank_to_explain(values, percent / 100)


@given(st.lists(st.floats(0, 1e308), min_size=1, max_size=40), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_a_larger_share_never_takes_fewer(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert rank_to_explain(values, low) <= rank_to_explain(values, high) <= np.count_nonzero(values)


@given(st.lists(st.floats(0, 1e308), min_size=1, max_size=40))
def test_shares_rise_to_one(values: list[float]) -> None:
    shares = explained(values)
    assert len(shares) == len(values)
    assert (np.diff(shares) >= 0).all()
    assert shares[-1] == 1


@given(st.integers(1, 300), st.data())
def test_equal_values_share_equally(n: int, data: st.DataObject) -> None:
    """An exact tie is reached, however 1/3 and 0.1 are rounded."""
    k = data.draw(st.integers(1, n))
    assert rank_to_explain(np.full(n, 0.1), k / n) == k
    np.testing.assert_allclose(explained(np.full(n, 0.1)), np.arange(1, n + 1) / n)


@pytest.mark.parametrize("values", [[3, 1], [0.3, 0.1], [0.1, 0.3], [3e200, 1e200], [3e-200, 1e-200], [0.9, 0.3, 0]])
def test_nine_tenths_are_nine_tenths(values: list[float]) -> None:
    assert rank_to_explain(values, 0.9) == 1
    assert rank_to_explain(values, 0.9 + 1e-9) == 2


def test_geometric_spectrum() -> None:
    """sigma_i = 2^-i: what remains after k values is 4^-k."""
    np.testing.assert_allclose(1 - explained(2.0 ** -np.arange(60))[:20], 0.25 ** np.arange(1, 21), rtol=1e-3)


def test_nothing_to_explain() -> None:
    assert rank_to_explain(np.zeros(5)) == 0
    assert rank_to_explain([]) == 0
    assert (explained(np.zeros(5)) == 1).all()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_bad_share(share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        rank_to_explain([1.0], share)


@pytest.mark.parametrize("values", [[1.0, -1.0], [float("nan"), 1.0], [float("inf"), 1.0], [[1.0, 2.0]]])
def test_no_singular_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers, none of them negative"):
        rank_to_explain(values)


@pytest.mark.parametrize(("share", "about"), [(0.5, None), (0.9, 0.5098), (0.99, None)])
def test_random_square_matrix(share: float, about: float | None) -> None:
    """The quarter-circle law: singular values are 2 cos(phi) with density (4/pi) sin(phi)^2 on [0, pi/2].

    The paper's own matrices need about half of their directions for 90 %; so does pure noise, 51 %.
    """
    phi = np.linspace(0, np.pi / 2, 100_001)
    end = np.interp(share, 2 / np.pi * (phi - np.sin(4 * phi) / 4), phi)
    limit = 2 / np.pi * (end - np.sin(2 * end) / 2)
    if about is not None:
        assert limit == pytest.approx(about, abs=1e-4)
    n = 400
    values = np.linalg.svd(np.random.default_rng(0).standard_normal((n, n)), compute_uv=False)
    assert rank_to_explain(values, share) / n == pytest.approx(limit, abs=0.01)


def test_place() -> None:
    assert place("model.layers.26.self_attn.q_proj") == (26, "q_proj")
    assert place("model.layers.0.mlp.down_proj") == (0, "down_proj")
    for name in ("model.layers.0.self_attn.q_proj.weight", "lm_head", "model.layers.0.input_layernorm"):
        with pytest.raises(ValueError, match="is not the name of a linear matrix"):
            place(name)


def test_spectra_are_read_by_whose_they_are(tmp_path: Path) -> None:
    q, up = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
    written = {f"delta.{q}": 3.0, f"delta.{up}": 2.0, f"base.{q}": 1.0, f"tuned.{q}": 0.5}
    save_file({name: np.array([value]) for name, value in written.items()}, tmp_path / "spectra.safetensors")
    found = {whose: {name: v.tolist() for name, v in of.items()} for whose, of in read_spectra(tmp_path).items()}
    assert found == {"delta": {q: [3.0], up: [2.0]}, "base": {q: [1.0]}, "tuned": {q: [0.5]}}
