"""LoRA's dropout: equal to plain integers, evenly spread, the same in any cut of a batch, peft's but for its masks."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import AutoModelForCausalLM

from scripts.training import dropout, loop, objective
from scripts.training.dropout import LoraDropout, dropout_of, keep_mask
from scripts.training.loop import Fit, fit
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward

pytestmark = pytest.mark.arithmetic

MODULE = "model.layers.0.mlp.up_proj"


def lowbias32(x: int) -> int:
    """As published: https://github.com/skeeto/hash-prospector."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


@cache
def keys(seed: int, step: int, module: str) -> list[int]:
    name = int.from_bytes(module.encode(), "little")
    return [int(word) for word in np.random.SeedSequence([seed, step, name]).generate_state(2)]


def drops(seed: int, step: int, module: str, row: int, position: int, channel: int, rate: float) -> bool:
    """One element, in Python's integers."""
    token_key, channel_key = keys(seed, step, module)
    token = lowbias32((row * 0x9E3779B9 + position) % 2**32 ^ token_key)
    bits = lowbias32(token ^ lowbias32(channel ^ channel_key))
    return (bits ^ 2**31) / 2**32 < rate  # as a signed number, from the lowest up


def kept(seed: int, step: int, module: str, shape: tuple[int, int, int], rate: float) -> np.ndarray:
    """Where a batch of this shape is kept."""
    rows, positions = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    return keep_mask(seed, step, module, rows, positions, shape[2], rate).numpy() != 0


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    step=st.integers(0, 10**7),
    module=st.sampled_from([MODULE, "model.layers.31.self_attn.q_proj", "ü"]),
    tokens=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 2**20)), min_size=1, max_size=7),
    channels=st.integers(1, 35),
    rate=st.one_of(st.just(0.05), st.floats(0, 1, exclude_max=True)),
)
def test_masks_are_those_of_plain_integers(
    seed: int, step: int, module: str, tokens: list[tuple[int, int]], channels: int, rate: float
) -> None:
    rows, positions = torch.tensor(tokens).T
    found = keep_mask(seed, step, module, rows, positions, channels, rate)
    assert found.dtype == torch.float32
    scale = np.float32(1 / (1 - rate))
    expected = [
        [0 if drops(seed, step, module, *token, channel, rate) else scale for channel in range(channels)]
        for token in tokens
    ]
    np.testing.assert_array_equal(found.numpy(), np.array(expected, np.float32))


def test_masks_do_not_change() -> None:
    """What a run was trained with stays what it is: a change of these numbers is a change of every such run."""
    mask = kept(17, 1000, MODULE, (2, 3, 64), 0.5)
    words = [f"{int(''.join(map(str, token.astype(int))), 2):016x}" for token in mask.reshape(6, 64)]
    assert words == [
        "921c9e802f5befcf",
        "9ac695ff996929de",
        "e83ee4b8b69f64f8",
        "b31e40a2f3a1674b",
        "4cbea1a664cc9b7e",
        "d12b5e0d8ff915e0",
    ]


def test_a_token_has_its_mask_in_any_company() -> None:
    whole = keep_mask(3, 4, MODULE, torch.arange(6)[:, None], torch.arange(16), 40, 0.3)
    rows, positions = (index.flatten() for index in np.indices((6, 16)))
    order = np.random.default_rng(1).permutation(96)[:50]
    flat = keep_mask(3, 4, MODULE, torch.from_numpy(rows[order]), torch.from_numpy(positions[order]), 40, 0.3)
    assert torch.equal(flat, whole.flatten(0, 1)[order])
    fewer = keep_mask(3, 4, MODULE, torch.arange(2, 5)[:, None], torch.arange(9), 33, 0.3)
    assert torch.equal(fewer, whole[2:5, :9, :33])


KINDS = list(product([0, 1, 17, 2**31 - 1], [0, 1, 5000], [MODULE, "model.layers.1.mlp.up_proj"]))


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_rate_of_every_mask_row_position_and_channel(rate: float) -> None:
    shape = (24, 40, 96)
    squares: dict[str, list[float]] = {"mask": [], "row": [], "position": [], "channel": []}
    for kind in KINDS:
        dropped = ~kept(*kind, shape, rate)
        for name, axes in {"mask": (0, 1, 2), "row": (1, 2), "position": (0, 2), "channel": (0, 1)}.items():
            number = math.prod(shape[axis] for axis in axes)
            squares[name] += list(((dropped.sum(axes) - number * rate) ** 2 / (number * rate * (1 - rate))).flat)
    for name, found in squares.items():  # of binomial counts: chi-square, with as many degrees of freedom as counts
        assert 1e-4 < stats.chi2.sf(sum(found), len(found)) < 1 - 1e-4, name
        assert stats.chi2.sf(max(found), 1) * len(found) > 1e-3, name


def dependence(first: np.ndarray, second: np.ndarray, rate: float) -> float:
    """Square of the standardized covariance of two masks: chi-square with one degree of freedom where independent."""
    a, b = (~first - rate).ravel(), (~second - rate).ravel()
    return float((a @ b) ** 2 / (a.size * (rate * (1 - rate)) ** 2))


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_neighbours_are_independent(rate: float) -> None:
    shape = (24, 40, 96)
    squares: dict[str, list[float]] = {}
    masks = {kind: kept(*kind, shape, rate) for kind in KINDS}
    for mask in masks.values():
        for axis, distance in product(range(3), (1, 2, 8)):
            at = [slice(None)] * 3
            first, second = at.copy(), at.copy()
            first[axis], second[axis] = slice(distance, None), slice(-distance)
            found = dependence(mask[tuple(first)], mask[tuple(second)], rate)
            squares.setdefault(f"{distance} along axis {axis}", []).append(found)
        centred = ~mask - rate  # of two rows and two channels: a sum of two hashes would have ties here
        corners = centred[:-1, :, :-1] * centred[1:, :, :-1] * centred[:-1, :, 1:] * centred[1:, :, 1:]
        variance = corners.size * (rate * (1 - rate)) ** 4
        squares.setdefault("four corners", []).append(float(corners.sum() ** 2 / variance))
    for one, other in combinations(masks, 2):  # seeds, steps and modules that follow one another, among others
        squares.setdefault("two masks", []).append(dependence(masks[one], masks[other], rate))
    for name, found in squares.items():
        assert 1e-4 < stats.chi2.sf(sum(found), len(found)) < 1 - 1e-4, name
        assert stats.chi2.sf(max(found), 1) * len(found) > 1e-3, name


def test_every_pair_of_channels_is_independent() -> None:
    dropped = np.concatenate([~kept(seed, 7, MODULE, (16, 512, 128), 0.05).reshape(-1, 128) for seed in range(3)])
    covariance = np.cov(dropped.astype(np.float64), rowvar=False) / (0.05 * 0.95)
    squares = len(dropped) * covariance[np.triu_indices(128, 1)] ** 2
    assert stats.chi2.sf(squares.max(), 1) * squares.size > 1e-3
    assert 1e-4 < stats.norm.sf((squares.mean() - 1) * math.sqrt(squares.size / 2)) < 1 - 1e-4


def test_no_token_of_any_seed_step_and_module_has_the_mask_of_another() -> None:
    seeds, steps = [*range(12), 2**31 - 1], [*range(12), 4096, 65536]
    modules = [f"model.layers.{layer}.{name}" for layer in range(3) for name in ("self_attn.q_proj", "mlp.up_proj")]
    masks = [kept(*kind, (2, 4, 64), 0.5) for kind in product(seeds, steps, modules)]
    tokens = np.packbits(np.concatenate(masks).reshape(-1, 64), axis=1).view(np.uint64).ravel()
    assert len(np.unique(tokens)) == len(tokens) == 13 * 14 * 6 * 8


def test_no_two_tokens_of_a_step_have_one_hash() -> None:
    """Of rows `n` apart, two tokens share one only if n * GOLDEN is nearer to 0 than a row is long, modulo 2**32."""
    apart = np.arange(1, 2**15, dtype=np.uint64) * dropout.GOLDEN % 2**32
    longest = np.minimum.accumulate(np.minimum(apart, 2**32 - apart))
    assert (longest * np.arange(2, 2**15 + 1) > 2**30).all()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Six rows with 16, 1, 7, 3, 16 and 9 targets."""
    input_ids = torch.from_numpy(np.random.default_rng(5).integers(3, 64, (6, 16)))
    labels = torch.full_like(input_ids, -100)
    for row, columns in enumerate([range(16), [15], range(2, 9), [0, 4, 5, 15], range(16), range(7, 16)]):
        labels[row, list(columns)] = input_ids[row, list(columns)]
    return input_ids, labels


@pytest.fixture
def adapted(base: Path, words: SimpleNamespace) -> Any:
    """With LoRA dropout 0.05, in training, and B not 0."""
    return filled(trainable_model(base, words.LORA | {"dropout": 0.05}, 0, None))


def filled(model: Any) -> Any:
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=draw) * 0.1)
    return model.train()


def gradient(model: Any) -> torch.Tensor:
    found = torch.cat([value.grad.flatten() for value in model.parameters() if value.requires_grad])
    model.zero_grad()
    return found


@pytest.mark.parametrize("loss", ["group_mean", "token_mean"])
@pytest.mark.parametrize("group_rows", [3, 6])
def test_a_batch_in_any_passes_has_one_gradient(
    adapted: Any, batch: tuple[torch.Tensor, torch.Tensor], loss: str, group_rows: int
) -> None:
    found = {}
    for rows in (6, 1, 2, 3):
        value, _ = backward(
            Objective(adapted, "fp32"), *batch, group_rows, loss=loss, seed=4, step=9, pass_tokens=rows * 16
        )
        found[rows] = (value, gradient(adapted))
    whole, expected = found.pop(6)
    for value, other in found.values():
        assert value.item() == pytest.approx(whole.item(), rel=1e-6)
        assert (other - expected).norm() <= 1e-6 * expected.norm()
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-6 * expected.abs().max().item())
    for changed in ({"seed": 5, "step": 9}, {"seed": 4, "step": 10}):
        backward(Objective(adapted, "fp32"), *batch, group_rows, loss=loss, **changed)
        assert (gradient(adapted) - expected).norm() > 1e-2 * expected.norm()


class Given(torch.nn.Module):
    """A mask put in by hand."""

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__()
        self.mask = torch.from_numpy(mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def test_equals_peft_with_these_masks(
    adapted: Any, base: Path, batch: tuple[torch.Tensor, torch.Tensor], words: SimpleNamespace
) -> None:
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=2, lora_alpha=4.0, target_modules=words.LORA["modules"], lora_dropout=0.05, task_type="CAUSAL_LM"
    )
    peft = get_peft_model(network, config)
    assert list(peft.state_dict()) == list(adapted.state_dict())
    assert adapted.peft_config["default"].lora_dropout == 0.05
    filled(peft)
    for layer in range(2):
        for name in words.LORA["modules"]:
            block = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            module = f"model.layers.{layer}.{block}.{name}"
            part = network.get_submodule(module)
            width = part.in_features
            assert isinstance(part.lora_dropout["default"], torch.nn.Dropout)
            tokens = product(range(6), range(16))
            dropped = [[drops(4, 9, module, *token, channel, 0.05) for channel in range(width)] for token in tokens]
            mask = np.where(dropped, 0, np.float32(1 / 0.95)).reshape(6, 16, width)
            part.lora_dropout["default"] = Given(mask)
    expected = peft(batch[0]).logits
    expected.square().mean().backward()
    with dropout_of(4, 9, torch.arange(6)[:, None], torch.arange(16)):
        logits = adapted(batch[0]).logits
        logits.square().mean().backward()
    assert torch.equal(logits, expected)
    assert torch.equal(gradient(adapted), gradient(peft))


def test_it_is_in_training_alone_and_must_know_its_tokens(adapted: Any, base: Path, words: SimpleNamespace) -> None:
    tokens = torch.arange(3, 19)[None]
    with pytest.raises(RuntimeError, match="needs to know its tokens"):
        adapted(tokens)
    plain = filled(trainable_model(base, words.LORA, 0, None))
    assert not any(isinstance(part, LoraDropout) for part in plain.modules())
    assert torch.equal(adapted.eval()(tokens).logits, plain(tokens).logits)


def test_it_leaves_torch_s_random_numbers_alone(adapted: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    state = torch.get_rng_state()
    backward(Objective(adapted, "fp32"), *batch, 6)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_s_dropout_is_of_its_seed_its_step_and_its_rows(
    job: Callable[..., Fit], words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is the trunk's: a leg goes on where the one before ended."""
    seen = []

    @contextmanager
    def noted(seed: int, step: int, rows: torch.Tensor, positions: torch.Tensor) -> Iterator[None]:
        seen.append((seed, step, rows.flatten().tolist(), positions.flatten().tolist()))
        with dropout_of(seed, step, rows, positions):
            yield

    monkeypatch.setattr(objective, "dropout_of", noted)
    monkeypatch.setattr(objective, "PASS_TOKENS", 48)
    monkeypatch.setattr(loop, "require_agreement", lambda *_: None)  # before the first step it drops nothing
    method = words.LORA | {"dropout": 0.05}
    leg = job("leg", method=method, stop_step=2, keep_optimizer=True)
    fit(leg, lambda _: None)
    fit(job("next", method=method, start=leg.out, start_step=2, stop_step=3), lambda _: None)
    columns = list(range(16))
    assert seen == [(5, step, rows, columns) for step in range(3) for rows in ([0, 1, 2], [3])]
