"""DecoupledAdamW (Composer), of figure S2."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scripts.components.optimizers import Betas, ClipNorm, Optimizer
from scripts.components.part import field


class DecoupledAdamW(Optimizer):
    """AdamW whose weight decay does not grow with the peak learning rate (paper, figure S2)."""

    label: ClassVar[str] = "AdamW"

    name: Literal["decoupled_adamw"] = field("which optimizer", paper="figure S2")
    betas: Betas = field("how much of the means of gradients and of their squares is kept at a step", paper="not said")
    eps: Annotated[float, Field(gt=0)] = field("added to the root of the mean square before dividing", paper="not said")
    clip_norm: ClipNorm = field(
        "gradients whose global norm is greater are scaled down to it before the step", paper="not said"
    )
