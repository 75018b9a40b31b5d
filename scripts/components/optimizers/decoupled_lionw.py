"""DecoupledLionW (llm-foundry), the paper's optimizer."""

from typing import ClassVar, Literal

from scripts.components.optimizers import Betas, ClipNorm, Optimizer
from scripts.components.part import field


class DecoupledLionW(Optimizer):
    """DecoupledLionW, the paper's optimizer in every main run."""

    label: ClassVar[str] = "LionW"

    name: Literal["decoupled_lionw"] = field("which optimizer", paper="appendix A")
    betas: Betas = field(
        "how much of the momentum is in a step's direction, and how much of it is kept", paper="appendix A"
    )
    clip_norm: ClipNorm = field(
        "gradients whose global norm is greater are scaled down to it before the step", paper="appendix A"
    )
