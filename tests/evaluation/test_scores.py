import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.evaluation.scores import (
    language_understanding,
    mean_and_stderr,
    pass_at_k,
    plain_average,
    ratio_and_stderr,
    subject_mean_and_stderr,
)

pytestmark = pytest.mark.arithmetic


@given(st.data())
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_one_that_passed(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 9))
    passed = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    outcomes = [True] * passed + [False] * (samples - passed)
    choices = list(itertools.combinations(outcomes, k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-12)


@given(st.integers(1, 300), st.data())
def test_pass_at_1_is_the_share_that_passed(samples: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, samples))
    assert pass_at_k(samples, passed, 1) == pytest.approx(passed / samples)


def test_pass_at_k_of_the_papers_256_samples_is_exact() -> None:
    # product form of Chen et al. (2021), in other arithmetic
    expected = 1 - math.prod(1 - 100 / (256 - i) for i in range(3))
    assert pass_at_k(256, 3, 100) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("samples", "passed", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_what_has_no_meaning(samples: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError, match="sample"):
        pass_at_k(samples, passed, k)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_mean_and_standard_error(values: list[float]) -> None:
    mean, stderr = mean_and_stderr(values)
    assert mean == pytest.approx(statistics.fmean(values))
    assert stderr == pytest.approx(np.std(values, ddof=1) / np.sqrt(len(values)), abs=1e-12)


def test_standard_error_of_yes_and_no_is_the_binomial_one() -> None:
    mean, stderr = mean_and_stderr([1.0] * 30 + [0.0] * 70)
    assert mean == pytest.approx(0.3)
    assert stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 99))


@pytest.mark.parametrize("values", [[], [1.0]])
def test_a_standard_error_needs_two_items(values: list[float]) -> None:
    with pytest.raises(ValueError, match="two items"):
        mean_and_stderr(values)


@pytest.mark.parametrize("seed", range(4))
def test_the_error_of_a_ratio_is_that_of_the_jackknife(seed: int) -> None:
    """Texts of very different lengths, whose loss per byte falls with the length."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 400, size=500)
    bits = sizes * rng.gamma(4, 0.1, size=500) + rng.uniform(0, 60, size=500)
    ratio, stderr = ratio_and_stderr(bits.tolist(), sizes.tolist())
    assert ratio == pytest.approx(bits.sum() / sizes.sum())
    without = (bits.sum() - bits) / (sizes.sum() - sizes)
    jackknife = np.sqrt(499 / 500 * np.sum((without - without.mean()) ** 2))
    assert stderr == pytest.approx(jackknife, rel=0.01)
    assert stderr != pytest.approx(np.std(bits / sizes, ddof=1) / np.sqrt(500), rel=0.1)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=60), st.floats(0.5, 200))
def test_a_ratio_over_equal_sizes_is_a_mean(values: list[float], size: float) -> None:
    ratio, stderr = ratio_and_stderr(values, [size] * len(values))
    assert ratio == pytest.approx(statistics.fmean(values) / size)
    assert stderr == pytest.approx(np.std(values, ddof=1) / np.sqrt(len(values)) / size, abs=1e-9)


@pytest.mark.parametrize(
    ("numerators", "denominators", "message"),
    [([1.0], [2.0], "two items"), ([1.0, 2.0], [1.0], "1 denominators"), ([1.0, 2.0], [0.0, 0.0], "above 0")],
)
def test_a_ratio_needs_items_with_sizes(numerators: list[float], denominators: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ratio_and_stderr(numerators, denominators)


def test_the_average_of_benchmarks_counts_each_once() -> None:
    value, stderr = plain_average([0.5, 0.7, 0.9], [0.03, 0.04, 0.0])
    assert value == pytest.approx(0.7)
    assert stderr == pytest.approx(0.05 / 3)


@pytest.mark.parametrize(("values", "stderrs"), [([], []), ([0.5], [])])
def test_an_average_needs_values_with_their_errors(values: list[float], stderrs: list[float]) -> None:
    with pytest.raises(ValueError, match="value"):
        plain_average(values, stderrs)


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=40))
def test_every_subject_counts_once(drawn: list[tuple[float, str]]) -> None:
    pairs = drawn + drawn  # at least two of each
    table = pd.DataFrame(pairs, columns=["score", "subject"]).groupby("subject")["score"].agg(["mean", "sem"])
    value, stderr = subject_mean_and_stderr([score for score, _ in pairs], [subject for _, subject in pairs])
    assert value == pytest.approx(table["mean"].mean())
    assert stderr == pytest.approx(np.sqrt((table["sem"] ** 2).sum()) / len(table), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "subjects", "message"),
    [([], [], "no value"), ([1.0, 0.0], ["a"], "1 subjects"), ([1.0, 0.0], ["a", "b"], "two items")],
)
def test_subjects_need_items(values: list[float], subjects: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subject_mean_and_stderr(values, subjects)


TASKS = ("lambada", "hellaswag", "winograd", "winogrande")


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.lists(st.floats(0, 0.1), min_size=4, max_size=4))
def test_language_understanding_is_a_line_from_guessing_to_all_right(values: list[float], errors: list[float]) -> None:
    guessing = np.array([0, 1 / 4, 1 / 2, 1 / 2])

    def composite(scores: np.ndarray) -> tuple[float, float]:
        stderrs = dict(zip(TASKS, errors, strict=True))
        return language_understanding(dict(zip(TASKS, scores, strict=True)) | {"gsm8k": 0.9}, stderrs | {"gsm8k": 0.5})

    assert composite(guessing)[0] == pytest.approx(0, abs=1e-12)
    assert composite(np.ones(4))[0] == pytest.approx(1)
    # linear: where one task alone goes half the way, the composite goes an eighth of it
    for task in range(4):
        moved = guessing + np.eye(4)[task] * (1 - guessing) / 2
        assert composite(moved)[0] == pytest.approx(1 / 8)
    value, stderr = composite(np.array(values))
    share = [composite(np.array(values) + step * 1e-3)[0] - value for step in np.eye(4)]
    assert stderr == pytest.approx(np.linalg.norm(np.array(share) / 1e-3 * errors), abs=1e-9)


def test_language_understanding_of_llama_2_7b_like_scores() -> None:
    values = {"lambada": 0.74, "hellaswag": 0.76, "winograd": 0.88, "winogrande": 0.69}
    value, _ = language_understanding(values, dict.fromkeys(values, 0.01))
    assert value == pytest.approx((0.74 + 0.68 + 0.76 + 0.38) / 4)


@pytest.mark.parametrize("missing", TASKS)
def test_language_understanding_needs_all_four(missing: str) -> None:
    scores = {task: 0.5 for task in TASKS if task != missing}
    with pytest.raises(ValueError, match=f"of {missing}$"):
        language_understanding(scores, dict.fromkeys(TASKS, 0.1))
    with pytest.raises(ValueError, match=f"of {missing}$"):
        language_understanding(dict.fromkeys(TASKS, 0.5), scores)
