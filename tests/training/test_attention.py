"""Attention dropout: transformers' own, drawn for each row by itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from scripts.training.dropout import dropout_of, row_seeds
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward

pytestmark = pytest.mark.arithmetic

RATE = 0.3
TOKENS = torch.randint(3, 64, (6, 16), generator=torch.Generator().manual_seed(4))
SEGMENTS = (torch.arange(16) >= torch.arange(2, 8)[:, None]).long()
PLACES = torch.arange(16)


def gradient(model: torch.nn.Module) -> torch.Tensor:
    found = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
    model.zero_grad()
    return found


def test_is_transformers_dropout_of_one_row_after_another(base: Path, words: SimpleNamespace) -> None:
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attention_dropout=RATE).train()
    row = 0

    def seeded(module: Any, *_: Any) -> None:
        drawn = np.random.SeedSequence([7, 11, 40 + row, module.layer_idx])
        torch.manual_seed(int(drawn.generate_state(1)[0]))

    for layer in reference.model.layers:
        layer.self_attn.register_forward_pre_hook(seeded)
    model = trainable_model(base, words.FULL, 0, None, RATE).train()
    with torch.no_grad(), dropout_of(7, 11, torch.arange(40, 46)[:, None], PLACES):
        found = model(TOKENS).logits
        for row in range(6):
            torch.testing.assert_close(found[row : row + 1], reference(TOKENS[row : row + 1]).logits)
        assert not torch.allclose(found, model.eval()(TOKENS).logits, atol=1e-2)


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["across", "within"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_no_cut_of_the_batch_changes_what_is_dropped(
    base: Path, words: SimpleNamespace, method: str, segments: torch.Tensor | None
) -> None:
    model = trainable_model(base, words.METHODS[method], 0, None, RATE).train()
    scored = Objective(model, "fp32")

    def whole(rows: int, *shares: slice) -> torch.Tensor:
        for share in shares:
            backward(scored, TOKENS, TOKENS, 6, segments=segments, step=9, pass_tokens=rows * 16, share=share)
        return gradient(model)

    expected = whole(6, slice(0, 6))
    for found in (whole(1, slice(0, 6)), whole(4, slice(0, 6)), whole(2, slice(0, 3), slice(3, 6))):
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    backward(scored, TOKENS, TOKENS, 6, segments=segments, step=10)
    assert (gradient(model) - expected).abs().max() > 1e-2 * expected.abs().max(), "another step, other ones dropped"


def test_every_seed_step_row_and_layer_has_its_own_numbers() -> None:
    seeds: list[int] = []
    for seed in range(4):
        for step in range(60):
            with dropout_of(seed, step, torch.arange(12)[:, None], PLACES):
                seeds += [number for layer in range(6) for number in row_seeds(layer)]
    assert all(0 <= number < 2**32 for number in seeds)
    assert len(seeds) == 4 * 60 * 12 * 6
    assert len(seeds) - len(set(seeds)) < 5  # among 17,280 of 2**32 a pair is expected in one of 29 draws


def test_outside_of_dropout_of_training_is_refused(base: Path, words: SimpleNamespace) -> None:
    model = trainable_model(base, words.FULL, 0, None, RATE).train()
    with pytest.raises(RuntimeError, match="dropout_of"):
        model(TOKENS)
