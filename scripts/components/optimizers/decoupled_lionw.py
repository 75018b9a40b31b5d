"""DecoupledLionW (llm-foundry), the paper's optimizer."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scripts.components import optimi
from scripts.components.optimizers import Betas, ClipNorm, Optimizer
from scripts.components.part import field

if TYPE_CHECKING:
    import torch


class DecoupledLionW(Optimizer):
    """DecoupledLionW, the paper's optimizer in every main run."""

    label: ClassVar[str] = "LionW"
    state: ClassVar[tuple[str, ...]] = ("exp_avg",)
    counts_steps: ClassVar[bool] = False

    name: Literal["decoupled_lionw"] = field("which optimizer", paper="appendix A")
    betas: Betas = field(
        "how much of the momentum is in a step's direction, and how much of it is kept", paper="appendix A"
    )
    clip_norm: ClipNorm = field(
        "gradients whose global norm is greater are scaled down to it before the step", paper="appendix A"
    )

    def build(self, groups: list[dict[str, Any]], weight_decay: float) -> "torch.optim.Optimizer":
        """With momentum m:

        p <- p - lr * sign(m + (1 - beta1) * (g - m))
        m <- m + (1 - beta2) * (g - m)
        """
        return optimi.build("Lion", groups, weight_decay, betas=tuple(self.betas))
