"""The optimizer, and its state as plain named tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scripts.study.errors import UserError


def make_optimizer(parameters: Mapping[str, Tensor], settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """DecoupledLionW of llm-foundry, through torch-optimi, over all of `parameters` in one group.

    For a parameter p with gradient g, momentum m and the scheduled rate lr of this step:

        p <- p * (1 - lr / learning_rate * weight_decay)
        u <- sign(m + (1 - beta1) * (g - m))
        p <- p - lr * u
        m <- m + (1 - beta2) * (g - m)

    The weight decay is an absolute shrink per step at the peak rate: it is not multiplied by the rate.
    """
    if settings["name"] != "decoupled_lionw":
        raise UserError(f"The optimizer {settings['name']!r} is unknown; allowed is decoupled_lionw.")
    import optimi

    beta1, beta2 = settings["betas"]
    lion: torch.optim.Optimizer = optimi.Lion(
        list(parameters.values()),
        lr=settings["learning_rate"],
        max_lr=settings["learning_rate"],
        betas=(beta1, beta2),
        weight_decay=settings["weight_decay"],
        decouple_lr=True,
        kahan_sum=False,  # the weights are fp32 masters
        foreach=False,  # would allocate a second copy of all weights
        triton=False,  # rounds differently and needs a compiler where it runs
    )
    return lion


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The momentum of every parameter, by the parameter's name; zeros before the first step."""
    momenta = {}
    for name, parameter in parameters.items():
        started = parameter in optimizer.state
        momenta[name] = optimizer.state[parameter]["exp_avg"] if started else torch.zeros_like(parameter)
    return momenta


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Put a state from `optimizer_state` back. Raises KeyError where the name of a parameter is missing."""
    for name, parameter in parameters.items():
        momentum = torch.empty_like(parameter).copy_(state[name])
        # optimi takes a state without the key "kahan_comp" for a new one and would reset the momentum.
        optimizer.state[parameter] = {"exp_avg": momentum, "kahan_comp": None}
