"""Models that diverged in figures of no scores, and in the claims: left out, counted, named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from scripts.artifacts.paper_claims import judge
from scripts.common.errors import UserError
from scripts.evaluation.results import SAMPLES, write_samples
from scripts.plan.conditions import Condition
from tests.artifacts import kinds
from tests.artifacts.conftest import footer, legend_entries
from tests.artifacts.test_claims import FORGETTING, MEASURED, OPEN, PRINTED, claim, models, only, verdicts
from tests.artifacts.test_rank_dynamics import DURATIONS, LAYERS, equal_values
from tests.artifacts.test_rank_dynamics import MODULES as PLACES
from tests.artifacts.test_spectrum import MATRIX, values

NOTHING = {"metric": "m", "value": None, "stderr": None, "items": 0, "diverged": 3}


def last_full(block: str) -> Condition:
    return max((c for c in kinds.conditions(block) if c.method == "full"), key=lambda c: c.amount)


def test_pass_at_k(tmp_path: Path) -> None:
    launch, gone = kinds.launch(tmp_path), last_full("pass-at-k")
    for condition in kinds.conditions("pass-at-k"):
        metrics = {"pass@1": 0.2, "pass@2": 0.3}
        results = {"items": 164, "metrics": metrics, "errors": dict.fromkeys(metrics, 0.01)}
        kinds.put(launch.store, condition.evaluations["pass_at_k"], NOTHING if condition == gone else results)
    rows = kinds.collected(launch, "figS9", tmp_path / "figS9.csv")
    assert [row["condition"] for row in rows if row["state"] == "diverged"] == [gone.product[-12:]]
    drawn = kinds.figure(tmp_path / "figS9.csv", "figS9")
    assert legend_entries(drawn) == ["LoRA (r=16)", "LoRA (r=64)", "LoRA (r=256)", "base model"]
    assert "; 1 diverged" in footer(drawn)
    assert "not there yet" not in footer(drawn)


def test_diversity(tmp_path: Path) -> None:
    launch, gone = kinds.launch(tmp_path), last_full("diversity")
    samples = [{"item": item, "completions": ["a", "b"], "verdicts": ["passed", "wrong"]} for item in range(4)]
    write_samples(samples, tmp_path)
    for condition in kinds.conditions("diversity"):
        key = condition.evaluations["humaneval"]
        if condition == gone:
            kinds.put(launch.store, key, NOTHING)
        else:
            kinds.put(launch.store, key, {}, samples__parquet=(tmp_path / SAMPLES).read_bytes())
    kinds.collected(launch, "fig5", tmp_path / "fig5.csv")
    drawn = kinds.figure(tmp_path / "fig5.csv", "fig5")
    ticks = [label.get_text() for label in drawn.axes[0].get_xticklabels()]
    assert not any("full" in tick for tick in ticks)
    assert all(tick.endswith("4 of 4") for tick in ticks)
    assert "; 1 diverged" in footer(drawn)


def test_ranks_and_spectra(tmp_path: Path) -> None:
    launch, gone = kinds.launch(tmp_path), last_full("spectra")
    assert gone.duration == DURATIONS[-1]
    for condition in kinds.conditions("spectra"):
        if condition.method != "full":
            continue
        key = condition.evaluations["spectra"]
        if condition == gone:
            kinds.put(launch.store, key, {"diverged": 3})
            continue
        found = {f"{part}.{MATRIX}": values(part, condition.amount) for part in ("base", "tuned", "delta")}
        found |= {
            f"delta.model.layers.{layer}.{place}.{module}": equal_values(2)
            for layer in range(LAYERS)
            for module, place in PLACES.items()
        }
        kinds.put(launch.store, key, {}, spectra__safetensors=save(found))
    kinds.collected(launch, "fig6", tmp_path / "fig6.csv")
    ranks = kinds.figure(tmp_path / "fig6.csv", "fig6")
    assert {str(found.get_gid()) for found in ranks.axes[0].lines} == {*DURATIONS[:-1], "full rank"}
    assert "; 1 diverged" in footer(ranks)
    assert "not there yet" not in footer(ranks)
    # figure S7 shows the longest alone
    with pytest.raises(UserError, match="figS7: training diverged in every fully finetuned model of spectrum"):
        kinds.collected(launch, "figS7", tmp_path / "figS7.csv")


def test_what_would_be_compared_with_a_diverged_model_cannot_be_said() -> None:
    """Not with what is left, which would be of other durations."""
    made: list[Any] = models(PRINTED)
    gone = ("code-cpt", "full", 20e9)
    made = [
        replace(one, scores={}, diverged=True) if (one.setting, one.method, one.duration_value) == gone else one
        for one in made
    ]
    reason = "training of code-cpt full at 20B tokens diverged"
    learned = claim("learns-less", made)
    comparison = only(learned, "code-cpt")
    assert (comparison.verdict, comparison.reason, comparison.found) == (OPEN, reason, None)
    assert only(learned, "math-cpt").found is not None
    found = {one.claim.name: one for one in judge(made, FORGETTING)}
    without = {name for name in MEASURED if any(c.reason == reason for c in found[name].comparisons)}
    assert without == {
        "learns-less", "forgets-less", "forgets-less-at-equal-learning", "code-cpt-order", "ift-forgets-more",
        "code-forgets-more", "forgetting-grows", "forgetting-order",
    }  # fmt: skip
    whole = verdicts(judge(models(PRINTED), FORGETTING))
    rest = set(MEASURED) - without
    assert {name: found[name].verdict for name in rest} == {name: whole[name] for name in rest}
