"""What the optimizers of torch-optimi have in common."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def build(name: str, groups: list[dict[str, Any]], weight_decay: float, **settings: Any) -> "torch.optim.Optimizer":
    """The class `name` of torch-optimi, as `scripts.components.optimizers.Optimizer.build` asks for it."""
    import optimi

    optimizer: torch.optim.Optimizer = getattr(optimi, name)(
        groups,
        lr=groups[0]["lr"],
        max_lr=groups[0]["max_lr"],
        weight_decay=weight_decay,
        decouple_lr=True,
        kahan_sum=False,  # the weights are fp32 masters
        foreach=False,  # would allocate a second copy of all weights
        triton=False,  # rounds differently and needs a compiler where it runs
        **settings,
    )
    optimizer.register_step_pre_hook(_go_on)
    return optimizer


def _go_on(optimizer: "torch.optim.Optimizer", args: Any, kwargs: Any) -> None:
    """Let optimi know a state that was put back: without these marks it takes one for new, and resets it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if state := optimizer.state.get(parameter):
                state.setdefault("kahan_comp", None)
        if "step" in group:
            group["setup"] = True
