"""SGD with momentum (Composer's DecoupledSGDW)."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from scripts.components import optimi
from scripts.components.optimizers import ClipNorm, Optimizer
from scripts.components.part import field

if TYPE_CHECKING:
    import torch


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum."""

    label: ClassVar[str] = "SGD"
    state: ClassVar[tuple[str, ...]] = ("exp_avg",)
    counts_steps: ClassVar[bool] = False

    name: Literal["sgd"] = field("which optimizer", paper="beyond the paper")
    momentum: Annotated[float, Field(ge=0, lt=1)] = field("how much of the last step's direction is kept")
    clip_norm: ClipNorm = field("gradients whose global norm is greater are scaled down to it before the step")

    def build(self, groups: list[dict[str, Any]], weight_decay: float) -> "torch.optim.Optimizer":
        """With momentum m:

        m <- momentum * m + g
        p <- p - lr * m
        """
        return optimi.build("SGD", groups, weight_decay, momentum=self.momentum)
