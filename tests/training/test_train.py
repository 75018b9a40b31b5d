"""From specs to jobs: the products of one long run that is evaluated on the way, and what else a spec may say."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.data.batches import Batches
from scripts.training import loop, train
from tests.training.houses import COSINE, RECIPE, House

pytestmark = pytest.mark.arithmetic


@pytest.fixture
def ift(tmp_path: Path, base: Path, ift_rows: Path) -> House:
    return House(tmp_path / "store", base, ift_rows)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("choices", [{}, {"lag": 1, "attention": "within"}])
def test_hot_legs_and_runs_are_parts_of_one_uninterrupted_run(
    ift: House, words: SimpleNamespace, method: str, choices: dict[str, Any], ift_rows: Path
) -> None:
    trunk = {**RECIPE, **COSINE, **choices, "method": words.METHODS[method], "schedule_epochs": 3}
    whole, whole_results = ift.train({"kind": "run", "trunk": trunk, "epochs": 3})
    one, one_results = ift.train({"kind": "leg", "trunk": trunk, "epochs": 1})
    two, _ = ift.train({"kind": "leg", "trunk": trunk, "epochs": 2}, one)
    three, results = ift.train({"kind": "run", "trunk": trunk, "epochs": 3, "from": 2}, two)
    assert ift.weights(three) == ift.weights(whole)
    steps = Batches(ift_rows).steps_per_epoch
    assert steps
    assert (whole_results["steps"], results["steps"]) == (3 * steps, steps)
    assert results["loss_curve"] == whole_results["loss_curve"][-steps:]

    # the evaluated models on the way are those of the legs
    at_one, exported = ift.train({"kind": "run", "trunk": trunk, "epochs": 1}, one)
    assert ift.weights(at_one) == ift.weights(one) != ift.weights(two)
    assert (exported["steps"], exported["tokens"], exported["final_loss"]) == (0, 0, one_results["final_loss"])
    at_two, _ = ift.train({"kind": "run", "trunk": trunk, "epochs": 2}, one)
    assert ift.weights(at_two) == ift.weights(two)


def test_a_run_of_its_own_cools_down_where_a_hot_one_does_not(
    ift: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, ift_rows: Path
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    monkeypatch.setattr(train, "_reporter", lambda name: lambda event: rates.append(event["lr"]))
    recipe = {**RECIPE, **COSINE, "method": words.LORA}
    steps = Batches(ift_rows).steps_per_epoch
    assert steps
    ift.train({"kind": "run", **recipe, "epochs": 1})
    alone = rates[:]
    ift.train({"kind": "run", "trunk": {**recipe, "schedule_epochs": 2}, "epochs": 1})
    hot = rates[len(alone) :]
    assert len(alone) == len(hot) == steps
    assert alone[-1] < 0.2 * max(alone)
    assert hot[-1] > 0.5 * max(hot)


def test_what_a_spec_says_reaches_the_loop(ift: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[loop.Fit] = []
    monkeypatch.setattr(loop, "fit", lambda job, report, group: jobs.append(job) or {})
    choices = {"loss": "token_mean", "attention": "within", "attention_dropout": {"rate": 0.1, "drawn_by": "row"}}
    recipe = {**RECIPE, "method": words.FULL}
    ift.train({"kind": "run", **recipe, **COSINE, "epochs": 1})
    ift.train({"kind": "run", **recipe, **COSINE, **choices, "lag": 1, "epochs": 1})
    cpt = {"trunk": {**recipe, **choices, "warmup_batches": 6, "first_leg": 4}, "batches": 4}
    ift.train({"kind": "leg", **cpt})
    ift.train({"kind": "run", **cpt, "cooldown_batches": 1, "short_branch": "warmup_only"})
    said = [(job.loss, job.attention, job.attention_dropout) for job in jobs]
    assert said == [("group_mean", "across", 0.0), *3 * [("token_mean", "within", 0.1)]]
    assert [job.schedule.get("lag") for job in jobs] == [None, 1, None, None]
    assert [job.schedule.get("short_branch") for job in jobs] == [None, None, None, "warmup_only"]
    assert [job.keep_optimizer for job in jobs] == [False, False, True, False]
