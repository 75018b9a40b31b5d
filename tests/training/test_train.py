"""From specs to jobs: the products of one long run that is evaluated on the way, and what else a spec may say."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.data.batches import Batches
from scripts.study.fingerprint import fingerprint
from scripts.study.grid import Product
from scripts.study.store import Store
from scripts.training import loop, train

OPTIMIZER = {
    "name": "decoupled_lionw",
    "learning_rate": 2e-3,
    "betas": [0.9, 0.95],
    "weight_decay": 1e-4,
    "clip_norm": 1.0,
}
RECIPE = {"optimizer": OPTIMIZER, "seed": 5, "precision": "fp32"}
COSINE = {"warmup_fraction": 0.1, "final_fraction": 0.01}


class House:
    """A store with a base model and rows, and as much of a launch as training asks for."""

    def __init__(self, root: Path, base: Path, rows: Path) -> None:
        self.store = Store(root)
        self.grid = SimpleNamespace(study=SimpleNamespace(resources=SimpleNamespace(checkpoint_seconds=1e9)))
        self.base = tuple(self.bring(kind, source) for kind, source in [("model", base), ("rows", rows)])

    def code_of(self, product: Product) -> dict[str, Any]:
        return {}

    def bring(self, kind: str, source: Path) -> str:
        product = Product(f"{kind}s/given-000000000000", {"kind": kind}, ())
        build = lambda out: shutil.copytree(source, out, dirs_exist_ok=True) and {}  # noqa: E731
        self.store.make(product, build, {})
        return product.key

    def product(self, spec: dict[str, Any], *start: Product) -> Product:
        key = f"{spec['kind']}s/it-{fingerprint(spec)}"
        return Product(key, spec, (*self.base, *(leg.key for leg in start)))

    def train(self, spec: dict[str, Any], *start: Product) -> tuple[Product, dict[str, Any]]:
        """The product, and its manifest's results."""
        product = self.product(spec, *start)
        return product, train.train(self, product)["results"]  # type: ignore[arg-type]

    def weights(self, product: Product) -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in self.store.directory(product.key).glob("*model.safetensors")}
        assert found
        return found


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
    monkeypatch.setattr(loop, "fit", lambda job, report: jobs.append(job) or {})
    choices = {"loss": "token_mean", "attention": "within", "attention_dropout": 0.1}
    recipe = {**RECIPE, "method": words.FULL}
    ift.train({"kind": "run", **recipe, **COSINE, "epochs": 1})
    ift.train({"kind": "run", **recipe, **COSINE, **choices, "lag": 1, "epochs": 1})
    cpt = {"trunk": {**recipe, **choices, "warmup_batches": 6, "first_leg": 4}, "batches": 4}
    ift.train({"kind": "leg", **cpt})
    ift.train({"kind": "run", **cpt, "cooldown_batches": 1, "short_branch": "warmup_only"})
    said = [(job.loss, job.attention, job.attention_dropout) for job in jobs]
    assert said == [("group_mean", "across", 0.0), *3 * [tuple(choices.values())]]
    assert [job.schedule.get("lag") for job in jobs] == [None, 1, None, None]
    assert [job.schedule.get("short_branch") for job in jobs] == [None, None, None, "warmup_only"]
    assert [job.keep_optimizer for job in jobs] == [False, False, True, False]
