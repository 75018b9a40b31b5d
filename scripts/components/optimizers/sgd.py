"""SGD with momentum (Composer's DecoupledSGDW)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scripts.components.optimizers import ClipNorm, Optimizer
from scripts.components.part import field


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum."""

    label: ClassVar[str] = "SGD"

    name: Literal["sgd"] = field("which optimizer", paper="beyond the paper")
    momentum: Annotated[float, Field(ge=0, lt=1)] = field("how much of the last step's direction is kept")
    clip_norm: ClipNorm = field("gradients whose global norm is greater are scaled down to it before the step")
