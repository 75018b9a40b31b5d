"""DecoupledLionW against its four-line rule."""

import numpy as np
import pytest
import torch

from scripts.study.errors import UserError
from scripts.training.optimizer import make_optimizer, optimizer_state, restore_optimizer

pytestmark = pytest.mark.filterwarnings("ignore:You are using weight_decay")

PEAK, BETA1, BETA2, DECAY = 3e-3, 0.9, 0.95, 1e-2
SETTINGS = {
    "name": "decoupled_lionw",
    "learning_rate": PEAK,
    "betas": [BETA1, BETA2],
    "weight_decay": DECAY,
    "clip_norm": 1.0,
}
SHAPES = {"matrix": (17, 33), "vector": (33,)}


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


def by_rule(dtype: type, steps: int) -> dict[str, np.ndarray]:
    """numpy, every number rounded to `dtype`."""
    weights, momenta = start(dtype), {name: np.zeros(shape, dtype) for name, shape in SHAPES.items()}
    for step in range(steps):
        for name, g in gradients(step, dtype).items():
            p, m = weights[name], momenta[name]
            p = p * dtype(1 - rate(step) / PEAK * DECAY)
            p = p - dtype(rate(step)) * np.sign(m + dtype(1 - BETA1) * (g - m))
            weights[name], momenta[name] = p, m + dtype(1 - BETA2) * (g - m)
    return weights


def by_optimizer(dtype: type, steps: int, restart_at: int | None = None) -> dict[str, np.ndarray]:
    weights = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in start(dtype).items()}
    optimizer = make_optimizer(weights, SETTINGS)
    for step in range(steps):
        if step == restart_at:
            state = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, weights).items()}
            optimizer = make_optimizer(weights, SETTINGS)
            restore_optimizer(optimizer, weights, state)
        optimizer.param_groups[0]["lr"] = rate(step)
        for name, g in gradients(step, dtype).items():
            weights[name].grad = torch.from_numpy(g)
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in weights.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_equals_the_rule_over_300_steps(dtype: type, tolerance: float) -> None:
    expected, found = by_rule(dtype, 300), by_optimizer(dtype, 300)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance)


def test_decay_is_not_multiplied_by_the_rate() -> None:
    weight = torch.full((4,), 2.0, requires_grad=True)
    optimizer = make_optimizer({"weight": weight}, SETTINGS)
    weight.grad = torch.zeros(4)
    optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), 2.0 * (1 - DECAY), rtol=1e-7)


def test_restored_state_goes_on_bit_for_bit() -> None:
    whole = by_optimizer(np.float32, 40)
    for restart_at in (0, 1, 23):
        parts = by_optimizer(np.float32, 40, restart_at)
        assert all(np.array_equal(parts[name], whole[name]) for name in SHAPES)


def test_unknown_optimizer() -> None:
    with pytest.raises(UserError, match="'adamw' is unknown; allowed is decoupled_lionw"):
        make_optimizer({}, SETTINGS | {"name": "adamw"})
