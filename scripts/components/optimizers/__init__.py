"""What turns gradients into steps."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from scripts.components.discovery import classes, union
from scripts.components.part import Part

Betas = Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
ClipNorm = Annotated[float, Field(gt=0)]


class Optimizer(Part):
    """A study's choice of an optimizer."""

    if TYPE_CHECKING:
        name: str
        clip_norm: ClipNorm

    label: ClassVar[str]
    """How figures call it."""


OPTIMIZERS = classes(__name__, __path__, Optimizer, "name")
if TYPE_CHECKING:
    AnyOptimizer = Optimizer
else:
    AnyOptimizer = union(OPTIMIZERS, "name")
