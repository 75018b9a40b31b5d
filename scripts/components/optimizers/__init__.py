"""What turns gradients into steps."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from scripts.components.discovery import classes, read, union
from scripts.components.part import Part

if TYPE_CHECKING:
    import torch

Betas = Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
ClipNorm = Annotated[float, Field(gt=0)]


class Optimizer(Part, ABC):
    """A study's choice of an optimizer.

    In all of them weight decay is an absolute shrink per step at the peak rate: a step first multiplies a parameter by
    1 - lr / max_lr * weight_decay, with lr the scheduled rate of this step and max_lr its peak. It is not multiplied by
    the rate. What follows is the rule that each one's docstring says, for the gradient g of a parameter p.
    """

    if TYPE_CHECKING:
        name: str
        clip_norm: ClipNorm

    label: ClassVar[str]
    """How figures call it."""
    state: ClassVar[tuple[str, ...]]
    """The tensors that `torch.optim.Optimizer.state` has of a parameter, each of its shape; the main one first."""
    counts_steps: ClassVar[bool]
    """Whether its rule asks for the number of steps so far: int32, `step` of each group from the first step on."""

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], weight_decay: float) -> "torch.optim.Optimizer":
        """One that has not stepped, or goes on from what is put into its `state` and the groups' `step`.

        Args:
            groups: torch's, with `params`, the peak rate `max_lr` and `lr`, the rate of the next step.
            weight_decay: see above.
        """


OPTIMIZERS = classes(__name__, __path__, Optimizer, "name")  # type: ignore[type-abstract]
if TYPE_CHECKING:
    AnyOptimizer = Optimizer
else:
    AnyOptimizer = union(OPTIMIZERS, "name")


def optimizer_of(settings: Mapping[str, Any]) -> Optimizer:
    """The optimizer that plain data says, as `Optimizer.model_dump` has it.

    Raises:
        UserError: there is none of that name, or it has no such settings.
    """
    return read(OPTIMIZERS, "name", settings, "optimizer")
