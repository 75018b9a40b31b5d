"""When training counts as diverged, and what becomes of the job, of what starts from it, and of its evaluations."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.components.tasks import TASKS
from scripts.data.batches import write_cpt_rows
from scripts.evaluation import evaluate
from scripts.plan.product import Key, Product
from scripts.spectra import singular_values
from scripts.store.store import COPY
from scripts.training import loop
from scripts.training.divergence import Watch
from scripts.training.loop import Fit, fit
from tests.training.houses import COSINE, OPTIMIZER, RECIPE, House

pytestmark = pytest.mark.arithmetic

Job = Callable[..., Fit]
VOCABULARY = 1024


def first_sign(losses: list[float], best: float | None = None, vocabulary: int = VOCABULARY) -> int | None:
    """The step at which a watch speaks, of losses with gradients of norm 1."""
    watch = Watch(vocabulary, best)
    return next((step for step, loss in enumerate(losses, start=1) if watch.look(step, loss, 1.0)), None)


def by_hand(losses: list[float], best: float | None = None, vocabulary: int = VOCABULARY) -> int | None:
    """The same from the module's words, computed from all means at every step."""
    means = numpy.convolve(losses, numpy.full(20, 1 / 20), "valid") if len(losses) >= 20 else []
    for place, mean in enumerate(means):
        lowest = min([losses[0] if best is None else best, *means[:place]])
        if mean > lowest + max(3, 0.75 * (math.log(vocabulary) - lowest)):
            return place + 20
    return None


# --- the rule


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 12), st.integers(1, 40)), min_size=1, max_size=6),
    st.one_of(st.none(), st.floats(0, 8)),
    st.sampled_from([16, 1024, 32_000]),
    st.integers(0, 2**32),
)
def test_the_rule_is_the_one_that_is_stated(
    levels: list[tuple[float, int]], best: float | None, vocabulary: int, seed: int
) -> None:
    """Losses that stay at a level for a while, with noise."""
    noise = numpy.random.default_rng(seed)
    losses = [level + float(noise.uniform(0, 0.5)) for level, count in levels for _ in range(count)]
    assert first_sign(losses, best, vocabulary) == by_hand(losses, best, vocabulary)


def test_what_diverges_and_what_does_not() -> None:
    exploding = [2 - 0.01 * step for step in range(50)] + [7.5] * 30
    step = first_sign(exploding)
    assert step is not None
    assert 50 < step < 75
    # log 1024 = 6.9: of 1.7 the limit is 5.6
    assert first_sign([*exploding[:50], *[5.4] * 500]) is None, "much worse than before"
    assert first_sign([*exploding[:50], 40.0, *[1.6] * 50]) is None, "one bad batch"
    assert first_sign([2.0, 9, 30, *[11.0] * 30]) == 20, "before there are 20 good batches"
    assert first_sign([9.0 - 0.05 * step for step in range(100)]) is None, "from worse than guessing"
    assert first_sign([0.2, *[3.3] * 40], vocabulary=4) is not None
    assert first_sign([0.2, *[3.1] * 40], vocabulary=4) is None, "within 3 nats"


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 4.0), st.floats(0, 0.15), st.floats(0, 0.02), st.integers(0, 2**32))
def test_plain_noisy_runs_never_diverge(start: float, noise: float, fall: float, seed: int) -> None:
    draw = numpy.random.default_rng(seed)
    clean = start * numpy.exp(-fall * numpy.arange(400))
    assert first_sign(list(clean * draw.lognormal(-(noise**2) / 2, noise, 400))) is None


def test_of_the_demos_kind_of_runs_the_wildest_does_not_diverge() -> None:
    """LoRA (r=8) on math instructions at twice the highest rate of the demo's sweep, as it was trained."""
    losses = [0.29, 0.44, 0.24, 0.32, 0.3, 0.38, 0.46, 0.33, 0.53, 0.34, 0.5, 0.66, 1.49, 0.67, 1.47, 4.88, 4.35, 4.13,
              7.42, 5.65, 3.36, 3.93, 3.55, 3.09, 3.65, 2.99, 2.58, 3.01, 2.96, 2.69, 2.45, 2.65, 2.61, 3.39, 3.25,
              2.77, 2.61, *[2.6] * 95]  # fmt: skip
    assert first_sign(losses) is None


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [
        (math.nan, 1.0, {"loss": "nan", "rule": "the loss is nan"}),
        (math.inf, math.nan, {"loss": "inf", "rule": "the loss is inf"}),
        (2.5, math.inf, {"loss": 2.5, "rule": "the gradient's norm is inf"}),
    ],
)
def test_what_is_not_finite_diverges_at_once(loss: float, norm: float, said: dict[str, Any]) -> None:
    watch = Watch(VOCABULARY)
    assert watch.look(1, 2.0, 1.0) is None
    found = watch.look(2, loss, norm)
    assert found is not None
    assert asdict(found) == {"step": 2, **said}
    json.dumps(asdict(found), allow_nan=False)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.1, 12), min_size=1, max_size=90), st.integers(0, 90))
def test_a_resumed_watch_goes_on(losses: list[float], cut: int) -> None:
    """And its best is the lowest mean of 20 losses, or the first."""
    whole, first = Watch(VOCABULARY), losses[:cut]
    resumed = Watch(VOCABULARY, None, first)
    for loss in first:
        whole.look(0, loss, 1.0)
    for step, loss in enumerate(losses[cut:]):
        assert resumed.look(step, loss, 1.0) == whole.look(step, loss, 1.0)
    assert Watch(VOCABULARY).best is None
    lowest = min([losses[0], *numpy.convolve(losses, numpy.full(20, 1 / 20), "valid")[: max(0, len(losses) - 19)]])
    assert resumed.best == whole.best == pytest.approx(lowest)


# --- a job


def hot(job: Job, name: str, rate: float = 1e30, **changes: Any) -> Fit:
    made = job(name, **changes)
    return replace(made, optimizer={**made.optimizer, "learning_rate": rate})


@pytest.mark.parametrize("rate", [1e30, 3e38])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_job_ends_where_it_diverges(job: Job, words: SimpleNamespace, method: str, rate: float) -> None:
    one = hot(job, "hot", rate, method=words.METHODS[method], checkpoint_seconds=0, keep_optimizer=True)
    metrics = words.train(one)
    assert not any(one.out.iterdir())
    diverged = metrics["diverged"]
    steps = diverged["step"]
    assert 1 < steps < 12
    assert (metrics["steps"], metrics["tokens"], metrics["final_loss"]) == (steps, steps * 4 * 16, None)
    assert metrics["loss_curve"][-1][0] in (steps - 1, steps)
    assert "nan" in diverged["rule"] or "inf" in diverged["rule"]
    json.dumps(metrics, allow_nan=False)


@pytest.fixture
def turning_rows(tmp_path: Path) -> Path:
    """Forty batches of one token, which any model soon knows, and forty of random ones, of which none knows anything.

    On these its loss cannot stay below log 61 = 4.1 nats, whatever rounding makes of the weights.
    """
    draw = numpy.random.default_rng(2)
    half = 40 * 4 * 16
    document = [*[5] * half, *(int(token) for token in draw.integers(3, 64, half))]
    directory = tmp_path / "turning"
    directory.mkdir()
    write_cpt_rows(
        [document], directory, sequence_length=16, batch_rows=4, group_rows=2, eos=1, pad=2, vocab_size=64, seed=3
    )
    return directory


def test_the_result_is_the_same_however_often_losses_are_read_and_the_job_is_interrupted(
    job: Job, words: SimpleNamespace, turning_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By losses that are finite, at a plain rate."""
    long = {"rows": turning_rows, "schedule": words.trapezoid(None, None), "stop_step": 80}
    plain = words.train(job("plain", **long))
    assert plain["diverged"]["rule"].startswith("the mean loss of 20 batches is ")
    # of a best near 0 the limit is 3.1, which a mean of 20 exceeds before all of them are of random tokens
    assert 40 < plain["steps"] == len(plain["loss_curve"]) < 60
    losses = [loss for _, loss in plain["loss_curve"]]
    assert by_hand(losses, vocabulary=64) == plain["steps"] == plain["diverged"]["step"]
    assert plain["diverged"]["loss"] == losses[-1]

    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    cut = job("cut", **long)
    stops = [4, plain["steps"] - 2]
    stopped = []

    def stop(state: dict[str, Any]) -> None:
        if state["step"] in stops:
            stopped.append(state["step"])
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in stops:
        with pytest.raises(SystemExit):
            fit(cut, stop)
    assert stopped == stops
    again = words.train(cut)
    assert {**again, "seconds": 0} == {**plain, "seconds": 0}


def test_a_plain_rate_does_not_diverge(job: Job, words: SimpleNamespace, ift_rows: Path) -> None:
    for name, changes in {"cpt": {}, "ift": {"rows": ift_rows}}.items():
        long = {"schedule": words.trapezoid(None, None), "stop_step": 30 if name == "ift" else 60}
        assert "diverged" not in words.train(job(name, **long, **changes))


# --- products


@pytest.fixture
def house(tmp_path: Path, base: Path, cpt_rows: Path) -> House:
    return House(tmp_path / "store", base, cpt_rows)


def made_of(house: House, run: Product, kind: str, **spec: Any) -> Product:
    spec = {"kind": kind, "subject": run.key[-12:], **spec}
    model = house.base[0]
    return Product.of(f"{kind}s/it-000000000001", spec, (run.key, model))


def test_what_starts_from_a_leg_that_diverged_diverged_too(
    house: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = {**RECIPE, "method": words.FULL, "optimizer": {**OPTIMIZER, "learning_rate": 1e30},
             "warmup_batches": 2, "first_leg": 6}  # fmt: skip
    leg, results = house.train({"kind": "leg", "trunk": trunk, "batches": 6})
    assert "diverged" in results
    assert house.store.require(leg.key)["files"] == {}
    assert [path.name for path in house.store.directory(leg.key).iterdir()] == [COPY]
    assert not house.store.scratch(leg.key).exists()
    assert f"training diverged at step {results['diverged']['step']} (" in capsys.readouterr().err

    monkeypatch.setattr(loop, "fit", lambda *_: pytest.fail("trained"))
    later, after = house.train({"kind": "leg", "trunk": trunk, "batches": 12}, leg)
    _, branch = house.train({"kind": "run", "trunk": trunk, "batches": 20, "cooldown_batches": 4}, later)
    for found in (after, branch):
        assert found["diverged"] == {**results["diverged"], "leg": leg.key}
        assert (found["steps"], found["tokens"], found["loss_curve"]) == (0, 0, [])
    assert f"of {leg.key}" in capsys.readouterr().err


def test_a_leg_knows_the_best_loss_of_those_before(
    house: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = {**RECIPE, "method": words.LORA, "warmup_batches": 2, "first_leg": 24}
    told: list[float | None] = []
    train = loop.fit
    monkeypatch.setattr(loop, "fit", lambda job, *how: told.append(job.best_loss) or train(job, *how))
    first, results = house.train({"kind": "leg", "trunk": trunk, "batches": 24})
    second, more = house.train({"kind": "leg", "trunk": trunk, "batches": 48}, first)
    house.store.manifest_path(first.key).unlink()  # a leg that is lost is missed by none that starts from a later one
    house.train({"kind": "run", "trunk": trunk, "batches": 60, "cooldown_batches": 10}, second)
    curves = [[loss for _, loss in found["loss_curve"]] for found in (results, more)]
    means = [numpy.convolve(losses, numpy.full(20, 1 / 20), "valid") for losses in curves]
    after_first = min([curves[0][0], *means[0]])
    assert told == [None, pytest.approx(after_first), pytest.approx(min([after_first, *means[1]]))]


def test_measuring_a_model_that_diverged_costs_nothing_and_says_so(
    house: House, words: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {**RECIPE, **COSINE, "method": words.LORA, "optimizer": {**OPTIMIZER, "learning_rate": 1e30}}
    run, results = house.train({"kind": "run", **recipe, "batches": 10, "cooldown_batches": 2, "warmup_batches": 1})
    step = results["diverged"]["step"]

    def nothing(*_: Any) -> Any:
        pytest.fail("a harness was built, or something that judges")

    asked = {"gsm8k": "exact_match", "target_loss": "bits_per_byte", "pass_at_k": "pass@1"}
    for task, metric in asked.items():
        out = house.store.root / task
        out.mkdir()
        kind = "samples" if TASKS[task].writes else "evaluation"
        evaluation = made_of(house, run, kind, task=task, samples=4)
        build = evaluate._ask(house, evaluation, nothing, nothing)  # type: ignore[arg-type]
        if kind == "samples":
            key = Key(f"samples/{task}-000000000001")
            samples = Product.of(key, evaluation.spec, evaluation.inputs)
            assert house.store.make(samples, build, {})["results"] == {"diverged": step}
            judged = Product.of(f"evaluations/{task}-000000000001", {"kind": "evaluation", "task": task}, (key,))
            build = evaluate._judge(house, judged, nothing)  # type: ignore[arg-type]
        assert build(out) == {"metric": metric, "value": None, "stderr": None, "items": 0, "diverged": step}
        assert not any(out.iterdir())
    spectra = made_of(house, run, "spectra", whole=[])
    assert singular_values.builder(house, spectra)(house.store.root) == {"diverged": step}  # type: ignore[arg-type]
    assert "training diverged" in capsys.readouterr().err
