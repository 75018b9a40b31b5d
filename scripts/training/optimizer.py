"""The optimizers, and their state as plain named tensors.

In all of them weight decay is an absolute shrink per step at the peak rate: a parameter p is multiplied by
1 - lr / learning_rate * weight_decay, with lr the scheduled rate of this step. It is not multiplied by the rate.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scripts.common.errors import UserError

_STEP = "step"
"""What the number of steps so far is stored under; only AdamW's bias correction asks for it."""


def make_optimizer(
    parameters: Mapping[str, Tensor], settings: Mapping[str, Any], ratio_b: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer called `name`, through torch-optimi, over all of `parameters`.

    With another `ratio_b` than 1 (LoRA+, arXiv 2402.12354) they are in two groups, and the rates of the second are
    `ratio_b` times those of the first. It has LoRA's B and every vector (DoRA's magnitudes), as peft's
    `create_loraplus_optimizer` has it.

    Every rule begins with the decay above; then, for the gradient g:

    `decoupled_lionw` (llm-foundry's DecoupledLionW, the paper's optimizer; momentum m)

        p <- p - lr * sign(m + (1 - beta1) * (g - m))
        m <- m + (1 - beta2) * (g - m)

    `decoupled_adamw` (Composer's DecoupledAdamW, the paper's Fig S2; moments m and v, step t from 1)

        m <- m + (1 - beta1) * (g - m)
        v <- v + (1 - beta2) * (g * g - v)
        p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    `sgd` (Composer's DecoupledSGDW; momentum m)

        m <- momentum * m + g
        p <- p - lr * m

    `settings` has learning_rate (the peak; of two groups, the first one's) and weight_decay; lionw and adamw have
    betas, adamw eps, sgd momentum.
    Raises UserError for an unknown name.
    """
    import optimi

    common: dict[str, Any] = {
        "lr": settings["learning_rate"],
        "max_lr": settings["learning_rate"],
        "weight_decay": settings["weight_decay"],
        "decouple_lr": True,
        "kahan_sum": False,  # the weights are fp32 masters
        "foreach": False,  # would allocate a second copy of all weights
        "triton": False,  # rounds differently and needs a compiler where it runs
    }
    groups = _groups(parameters, ratio_b, settings["learning_rate"])
    optimizer: torch.optim.Optimizer
    if settings["name"] == "decoupled_lionw":
        optimizer = optimi.Lion(groups, betas=tuple(settings["betas"]), **common)
    elif settings["name"] == "decoupled_adamw":
        betas, eps = tuple(settings["betas"]), settings["eps"]
        optimizer = optimi.AdamW(groups, betas=betas, eps=eps, **common)
    elif settings["name"] == "sgd":
        optimizer = optimi.SGD(groups, momentum=settings["momentum"], **common)
    else:
        raise UserError(
            f"The optimizer {settings['name']!r} is unknown; allowed are decoupled_lionw, decoupled_adamw and sgd."
        )
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Give every group `multiplier` times its peak rate, for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = group["max_lr"] * multiplier


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of every parameter, by the parameter's name; zeros before the first step.

    A parameter's first tensor has its name, a second one `NAME.exp_avg_sq`; AdamW has `step` besides.
    """
    fields = _fields(optimizer)
    tensors = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        for field in fields:
            tensor = state.get(field)
            tensors[_key(name, field)] = torch.zeros_like(parameter) if tensor is None else tensor
    if "exp_avg_sq" in fields:
        tensors[_STEP] = optimizer.param_groups[0].get("step", torch.tensor(0, dtype=torch.int32))
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Put a state from `optimizer_state` back. Raises KeyError where the name of a parameter is missing."""
    fields = _fields(optimizer)
    for name, parameter in parameters.items():
        tensors = {field: torch.empty_like(parameter).copy_(state[_key(name, field)]) for field in fields}
        # optimi takes a state without the key "kahan_comp" for a new one and would reset it.
        optimizer.state[parameter] = {**tensors, "kahan_comp": None}
    if "exp_avg_sq" in fields:
        # A group that is not set up would begin to count its steps anew.
        for group in optimizer.param_groups:
            group |= {"step": state[_STEP].clone(), "setup": True}


def _groups(parameters: Mapping[str, Tensor], ratio_b: float, rate: float) -> list[dict[str, Any]]:
    """What torch takes for parameters; `rate` is the peak of the first group."""
    if ratio_b == 1:
        return [{"params": list(parameters.values())}]
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in parameters.items():
        parts["lora_B" in name or parameter.ndim == 1].append(parameter)
    peak = ratio_b * rate
    return [{"params": parts[0]}, {"params": parts[1], "lr": peak, "max_lr": peak}]


def _fields(optimizer: torch.optim.Optimizer) -> list[str]:
    """The tensors that each parameter has."""
    import optimi

    return ["exp_avg", "exp_avg_sq"] if isinstance(optimizer, optimi.AdamW) else ["exp_avg"]


def _key(name: str, field: str) -> str:
    return name if field == "exp_avg" else f"{name}.{field}"
