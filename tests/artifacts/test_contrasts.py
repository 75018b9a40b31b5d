"""Estimates, standard errors and verdicts, against scipy, closed forms, a bootstrap and simulations."""

import math
from collections.abc import Iterable

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scripts.artifacts.contrasts import (
    EQUAL,
    MARGIN,
    Arm,
    Effect,
    EqualLearning,
    FloatArray,
    ItemScores,
    Model,
    Verdict,
    equal_learning,
    estimate,
    judge_all,
    judge_equal,
    judge_more,
    mean_of,
)

pytestmark = pytest.mark.arithmetic

TASKS = ("hellaswag", "arc_challenge", "winogrande")
BASE: Arm = ("s", "base", 0.0)
FULL: Arm = ("s", "full", 1.0)
LORA: Arm = ("s", "lora", 1.0)
LEARNED = mean_of("learning", [FULL]) - mean_of("learning", [LORA])


def model(arm: Arm, seed: int, learning: FloatArray, forgetting: Iterable[FloatArray] = ()) -> Model:
    setting, method, duration = arm
    kind = method if method in ("full", "base") else "lora"
    return Model(
        setting="" if kind == "base" else setting, method=method, kind=kind, rank=0,
        learning_task="gsm8k", duration=f"{duration:g} epochs", duration_value=duration, seed=seed,
        fingerprint=f"{method}-{duration}-{seed}",
        scores={"gsm8k": learning, **dict(zip(TASKS, forgetting, strict=False))},
    )  # fmt: skip


def pair(full: FloatArray, lora: FloatArray) -> ItemScores:
    """Two models and their learning; rows of a two-dimensional array are seeds."""
    return ItemScores(
        [
            model(arm, seed, scores)
            for arm, rows in ((FULL, full), (LORA, lora))
            for seed, scores in enumerate(numpy.atleast_2d(rows))
        ],
        (),
    )


def answers(generator: numpy.random.Generator, rate: float, items: int) -> FloatArray:
    return (generator.random(items) < rate).astype(float)


# -- standard errors ------------------------------------------------------------------------------


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_a_difference_is_that_of_a_paired_t_test(items: int, seed: int) -> None:
    generator = numpy.random.default_rng(seed)
    full, lora = generator.random(items), generator.random(items)
    found = estimate(pair(full, lora), LEARNED)
    reference = stats.ttest_rel(full, lora)
    assert found.value == pytest.approx(full.mean() - lora.mean())
    assert found.value / found.stderr == pytest.approx(reference.statistic)
    assert found.df == pytest.approx(items - 1)
    low, high = reference.confidence_interval(0.90)
    assert (found.lower(), found.upper()) == (pytest.approx(low), pytest.approx(high))
    assert (found.stderr_seeds, found.seeds, found.items) == (None, 1, items)


def test_tasks_are_independent_strata_of_the_forgetting_average() -> None:
    generator = numpy.random.default_rng(1)
    scores = {arm: [answers(generator, 0.6, n) for n in (40, 90, 150)] for arm in (FULL, LORA)}
    found = estimate(
        ItemScores([model(arm, 0, numpy.zeros(9), three) for arm, three in scores.items()], TASKS),
        mean_of("forgetting", [LORA]) - mean_of("forgetting", [FULL]),
    )
    differences = [lora - full for full, lora in zip(scores[FULL], scores[LORA], strict=True)]
    variances = [d.var(ddof=1) / len(d) / 9 for d in differences]
    assert found.value == pytest.approx(numpy.mean([d.mean() for d in differences]))
    assert found.stderr == pytest.approx(math.sqrt(sum(variances)))
    # Satterthwaite 1946, equation 17
    expected = sum(variances) ** 2 / sum(v**2 / (len(d) - 1) for v, d in zip(variances, differences, strict=True))
    assert (found.df, found.items) == (pytest.approx(expected), 280)


def test_seeds_add_their_own_variance_with_its_degrees_of_freedom() -> None:
    generator = numpy.random.default_rng(2)
    full, lora = (numpy.array([answers(generator, rate, 70) for _ in range(3)]) for rate in (0.7, 0.5))
    found = estimate(pair(full, lora), LEARNED)
    items = stats.sem((full - lora).mean(axis=0)) ** 2
    seeds = stats.sem((full - lora).mean(axis=1)) ** 2
    assert found.stderr_items == pytest.approx(math.sqrt(items))
    assert found.stderr_seeds == pytest.approx(math.sqrt(seeds))
    assert found.stderr == pytest.approx(math.sqrt(items + seeds))
    assert found.df == pytest.approx((items + seeds) ** 2 / (items**2 / 69 + seeds**2 / 2))
    assert found.seeds == 3


def test_the_base_model_has_no_seeds_of_its_own() -> None:
    generator = numpy.random.default_rng(3)
    base, full = answers(generator, 0.2, 50), numpy.array([answers(generator, 0.6, 50) for _ in range(4)])
    scores = ItemScores([model(BASE, 0, base), *(model(FULL, seed, row) for seed, row in enumerate(full))], ())
    found = estimate(scores, mean_of("learning", [FULL]) - mean_of("learning", [BASE]))
    assert found.value == pytest.approx(full.mean() - base.mean())
    assert found.stderr_seeds == pytest.approx(stats.sem(full.mean(axis=1)))


@pytest.mark.parametrize("items", [30, 80, 1000])
def test_items_that_all_agree_leave_the_doubt_of_the_rule_of_three(items: int) -> None:
    """With 0 differences in n items the true rate is, at 95 %, below 1 - 0.05^(1/n) (Clopper and Pearson)."""
    found = estimate(pair(numpy.ones(items), numpy.ones(items)), LEARNED)
    exact = stats.binomtest(0, items, alternative="less").proportion_ci(0.95).high
    assert found.value == 0
    assert exact <= found.upper() <= 1.2 * exact
    assert judge_more(found) is (Verdict.FAILS if items == 1000 else Verdict.OPEN)


def trade_off(generator: numpy.random.Generator, items: int = 150) -> dict[Arm, list[FloatArray]]:
    """Learning and three forgetting tasks of a base model, of full finetuning and of LoRA; answers go by difficulty."""
    rates = {
        BASE: (0.05, 0.76),
        **{("s", "full", d): rate for d, rate in ((1.0, (0.25, 0.7)), (2.0, (0.55, 0.6)), (4.0, (0.85, 0.45)))},
        **{("s", "lora", d): rate for d, rate in ((1.0, (0.15, 0.75)), (2.0, (0.4, 0.7)), (4.0, (0.7, 0.6)))},
    }
    difficulty = generator.normal(size=(4, items))
    return {
        arm: [
            (stats.norm.ppf(rate) * math.sqrt(2) + difficulty[task] + generator.normal(size=items) > 0).astype(float)
            for task, rate in enumerate((learning, *[forgetting] * 3))
        ]
        for arm, (learning, forgetting) in rates.items()
    }


def compared(answered: dict[Arm, list[FloatArray]]) -> tuple[ItemScores, EqualLearning]:
    scores = ItemScores([model(arm, 0, tasks[0], tasks[1:]) for arm, tasks in answered.items()], TASKS)
    path = tuple((arm,) for arm in answered if arm[1] in ("base", "full"))
    statistic = equal_learning(scores, [[arm for arm in answered if arm[1] == "lora"]], path)
    assert statistic is not None
    return scores, statistic


def test_standard_error_at_equal_learning_is_that_of_a_bootstrap_over_items() -> None:
    generator = numpy.random.default_rng(4)
    answered = trade_off(generator)
    scores, statistic = compared(answered)
    found = estimate(scores, statistic)
    assert len(statistic.compared) == 3
    values = []
    for _ in range(1000):
        drawn = generator.integers(0, 150, size=(4, 150))
        again = {arm: [s[drawn[task]] for task, s in enumerate(tasks)] for arm, tasks in answered.items()}
        other = ItemScores([model(arm, 0, tasks[0], tasks[1:]) for arm, tasks in again.items()], TASKS)
        values.append(statistic(other.means())[0])
    assert found.stderr == pytest.approx(numpy.std(values), rel=0.12)
    assert found.items == 600


# -- at equal learning ----------------------------------------------------------------------------


def exactly(points: dict[Arm, tuple[float, float]]) -> dict[Arm, list[FloatArray]]:
    """Every item has the mean score: learning, forgetting average."""
    return {arm: [numpy.full(10, learning), *[numpy.full(10, f)] * 3] for arm, (learning, f) in points.items()}


@given(st.lists(st.integers(101, 899), min_size=1, max_size=6, unique=True))
@settings(deadline=None)
def test_on_a_rising_path_it_is_linear_interpolation(thousandths: list[int]) -> None:
    levels = sorted(level / 1000 for level in thousandths)
    path = {BASE: (0.1, 0.7), **{("s", "full", d): (0.1 + 0.2 * d, 0.7 - 0.1 * d**1.5) for d in (1.0, 2.0, 4.0)}}
    loras = {("s", "lora", float(d)): (level, 0.55) for d, level in enumerate(levels, start=1)}
    scores, statistic = compared(exactly(path | loras))
    assert statistic.compared == tuple(loras)
    learned, forgetting = zip(*path.values(), strict=True)
    kept = numpy.interp(levels, learned, forgetting)
    assert estimate(scores, statistic).value == pytest.approx(0.55 - kept.mean())


def test_both_sides_stop_in_time() -> None:
    """Full finetuning counts where it first gets there; of LoRA only what learned more than all before it."""
    full = {
        BASE: (0.2, 0.70),
        ("s", "full", 1.0): (0.4, 0.60),
        ("s", "full", 2.0): (0.3, 0.50),
        ("s", "full", 4.0): (0.5, 0.40),
    }
    lora = {
        ("s", "lora", 1.0): (0.15, 0.68),  # learned nothing
        ("s", "lora", 2.0): (0.30, 0.66),  # full finetuning: halfway to its first duration, .65
        ("s", "lora", 3.0): (0.25, 0.50),  # learned less than before
        ("s", "lora", 4.0): (0.45, 0.50),  # full finetuning: three quarters of the way from .50 to .40, .425
        ("s", "lora", 5.0): (0.55, 0.30),  # full finetuning never gets there
    }
    scores, statistic = compared(exactly(full | lora))
    assert statistic.compared == (("s", "lora", 2.0), ("s", "lora", 4.0))
    assert estimate(scores, statistic).value == pytest.approx(((0.66 - 0.65) + (0.50 - 0.425)) / 2)


def test_nothing_to_compare_where_lora_learns_nothing_or_more_than_full_ever_does() -> None:
    points = {BASE: (0.2, 0.7), FULL: (0.4, 0.6), LORA: (0.1, 0.7), ("s", "lora", 2.0): (0.5, 0.7)}
    scores = ItemScores([model(arm, 0, tasks[0], tasks[1:]) for arm, tasks in exactly(points).items()], TASKS)
    assert equal_learning(scores, [[LORA, ("s", "lora", 2.0)]], ((BASE,), (FULL,))) is None


def test_where_both_are_the_same_curve_lora_rarely_seems_better() -> None:
    """LoRA is the same models half as far along the same trade-off."""
    rates = {0: (0.05, 0.76), 1: (0.2, 0.71), 2: (0.4, 0.64), 4: (0.6, 0.57), 8: (0.8, 0.5)}
    points = {
        BASE: rates[0],
        **{("s", "full", float(d)): rates[2 * d] for d in (1, 2, 4)},
        **{("s", "lora", float(d)): rates[d] for d in (1, 2, 4)},
    }
    generator = numpy.random.default_rng(5)
    held, values = 0, []
    for _ in range(400):
        difficulty = generator.normal(size=(4, 120))
        answered = {
            arm: [
                (stats.norm.ppf(r) * math.sqrt(2) + difficulty[task] + generator.normal(size=120) > 0).astype(float)
                for task, r in enumerate((rate[0], *[rate[1]] * 3))
            ]
            for arm, rate in points.items()
        }
        found = estimate(*compared(answered))
        held += judge_more(found) is Verdict.HOLDS
        values.append(found.value)
    assert held / 400 <= 0.08
    assert abs(numpy.mean(values)) < 0.25 * numpy.std(values)


# -- verdicts -------------------------------------------------------------------------------------


def of(value: float, stderr: float, df: float = 1e6) -> Effect:
    return Effect(value, stderr, None, df, seeds=1, items=100)


def test_more_holds_fails_or_cannot_be_said() -> None:
    # one-sided 95 %: 1.645 standard errors
    assert judge_more(of(0.1, 0.06)) is Verdict.HOLDS
    assert judge_more(of(0.1, 0.062)) is Verdict.OPEN
    assert judge_more(of(-0.1, 0.07)) is Verdict.FAILS
    assert judge_more(of(-0.1, 0.075)) is Verdict.OPEN
    assert judge_more(of(0.0, 0.012)) is Verdict.FAILS
    assert judge_more(of(0.01, 0.001)) is Verdict.HOLDS


def test_a_failure_among_several_needs_more_evidence() -> None:
    found = of(-0.1, 0.07)
    assert judge_more(found, 0.05) is Verdict.FAILS
    assert judge_more(found, 0.05 / 4) is Verdict.OPEN
    assert judge_more(of(-0.2, 0.07), 0.05 / 4) is Verdict.FAILS


def test_about_equal_holds_fails_or_cannot_be_said() -> None:
    assert judge_equal(of(0.01, 0.024)) is Verdict.HOLDS
    assert judge_equal(of(-0.01, 0.025)) is Verdict.OPEN
    assert judge_equal(of(0.0, 0.031)) is Verdict.OPEN
    assert judge_equal(of(0.1, 0.03)) is Verdict.FAILS
    assert judge_equal(of(-0.1, 0.03)) is Verdict.FAILS
    assert judge_equal(of(-0.1, 0.03), 0.05 / 3) is Verdict.OPEN


def test_one_failure_fails_all_and_one_doubt_leaves_doubt() -> None:
    holds, fails, unsaid = Verdict.HOLDS, Verdict.FAILS, Verdict.OPEN
    assert judge_all([holds, holds]) is holds
    assert judge_all([holds, unsaid]) is unsaid
    assert judge_all([holds, unsaid, fails]) is fails


@pytest.mark.parametrize(
    ("truth", "verdict", "judge"),
    [(0.0, Verdict.HOLDS, judge_more), (MARGIN, Verdict.FAILS, judge_more), (EQUAL, Verdict.HOLDS, judge_equal)],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_wrong_verdicts_are_rare(truth: float, verdict: Verdict, judge: object, seeds: int) -> None:
    """At the edge of what a verdict rules out, it is given to about 5 of 100 studies: these are 1000."""
    assert callable(judge)
    generator = numpy.random.default_rng(6)
    wrong = 0
    for _ in range(1000):
        difficulty = generator.normal(0, 0.2, 60)
        full, lora = (
            0.5 + difficulty + generator.normal(0, 0.08 if seeds == 1 else 0.1, (seeds, 60))
            # each trained model is better or worse by chance; with one seed nothing can be known of that
            + (0 if seeds == 1 else generator.normal(0, 0.02, (seeds, 1)))
            for _ in range(2)
        )  # fmt: skip
        wrong += judge(estimate(pair(full + truth, lora), LEARNED)) is verdict
    assert 0.01 < wrong / 1000 < 0.07


def test_detectable_differences_are_found_four_times_in_five() -> None:
    generator = numpy.random.default_rng(7)
    noise = 0.3
    truth = of(0, math.sqrt(2) * noise / math.sqrt(50), df=49).detectable
    found = [
        estimate(pair(generator.normal(truth, noise, 50), generator.normal(0, noise, 50)), LEARNED) for _ in range(1000)
    ]
    assert sum(judge_more(one) is Verdict.HOLDS for one in found) / 1000 == pytest.approx(0.80, abs=0.04)
    assert numpy.median([one.detectable for one in found]) == pytest.approx(truth, rel=0.05)


# -- what is no study -----------------------------------------------------------------------------


def test_models_must_be_there_once_for_every_seed_and_asked_the_same_items() -> None:
    ten = numpy.ones(10)
    with pytest.raises(ValueError, match="twice"):
        ItemScores([model(FULL, 0, ten), model(FULL, 0, ten)], ())
    with pytest.raises(ValueError, match="every seed"):
        ItemScores([model(FULL, 0, ten), model(FULL, 1, ten), model(LORA, 0, ten)], ())
    with pytest.raises(ValueError, match="same items"):
        ItemScores([model(FULL, 0, ten), model(LORA, 0, numpy.ones(9))], ())
    with pytest.raises(ValueError, match="at least two"):
        ItemScores([model(FULL, 0, numpy.ones(1)), model(LORA, 0, numpy.ones(1))], ())
