"""A study's optimizer over named parameters, and its state as plain named tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scripts.components.optimizers import optimizer_of

_STEP = "step"
"""What the number of steps so far is stored under."""


class NamedOptimizer:
    """One that steps `parameters`, at its peak rate until another is set.

    Args:
        parameters: by their names.
        settings: of a component of `scripts.components.optimizers`, and besides `learning_rate` (the peak) and
            `weight_decay`.
        ratio: a parameter's own peak rate over `learning_rate`, see `Method.rate_ratio`; None: it is the same for all.

    Raises:
        UserError: there is no such optimizer, or it has no such settings.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        settings: Mapping[str, Any],
        ratio: Callable[[str, Tensor], float] | None = None,
    ) -> None:
        own = dict(settings)
        rate, decay = own.pop("learning_rate"), own.pop("weight_decay")
        self._component = optimizer_of(own)
        self._parameters = dict(parameters)
        by_peak: dict[float, list[Tensor]] = {}
        for name, parameter in self._parameters.items():
            by_peak.setdefault(rate * (ratio(name, parameter) if ratio else 1.0), []).append(parameter)
        groups = [{"params": members, "lr": peak, "max_lr": peak} for peak, members in by_peak.items()]
        self.torch_optimizer = self._component.build(groups, decay)

    def set_rates(self, multiplier: float) -> None:
        """Give every parameter `multiplier` times its peak rate, for the next step."""
        for group in self.torch_optimizer.param_groups:
            group["lr"] = group["max_lr"] * multiplier

    def step(self) -> None:
        self.torch_optimizer.step()

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        self.torch_optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The state of every parameter, by the parameter's name; zeros before the first step.

        A parameter's first tensor has its name, a second one `NAME.exp_avg_sq`, as the component calls it; where steps
        are counted, their number is `step`.
        """
        tensors = {}
        for name, parameter in self._parameters.items():
            kept = self.torch_optimizer.state.get(parameter, {})
            for field in self._component.state:
                tensor = kept.get(field)
                tensors[self._key(name, field)] = torch.zeros_like(parameter) if tensor is None else tensor
        if self._component.counts_steps:
            group = self.torch_optimizer.param_groups[0]
            tensors[_STEP] = group.get("step", torch.tensor(0, dtype=torch.int32))
        return tensors

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put what `state` gave back. Raises KeyError where the name of a parameter is missing."""
        for name, parameter in self._parameters.items():
            self.torch_optimizer.state[parameter] = {
                field: torch.empty_like(parameter).copy_(state[self._key(name, field)])
                for field in self._component.state
            }
        if self._component.counts_steps:
            for group in self.torch_optimizer.param_groups:
                group["step"] = state[_STEP].clone()

    def _key(self, name: str, field: str) -> str:
        return name if field == self._component.state[0] else f"{name}.{field}"
