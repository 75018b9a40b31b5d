"""Every optimizer: what it says of itself against what a step leaves, and one that comes from no library."""

from typing import Any, ClassVar, Literal

import pytest
import torch

from scripts.components.optimizers import OPTIMIZERS, Optimizer, optimizer_of
from scripts.training.optimizer import NamedOptimizer

RATES = {"learning_rate": 0.1, "weight_decay": 0.01}
SETTINGS: dict[str, dict[str, Any]] = {
    "decoupled_lionw": {"betas": [0.9, 0.95]},
    "decoupled_adamw": {"betas": [0.9, 0.95], "eps": 1e-8},
    "sgd": {"momentum": 0.9},
}


def test_all_are_tested() -> None:
    assert SETTINGS.keys() == OPTIMIZERS.keys()


def test_figures_tell_them_apart() -> None:
    labels = [member.label for member in OPTIMIZERS.values()]
    assert all(labels)
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", SETTINGS)
def test_state_is_what_a_step_leaves(name: str) -> None:
    component = optimizer_of({"name": name, "clip_norm": 1.0, **SETTINGS[name]})
    weight = torch.randn(3, 5, requires_grad=True)
    built = component.build([{"params": [weight], "lr": 0.1, "max_lr": 0.1}], 0.01)
    for _ in range(2):
        weight.grad = torch.randn(3, 5)
        built.step()
    left = {key for key, value in built.state[weight].items() if isinstance(value, torch.Tensor)}
    assert left == set(component.state)
    assert all(built.state[weight][key].shape == weight.shape for key in component.state)
    if component.counts_steps:
        assert built.param_groups[0]["step"] == 2
    else:
        assert "step" not in built.param_groups[0]


class Average(torch.optim.Optimizer):
    """p <- p - lr * mean of all gradients so far: a plain optimizer of torch."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["step"] = group.get("step", torch.tensor(0, dtype=torch.int32)) + 1
            for weight in group["params"]:
                total = self.state[weight].setdefault("total", torch.zeros_like(weight))
                total += weight.grad
                weight *= 1 - group["lr"] / group["max_lr"] * self.defaults["weight_decay"]
                weight -= group["lr"] * total / group["step"]


class Averaging(Optimizer):
    label: ClassVar[str] = "average"
    state: ClassVar[tuple[str, ...]] = ("total",)
    counts_steps: ClassVar[bool] = True

    name: Literal["average"]
    clip_norm: float

    def build(self, groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
        return Average(groups, {"weight_decay": weight_decay})


@pytest.mark.parametrize("restart_at", [None, 0, 1, 4])
def test_an_optimizer_of_ones_own(restart_at: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state comes back, and it is given the rates and decay of the others."""
    monkeypatch.setitem(OPTIMIZERS, "average", Averaging)
    draw = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    settings = {"name": "average", "clip_norm": 1.0, **RATES}
    optimizer = NamedOptimizer({"a": weight}, settings)
    expected = torch.ones(4, dtype=torch.float64)
    for step, gradient in enumerate(gradients):
        if step == restart_at:
            kept = {name: tensor.clone() for name, tensor in optimizer.state().items()}
            assert kept.keys() == {"a", "step"}
            optimizer = NamedOptimizer({"a": weight}, settings)
            optimizer.restore(kept)
        factor = (step + 1) / 6
        optimizer.set_rates(factor)
        weight.grad = gradient
        optimizer.step()
        expected = expected * (1 - factor * 0.01) - factor * 0.1 * gradients[: step + 1].mean(dim=0)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)
