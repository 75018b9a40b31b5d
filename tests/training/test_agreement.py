"""Before the first step of an attempt the loss is compared with transformers' own; what differs is not trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scripts.common.errors import UserError
from scripts.training import attention, loop, objective
from scripts.training.loop import Fit
from tests.training.architectures import make

pytestmark = pytest.mark.arithmetic


def past_the_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output layer alone, without what the model's forward pass does behind it."""
    monkeypatch.setattr(objective.Head, "__call__", lambda head, hidden: head.network.get_output_embeddings()(hidden))


def without_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of segments alone; some are longer than Gemma3's window of 6 tokens."""
    found = attention.confined

    def confined(model: Any, segments: torch.Tensor) -> dict[str, Any]:
        mask = (segments[:, :, None] == segments[:, None, :]).tril()[:, None]
        return found(model, segments) | {"attention_mask": mask}

    monkeypatch.setattr(objective, "confined", confined)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("name", "fault", "attention"), [("Granite", past_the_scaling, "across"), ("Gemma3", without_windows, "within")]
)
def test_what_differs_from_transformers_ends_before_the_first_step(
    job: Callable[..., Fit], tmp_path: Path, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch,
    name: str, fault: Callable[[pytest.MonkeyPatch], None], attention: str, method: str, precision: str,
) -> None:  # fmt: skip
    base = make(name, tmp_path / "odd")
    changes = {"base": base, "attention": attention, "method": words.METHODS[method]}
    right = job("right", **changes, precision=precision, stop_step=2)
    assert words.train(right)["steps"] == 2
    fault(monkeypatch)
    wrong = job("wrong", **changes, precision=precision, stop_step=2)
    with pytest.raises(UserError, match=r"not trained as transformers has it: .* docs/architectures\.md"):
        words.train(wrong)
    assert not list(wrong.out.iterdir())
    assert not wrong.checkpoints.exists()


def test_every_attempt_is_compared(
    job: Callable[..., Fit], words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = job("cut", base=make("Granite", tmp_path / "granite"), checkpoint_seconds=0.0)
    with pytest.raises(SystemExit):
        words.train(replace(made, deadline=0.0))  # a checkpoint at once
    backward = loop.backward
    steps: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        steps.append(options["step"])
        if options["step"] == 3:
            raise KeyboardInterrupt
        return backward(*arguments, **options)

    monkeypatch.setattr(loop, "backward", counted)
    with pytest.raises(KeyboardInterrupt):
        words.train(made)
    assert steps == [0, 1, 2, 3]
    past_the_scaling(monkeypatch)
    with pytest.raises(UserError, match="not trained as transformers has it"):
        words.train(made)
    assert steps == [0, 1, 2, 3], "no step of the attempt that goes on"


def test_it_draws_nothing_and_leaves_no_gradient(
    job: Callable[..., Fit], words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, ift_rows: Path
) -> None:
    """So a job's numbers are those of a job that is not compared."""
    settings = {"method": words.LORA | {"dropout": 0.3}, "attention_dropout": 0.2, "rows": ift_rows, "stop_step": 4}
    compared = job("compared", **settings)
    words.train(compared)
    after = torch.random.get_rng_state()
    monkeypatch.setattr(loop, "require_agreement", lambda *_: None)
    plain = job("plain", **settings)
    words.train(plain)
    assert words.weights(compared.out) == words.weights(plain.out)
    assert torch.equal(after, torch.random.get_rng_state())
