"""DecoupledAdamW (Composer), of figure S2."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from scripts.components import optimi
from scripts.components.optimizers import Betas, ClipNorm, Optimizer
from scripts.components.part import field

if TYPE_CHECKING:
    import torch


class DecoupledAdamW(Optimizer):
    """AdamW whose weight decay does not grow with the peak learning rate (paper, figure S2)."""

    label: ClassVar[str] = "AdamW"
    state: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    counts_steps: ClassVar[bool] = True

    name: Literal["decoupled_adamw"] = field("which optimizer", paper="figure S2")
    betas: Betas = field("how much of the means of gradients and of their squares is kept at a step", paper="not said")
    eps: Annotated[float, Field(gt=0)] = field("added to the root of the mean square before dividing", paper="not said")
    clip_norm: ClipNorm = field(
        "gradients whose global norm is greater are scaled down to it before the step", paper="not said"
    )

    def build(self, groups: list[dict[str, Any]], weight_decay: float) -> "torch.optim.Optimizer":
        """With moments m and v, at step t from 1:

        m <- m + (1 - beta1) * (g - m)
        v <- v + (1 - beta2) * (g * g - v)
        p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
        """
        return optimi.build("AdamW", groups, weight_decay, betas=tuple(self.betas), eps=self.eps)
