"""The optimizers against their rules in a loop, and against torch's own where they agree."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from scripts.common.errors import UserError
from scripts.training.optimizer import NamedOptimizer

pytestmark = [pytest.mark.arithmetic, pytest.mark.filterwarnings("ignore:You are using weight_decay")]

PEAK, BETA1, BETA2, EPS, MOMENTUM, DECAY = 3e-3, 0.9, 0.95, 1e-8, 0.8, 1e-2
BETAS = [BETA1, BETA2]
SETTINGS: dict[str, dict[str, Any]] = {
    name: {"name": name, "learning_rate": PEAK, "weight_decay": DECAY, "clip_norm": 1.0, **own}
    for name, own in {
        "decoupled_lionw": {"betas": BETAS},
        "decoupled_adamw": {"betas": BETAS, "eps": EPS},
        "sgd": {"momentum": MOMENTUM},
    }.items()
}
SHAPES = {"matrix": (17, 33), "vector": (33,)}
NAMES = list(SETTINGS)


def rate(step: int) -> float:
    """Warmup from 0, then a cosine that touches 0 again: no decay and no movement there, but momentum."""
    return PEAK * min(step / 20, 1) * abs(np.cos(step / 40))


def gradients(step: int, dtype: type) -> dict[str, np.ndarray]:
    """Sparse, of changing scale; the same numbers in every precision."""
    draw = np.random.default_rng(step)
    return {
        name: (
            (draw.normal(size=shape) * (draw.random(shape) < 0.8)).astype(np.float32) * 10.0 ** (step % 5 - 3)
        ).astype(dtype)
        for name, shape in SHAPES.items()
    }


def start(dtype: type) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(99)
    return {name: draw.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def by_rule(name: str, dtype: type, steps: int, ratio: float = 1.0) -> dict[str, np.ndarray]:
    """numpy, every number rounded to `dtype`; the rate and its peak are `ratio` times those above."""
    weights = start(dtype)
    moments = {key: (np.zeros(shape, dtype), np.zeros(shape, dtype)) for key, shape in SHAPES.items()}
    for step in range(steps):
        for key, g in gradients(step, dtype).items():
            p, (m, v) = weights[key], moments[key]
            p = p * dtype(1 - rate(step) / PEAK * DECAY)
            if name == "decoupled_lionw":
                p = p - dtype(ratio * rate(step)) * np.sign(m + dtype(1 - BETA1) * (g - m))
                m = m + dtype(1 - BETA2) * (g - m)
            elif name == "decoupled_adamw":
                m = dtype(BETA1) * m + dtype(1 - BETA1) * g
                v = dtype(BETA2) * v + dtype(1 - BETA2) * g * g
                denominator = np.sqrt(v) / dtype(np.sqrt(1 - BETA2 ** (step + 1))) + dtype(EPS)
                p = p - dtype(ratio * rate(step) / (1 - BETA1 ** (step + 1))) * m / denominator
            else:
                m = dtype(MOMENTUM) * m + g
                p = p - dtype(ratio * rate(step)) * m
            weights[key], moments[key] = p, (m, v)
    return weights


def by_optimizer(
    name: str, dtype: type, steps: int, restart_at: int | None = None, decay: float = DECAY, ratio_b: float = 1.0
) -> dict[str, np.ndarray]:
    settings = SETTINGS[name] | {"weight_decay": decay}
    weights = {key: torch.from_numpy(value.copy()).requires_grad_() for key, value in start(dtype).items()}
    optimizer = made(weights, settings, ratio_b)
    for step in range(steps):
        if step == restart_at:
            stored = save(optimizer.state())
            optimizer = made(weights, settings, ratio_b)
            optimizer.restore(load(stored))
        optimizer.set_rates(rate(step) / PEAK)
        take_step(optimizer, weights, step, dtype)
    return {key: tensor.detach().numpy() for key, tensor in weights.items()}


def made(weights: dict[str, torch.Tensor], settings: dict[str, Any], ratio_of_vectors: float) -> NamedOptimizer:
    return NamedOptimizer(weights, settings, lambda _, weight: ratio_of_vectors if weight.ndim == 1 else 1.0)


def take_step(optimizer: Any, weights: dict[str, torch.Tensor], step: int, dtype: type) -> None:
    for key, g in gradients(step, dtype).items():
        weights[key].grad = torch.from_numpy(g)
    optimizer.step()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_rule_over_300_steps(name: str, dtype: type, tolerance: float) -> None:
    expected, found = by_rule(name, dtype, 300), by_optimizer(name, dtype, 300)
    for key in SHAPES:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_group_has_the_rule_of_its_own_peak_rate(name: str) -> None:
    """The vector is in it; its rates are eight times the matrix's, its decay is the same."""
    found = by_optimizer(name, np.float64, 300, ratio_b=8.0)
    for key, ratio in (("matrix", 1.0), ("vector", 8.0)):
        np.testing.assert_allclose(found[key], by_rule(name, np.float64, 300, ratio)[key], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "torchs"),
    [
        ("decoupled_adamw", lambda values: torch.optim.AdamW(values, betas=(BETA1, BETA2), eps=EPS, weight_decay=0)),
        ("sgd", lambda values: torch.optim.SGD(values, lr=PEAK, momentum=MOMENTUM)),
    ],
)
def test_without_decay_it_is_torchs_own(name: str, torchs: Any) -> None:
    weights = {key: torch.from_numpy(value).requires_grad_() for key, value in start(np.float64).items()}
    optimizer = torchs(list(weights.values()))
    for step in range(100):
        optimizer.param_groups[0]["lr"] = rate(step)
        take_step(optimizer, weights, step, np.float64)
    found = by_optimizer(name, np.float64, 100, decay=0.0)
    for key, expected in weights.items():
        np.testing.assert_allclose(found[key], expected.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_decay_is_not_multiplied_by_the_rate(name: str) -> None:
    weight = torch.full((4,), 2.0, requires_grad=True)
    optimizer = NamedOptimizer({"weight": weight}, SETTINGS[name])
    weight.grad = torch.zeros(4)
    optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), 2.0 * (1 - DECAY), rtol=1e-7)


@pytest.mark.parametrize("ratio_b", [1.0, 8.0])
@pytest.mark.parametrize("name", NAMES)
def test_restored_state_goes_on_bit_for_bit(name: str, ratio_b: float) -> None:
    whole = by_optimizer(name, np.float32, 40, ratio_b=ratio_b)
    for restart_at in (0, 1, 23):
        parts = by_optimizer(name, np.float32, 40, restart_at, ratio_b=ratio_b)
        assert all(np.array_equal(parts[key], whole[key]) for key in SHAPES)


def test_lions_state_is_the_momentum_under_the_parameters_name() -> None:
    """Leg ends of earlier launches hold it so."""
    weight = torch.ones(3, requires_grad=True)
    optimizer = NamedOptimizer({"a.weight": weight}, SETTINGS["decoupled_lionw"])
    weight.grad = torch.full((3,), 4.0)
    optimizer.step()
    state = optimizer.state()
    assert state.keys() == {"a.weight"}
    np.testing.assert_allclose(state["a.weight"].numpy(), 4.0 * (1 - BETA2), rtol=1e-6)


def test_unknown_optimizer() -> None:
    with pytest.raises(UserError, match="'adamw' is unknown; allowed are decoupled_adamw, decoupled_lionw, sgd"):
        NamedOptimizer({}, {**SETTINGS["sgd"], "name": "adamw"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"momentum": 1.0}, r"The optimizer sgd.momentum: Input should be less than 1 \(it says 1.0\)"),
        ({"betas": BETAS}, r"The optimizer sgd.betas: Extra inputs are not permitted"),
    ],
)
def test_settings_that_it_does_not_have(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        NamedOptimizer({}, {**SETTINGS["sgd"], **change})
