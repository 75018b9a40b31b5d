"""The loss of a pass: transformers' own, in whatever chunks; attention within segments by sequences or by a mask."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import varlen

from scripts.training import objective
from scripts.training.attention import begins_of, use_varlen
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward
from tests.training.kernels import sequences

pytestmark = pytest.mark.arithmetic

VOCABULARY = 64
DRAW = torch.Generator().manual_seed(4)
TOKENS = torch.randint(3, VOCABULARY, (3, 16), generator=DRAW)
LABELS = torch.where(torch.rand(TOKENS.shape, generator=DRAW) < 0.6, TOKENS, -100)
SEGMENTS = torch.tensor([[0] * 16, [0] * 5 + [1] * 11, [4] * 1 + [2] * 6 + [3] * 9])


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found


@pytest.fixture(params=["full", "lora"])
def model(request: pytest.FixtureRequest, base: Path, words: SimpleNamespace) -> Any:
    made = trainable_model(base, words.METHODS[request.param], 0, None).train()
    for name, value in made.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    return made


@pytest.mark.parametrize("at_once", [1, 5, 1000])
def test_the_loss_is_transformers_own_in_whatever_chunks(
    model: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """And logits are only of what is scored, and never of more than so many positions at once."""
    expected = model(TOKENS, labels=LABELS).loss
    expected.backward()
    wanted = gradients(model)
    seen: list[int] = []
    head = (model.get_base_model() if hasattr(model, "get_base_model") else model).lm_head
    head.register_forward_hook(lambda _, given, logits: seen.append(logits.numel() // VOCABULARY))
    monkeypatch.setattr(objective, "CHUNK_LOGITS", at_once * VOCABULARY)
    loss, tokens = backward(Objective(model, "fp32"), TOKENS, LABELS, 3, loss="token_mean")
    found = gradients(model)
    assert tokens == int((LABELS[:, 1:] != -100).sum()) > 10
    assert max(seen) <= at_once
    forwards = 1 if at_once >= tokens else 2  # a chunk is computed again for its gradient
    assert sum(seen) == forwards * tokens
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).norm() <= 2e-6 * value.norm(), name


def test_segments_begin_where_rows_do_too() -> None:
    assert begins_of(SEGMENTS).tolist() == [0, 16, 21, 32, 33, 39, 48]
    assert begins_of(SEGMENTS).dtype == torch.int32


def test_attention_by_sequences_is_attention_by_a_mask(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = backward(Objective(model, "fp32"), TOKENS, LABELS, 3, segments=SEGMENTS)
    wanted = gradients(model)
    across, _ = backward(Objective(model, "fp32"), TOKENS, LABELS, 3)
    others = gradients(model)
    monkeypatch.setattr(varlen, "varlen_attn", sequences)
    use_varlen(model)
    loss, _ = backward(Objective(model, "fp32"), TOKENS, LABELS, 3, segments=SEGMENTS)
    found = gradients(model)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, value in wanted.items():
        assert (found[name] - value).norm() <= 1e-5 * value.norm(), name
    again, _ = backward(Objective(model, "fp32"), TOKENS, LABELS, 3)
    assert again.item() == across.item() != loss.item(), "without segments nothing is another"
    assert all(torch.equal(value, others[name]) for name, value in gradients(model).items())
