"""The loop: its loss by hand, the same weights however a run is cut into pieces, and what stops it."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from scripts.common.errors import UserError
from scripts.components.methods.full import Full
from scripts.data.batches import Batches
from scripts.training import loop, objective
from scripts.training.loop import Fit, fit
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward

pytestmark = pytest.mark.arithmetic

Job = Callable[..., Fit]
COSINE = {"name": "cosine", "batches": 20, "warmup_fraction": 0.1, "final_fraction": 0.01}


def masked_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four rows with 15, 1, 7 and 3 targets, one of them in the last column."""
    input_ids = torch.from_numpy(np.random.default_rng(5).integers(3, 64, (4, 16)))
    labels = torch.full_like(input_ids, -100)
    for row, columns in enumerate([range(16), [15], range(2, 9), [0, 4, 5, 15]]):
        labels[row, list(columns)] = input_ids[row, list(columns)]
    return input_ids, labels


@pytest.mark.parametrize("pass_tokens", [16, 32, 4096])
@pytest.mark.parametrize("group_rows", [1, 2, 4])
def test_loss_is_the_mean_over_groups_of_the_mean_over_tokens(
    base: Path, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, group_rows: int, pass_tokens: int
) -> None:
    input_ids, labels = masked_batch()
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, attn_implementation="eager")
    likelihood = reference(input_ids).logits.log_softmax(-1)
    groups = []
    for first in range(0, 4, group_rows):
        tokens = [
            -likelihood[row, column - 1, labels[row, column]]
            for row in range(first, first + group_rows)
            for column in range(1, 16)
            if labels[row, column] != -100
        ]
        groups.append(sum(tokens) / len(tokens))
    expected = sum(groups) / len(groups)
    expected.backward()

    monkeypatch.setattr(objective, "PASS_TOKENS", pass_tokens)
    model = trainable_model(base, words.FULL, 0, None)
    loss, count = backward(Objective(model, "fp32"), input_ids, labels, group_rows)
    assert count == 15 + 1 + 7 + 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, found), wanted in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_group_without_targets_adds_nothing(base: Path, words: SimpleNamespace) -> None:
    input_ids, labels = masked_batch()
    model = trainable_model(base, words.FULL, 0, None)
    alone, _ = backward(Objective(model, "fp32"), input_ids[:2], labels[:2], 2)
    labels[2:] = -100
    loss, count = backward(Objective(model, "fp32"), input_ids, labels, 2)
    assert count == 16
    assert loss.item() == pytest.approx(alone.item() / 2, rel=1e-6)


@pytest.mark.parametrize("pass_tokens", [16, 4096])
def test_token_mean_weighs_every_token_the_same(
    base: Path, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, pass_tokens: int
) -> None:
    input_ids, labels = masked_batch()
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, attn_implementation="eager")
    logits = reference(input_ids).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    expected.backward()

    monkeypatch.setattr(objective, "PASS_TOKENS", pass_tokens)
    model = trainable_model(base, words.FULL, 0, None)
    loss, count = backward(Objective(model, "fp32"), input_ids, labels, 2, loss="token_mean")
    assert count == 15 + 1 + 7 + 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, found), wanted in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_unknown_loss(base: Path, words: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="'sum' is unknown; allowed are group_mean and token_mean"):
        backward(Objective(trainable_model(base, words.FULL, 0, None), "fp32"), *masked_batch(), 2, loss="sum")


@pytest.fixture(params=["cpt_rows", "ift_rows"])
def packed(request: pytest.FixtureRequest) -> SimpleNamespace:
    """A batch with several documents or examples in its rows; `texts` are (row, slice) of each, without padding."""
    batches = Batches(request.getfixturevalue(request.param))
    input_ids, labels, segments = (torch.as_tensor(array) for array in (*batches.batch(1), batches.segments(1)))
    texts = []
    for row in range(4):
        for number in segments[row].unique():
            places = (segments[row] == number).nonzero()[:, 0]
            text = slice(int(places[0]), int(places[-1]) + 1)
            if input_ids[row, text.start] != 2:  # padding
                texts.append((row, text))
    assert len(texts) >= 6
    return SimpleNamespace(input_ids=input_ids, labels=labels, segments=segments, texts=texts)


@pytest.mark.parametrize("pass_tokens", [16, 4096])
def test_attention_within_is_that_of_every_text_alone(
    base: Path, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, packed: SimpleNamespace, pass_tokens: int
) -> None:
    """The reference sees each document or example in a row of its own, in float64, by another kernel."""
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, attn_implementation="eager")
    losses: list[list[torch.Tensor]] = [[], []]
    for row, text in packed.texts:
        likelihood = reference(packed.input_ids[row, text][None]).logits[0].log_softmax(-1)
        labels = packed.labels[row, text].tolist()
        losses[row // 2] += [-likelihood[at - 1, labels[at]] for at in range(1, len(labels)) if labels[at] != -100]
    expected = sum(sum(group) / len(group) for group in losses) / 2
    expected.backward()

    monkeypatch.setattr(objective, "PASS_TOKENS", pass_tokens)
    model = trainable_model(base, words.FULL, 0, None)
    loss, count = backward(Objective(model, "fp32"), packed.input_ids, packed.labels, 2, segments=packed.segments)
    assert count == sum(map(len, losses))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, found), wanted in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_neighbour_in_the_row_changes_nothing_within(
    base: Path, words: SimpleNamespace, packed: SimpleNamespace, method: str
) -> None:
    row, text = next((row, text) for row, text in packed.texts if text.start > 2 and text.stop - text.start > 2)
    labels = torch.full_like(packed.labels, -100)
    labels[row, text] = packed.input_ids[row, text]
    perturbed = packed.input_ids.clone()
    perturbed[row, : text.start] = (perturbed[row, : text.start] + 7) % 60 + 3
    model = trainable_model(base, words.METHODS[method], 0, None)

    def seen(input_ids: torch.Tensor, segments: torch.Tensor | None) -> tuple[float, list[torch.Tensor]]:
        loss, _ = backward(Objective(model, "fp32"), input_ids, labels, 4, segments=segments)
        trained = [value for value in model.parameters() if value.requires_grad]
        gradients = [value.grad.clone() for value in trained]
        model.zero_grad()
        return loss.item(), gradients

    loss, gradients = seen(packed.input_ids, packed.segments)
    again, same = seen(perturbed, packed.segments)
    assert again == loss
    for found, wanted in zip(same, gradients, strict=True):
        assert torch.equal(found, wanted)
    assert seen(perturbed, None)[0] != seen(packed.input_ids, None)[0]


def test_a_run_within_trains_on_other_logits_than_one_across(job: Job, words: SimpleNamespace) -> None:
    across, within = words.train(job("across")), words.train(job("within", attention="within"))
    assert within["loss_tokens"] < across["loss_tokens"]  # a document's first token has nothing of its own before it
    assert within["final_loss"] != pytest.approx(across["final_loss"], rel=1e-3)


VARIANTS: dict[str, dict[str, Any]] = {
    "attention_dropout": {"attention_dropout": 0.2},
    "lora_dropout": {"method": "lora", "dropout": 0.2},
    "both_within": {"method": "lora", "dropout": 0.2, "attention_dropout": 0.2, "attention": "within"},
    "decoupled_adamw": {"optimizer": {"name": "decoupled_adamw", "betas": [0.9, 0.95], "eps": 1e-8}},
    "sgd": {"optimizer": {"name": "sgd", "momentum": 0.9}},
    "late": {"lag": 1},
}


def variant(job: Job, words: SimpleNamespace, kind: str, name: str, **changes: Any) -> Fit:
    """A job that differs from the plain one by one of `VARIANTS`."""
    made = dict(VARIANTS[kind])
    method = words.METHODS[made.pop("method", "full")]
    if "dropout" in made:
        method = {**method, "dropout": made.pop("dropout")}
    schedule = changes.pop("schedule", words.trapezoid(12, 4)) | {"lag": made.pop("lag", 0)}
    if "optimizer" in made:
        made["optimizer"] = {**made["optimizer"], "learning_rate": 2e-3, "weight_decay": 1e-4, "clip_norm": 1.0}
    return job(name, method=method, schedule=schedule, **made, **changes)


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_go_on_bit_for_bit(
    job: Job, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """In legs and a branch, the branch interrupted after a checkpoint, with other random numbers drawn between."""
    plain = job("plain")
    words.train(plain)
    whole = variant(job, words, kind, "whole")
    words.train(whole)
    trunk = {"schedule": words.trapezoid(None, None), "keep_optimizer": True}
    first = variant(job, words, kind, "first", stop_step=2, **trunk)
    words.train(first)
    torch.manual_seed(99)
    second = variant(job, words, kind, "second", start=first.out, start_step=2, stop_step=5, **trunk)
    words.train(second)
    branch = variant(job, words, kind, "branch", start=second.out, start_step=5, checkpoint_seconds=0)

    def fail(state: dict[str, Any]) -> None:
        if state["step"] == 9:
            raise RuntimeError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "REPORT_SECONDS", 0)
        with pytest.raises(RuntimeError, match="power failure"):
            fit(branch, fail)
    assert sorted(path.name for path in branch.checkpoints.iterdir()) == ["step-000007", "step-000008"]
    words.train(branch)
    assert words.weights(branch.out) == words.weights(whole.out) != {}
    assert words.weights(whole.out) != words.weights(plain.out)


def test_dropout_leaves_the_random_numbers_of_others_alone(job: Job, words: SimpleNamespace) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    words.train(variant(job, words, "both_within", "run", stop_step=2))
    assert torch.equal(torch.rand(2), expected)


def test_a_job_without_steps_exports_the_weights_it_starts_from(job: Job, words: SimpleNamespace) -> None:
    for name, method in words.METHODS.items():
        leg = job(f"leg-{name}", method=method, stop_step=3, keep_optimizer=True)
        words.train(leg)
        export = job(f"export-{name}", method=method, start=leg.out, start_step=3, stop_step=3)
        metrics = words.train(export)
        assert words.weights(export.out) == words.weights(leg.out) != {}
        assert {**metrics, "seconds": 0} == {
            "steps": 0, "tokens": 0, "loss_tokens": 0, "final_loss": None, "loss_curve": [],
            "best_loss": None, "seconds": 0
        }  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("legs", [[8], [2, 8], [1, 4, 5], [3, 6, 7, 8]])
def test_legs_and_a_branch_equal_one_piece(job: Job, words: SimpleNamespace, method: str, legs: list[int]) -> None:
    """Legs also end inside the warmup (3); branches also go on at the constant rate before the cooldown (8)."""
    kind = words.METHODS[method]
    whole = job("whole", method=kind)
    words.train(whole)
    start, at = None, 0
    for end in legs:
        leg = job(
            f"leg-{end}",
            method=kind,
            schedule=words.trapezoid(None, None),
            start=start,
            start_step=at,
            stop_step=end,
            keep_optimizer=True,
        )
        words.train(leg)
        start, at = leg.out, end
    branch = job("branch", method=kind, start=start, start_step=at)
    metrics = words.train(branch)
    assert metrics["steps"] == 12 - at
    assert metrics["loss_curve"][0][0] == at + 1
    assert metrics["loss_curve"][-1][0] == 12
    assert words.weights(branch.out) == words.weights(whole.out) != {}


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("dies_at", "checkpoint_every"), [([1], 1), ([2, 3, 7], 1), ([6, 11], 4), ([3], 100)])
def test_interrupted_and_resumed_equals_uninterrupted(
    job: Job,
    words: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    dies_at: list[int],
    checkpoint_every: int,
) -> None:
    """A clock that shows one more second each time it is read makes reports and checkpoints come at known steps."""
    plain = job("plain", method=words.METHODS[method])
    expected = words.train(plain)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    seconds = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(seconds))
    cut = job("cut", method=words.METHODS[method], checkpoint_seconds=checkpoint_every)

    for death in dies_at:

        def report(state: dict[str, Any], death: int = death) -> None:
            if state["step"] == death:
                raise RuntimeError("power failure")

        with pytest.raises(RuntimeError, match="power failure"):
            fit(cut, report)
        assert not any(cut.out.iterdir())
    steps = []
    metrics = fit(cut, lambda state: steps.append(state["step"]))
    first = steps[0] - 1
    assert first == 0 if checkpoint_every == 100 else dies_at[-1] - checkpoint_every - 1 <= first < dies_at[-1]
    assert words.weights(cut.out) == words.weights(plain.out) != {}
    assert {**metrics, "seconds": 0} == {**expected, "seconds": 0}


def test_damaged_newest_checkpoint_costs_only_its_steps(
    job: Job, words: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = job("plain")
    words.train(plain)
    cut = job("cut", checkpoint_seconds=0)
    words.train(cut)
    kept = sorted(path.name for path in cut.checkpoints.iterdir())
    assert kept == ["step-000010", "step-000011"]
    (weights,) = (cut.checkpoints / "step-000011").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    again = replace(cut, out=job("again").out)
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "REPORT_SECONDS", 0)
        fit(again, lambda state: steps.append(state["step"]))
    assert steps == [11, 12]
    assert "step-000011 cannot be read" in capsys.readouterr().err
    assert words.weights(again.out) == words.weights(plain.out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 5, 12])
def test_signal_saves_and_stops(
    job: Job, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, number: int, step: int
) -> None:
    plain = job("plain")
    words.train(plain)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    def report(state: dict[str, Any]) -> None:
        if state["step"] == step:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    cut = job("cut")
    with pytest.raises(SystemExit) as stopped:
        fit(cut, report)
    assert stopped.value.code == 75
    assert [path.name for path in cut.checkpoints.iterdir()] == [f"step-{step:06d}"]
    assert not any(cut.out.iterdir())
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    metrics = words.train(cut)
    assert metrics["steps"] == 12
    assert words.weights(cut.out) == words.weights(plain.out)


@pytest.mark.parametrize("what", ["a checkpoint", "the weights"])
def test_a_full_disk_costs_no_more_than_the_way_back_to_a_checkpoint(
    job: Job, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    plain = job("plain")
    words.train(plain)
    cut = job("cut", checkpoint_seconds=0)
    sync, synced = loop.checkpoints._sync, iter(range(1000))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if what == "a checkpoint":  # three calls for each: the seventh fails
            patch.setattr(loop.checkpoints, "_sync", lambda path: full() if next(synced) >= 19 else sync(path))
        else:
            patch.setattr(Full, "save", full)
        with pytest.raises(UserError, match=r" could not be written \(No space left on device\); earlier checkpoints"):
            words.train(cut)
    kept = sorted(int(path.name.removeprefix("step-")) for path in cut.checkpoints.iterdir())
    assert kept == ([5, 6] if what == "a checkpoint" else [10, 11])
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "REPORT_SECONDS", 0)
        fit(replace(cut, checkpoint_seconds=1e9), lambda state: steps.append((state["resumed_at"], state["step"])))
    assert steps == [(kept[-1], step) for step in range(kept[-1] + 1, 13)]
    assert words.weights(cut.out) == words.weights(plain.out)


def test_a_checkpoint_of_another_product_is_refused(job: Job, words: SimpleNamespace) -> None:
    first = job("first", product="runs/first", checkpoint_seconds=0)
    words.train(first)
    other = replace(job("other", product="runs/other"), checkpoints=first.checkpoints)
    with pytest.raises(UserError, match="step-000011 is a checkpoint of runs/first, not of runs/other; delete"):
        words.train(other)
    assert not any(other.out.iterdir())


def test_instruction_finetuning_learns_and_counts_what_it_trained_on(
    job: Job, words: SimpleNamespace, ift_rows: Path
) -> None:
    batches = Batches(ift_rows)
    assert batches.steps_per_epoch is not None
    stop = 2 * batches.steps_per_epoch
    run = job("ift", rows=ift_rows, schedule={**COSINE, "batches": stop}, stop_step=stop)
    metrics = words.train(run)
    targets = [int((batches.batch(step)[1] != -100).sum()) for step in range(stop)]
    assert metrics["loss_tokens"] == sum(targets)  # a row's first token is a prompt, so the shift loses none
    assert metrics["tokens"] == stop * 4 * 16
    curve = [loss for _, loss in metrics["loss_curve"]]
    assert len(curve) == stop
    assert metrics["final_loss"] == pytest.approx(np.mean(curve[-20:]))
    assert curve[0] > 4  # ln 64 = 4.16
    assert np.mean(curve[-5:]) < np.mean(curve[:5]) - 0.3


def test_loss_curve_is_thinned(job: Job, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = words.train(job("whole"))["loss_curve"]
    monkeypatch.setattr(loop, "CURVE_POINTS", 5)
    thin = words.train(job("thin"))["loss_curve"]
    assert [step for step, _ in thin] == [3, 6, 9, 12]
    assert [loss for _, loss in thin] == pytest.approx(
        [np.mean([loss for step, loss in whole if low < step <= low + 3]) for low in (0, 3, 6, 9)]
    )


def test_report(job: Job, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    states: list[dict[str, Any]] = []
    metrics = fit(job("run"), states.append)
    assert [(state["step"], state["steps"]) for state in states] == [(step, 12) for step in range(1, 13)]
    assert [state["loss"] for state in states] == [loss for _, loss in metrics["loss_curve"]]
    assert [state["lr"] / 2e-3 for state in states] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 3 / 4, 1 / 2, 1 / 4]
    )
    assert [state["tokens"] for state in states] == [4 * 16 * step for step in range(1, 13)]
    assert {(state["resumed_at"], state["mfu"], state["devices"]) for state in states} == {(0, None, 1)}
    assert all(state["tokens_per_second"] > 0 and state["memory_bytes"] > 10**6 for state in states)
    assert states[-1]["eta_seconds"] == 0 < states[0]["eta_seconds"]


def test_bf16_trains_fp32_weights(job: Job, words: SimpleNamespace) -> None:
    exact, rounded = job("exact", stop_step=6), job("rounded", stop_step=6, precision="bf16", keep_optimizer=True)
    expected, found = words.train(exact), words.train(rounded)
    assert found["final_loss"] == pytest.approx(expected["final_loss"], rel=0.02)
    assert found["final_loss"] != expected["final_loss"]
    from safetensors.torch import load_file

    for file in ("model.safetensors", "optimizer.safetensors"):
        assert {tensor.dtype for tensor in load_file(rounded.out / file).values()} == {torch.float32}


def test_settings_of_torch_are_put_back(job: Job, words: SimpleNamespace) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    words.train(job("run", stop_step=1))
    assert torch.are_deterministic_algorithms_enabled() == before


def test_seconds_add_up_over_attempts(job: Job, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    cut = job("cut")
    with pytest.raises(SystemExit):
        fit(cut, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    first = json.loads((cut.checkpoints / "step-000001" / "state.json").read_text())["progress"]
    metrics = words.train(cut)
    assert math.isfinite(metrics["seconds"])
    assert 0 < first["seconds"] < metrics["seconds"]
