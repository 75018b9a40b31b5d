"""What of a model is trained."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scripts.components.discovery import classes, read, union
from scripts.components.part import Part

if TYPE_CHECKING:
    from torch import Tensor

    from scripts.components.models import BaseModel


class Method(Part, ABC):
    """A study's choice of a method."""

    if TYPE_CHECKING:
        kind: str

    label: ClassVar[str]
    """What sentences call it."""
    is_adapter: ClassVar[bool]
    """Whether what is trained and written is small and stands beside the base model. Each of several processes has all
    of it (DDP), while a whole model is spread over them (FSDP2)."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What decides what is trained: keys that joined later only where they differ from before."""

    @property
    def variant(self) -> dict[str, Any]:
        """The keys that make it another method than the paper's."""
        return {}

    def check(self, model: "BaseModel") -> None:
        """Raises ValueError, with the key, where it is known not to go together with a study's base model."""
        return

    def require_modules(self, network: Any, where: str) -> None:
        """Raises UserError, which begins with `where`, if a transformers model lacks the modules that it adapts."""
        return

    def cells(self) -> dict[str, Any]:
        """What tells it from others of its kind, in the CSVs of figures and tables: `rank`, `alpha` and `modules`."""
        return {}

    @abstractmethod
    def trained_parameters(self, model: "BaseModel") -> int:
        """How many parameters it trains of a base model."""

    def written_parameters(self, model: "BaseModel") -> int:
        """How many `save` writes."""
        return self.trained_parameters(model)

    def rate_ratio(self, name: str, parameter: "Tensor") -> float:
        """The learning rate of one of its trained parameters over the method's."""
        return 1.0

    @abstractmethod
    def build(self, base: Path, seed: int, start: Path | None, precision: str) -> Any:
        """The model on the CPU, its trained parameters (and no others) requiring gradients.

        Args:
            base: directory of the base model.
            seed: of what is drawn, which depends on nothing else: neither on earlier random numbers nor on the device.
            start: what `save` wrote, whose weights are taken; None: training begins here.
            precision: `fp32` or `bf16`, what it will compute in.

        Raises:
            UserError: the method does not go together with this base model or machine, or `start` is of another method.
        """

    @classmethod
    @abstractmethod
    def save(cls, model: Any, out: Path) -> None:
        """Write the trained weights of what `build` made, in fp32, into a directory.

        The bytes depend on weights and method alone: no model card, no path of the base model, no order of a set.
        """

    @classmethod
    @abstractmethod
    def load(cls, base: Path, run: Path, merge: bool) -> Any:
        """The trained model on the CPU in fp32, from its base model and what `save` wrote.

        Args:
            base: directory of the base model.
            run: what `save` wrote.
            merge: put an adapter into the base weights, so that none is left.
        """

    @classmethod
    def merges(cls, run: Path) -> bool:
        """Whether `load` merges a peft adapter, which is all that `run` is, into the base model as it is."""
        return False


METHODS = classes(__name__, __path__, Method, "kind")  # type: ignore[type-abstract]
if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = union(METHODS, "kind")


def method_of(spec: Mapping[str, Any]) -> Method:
    """The method that plain data says, as `Method.spec` has it.

    Raises:
        UserError: there is none of that kind, or it has no such settings.
    """
    return read(METHODS, "kind", spec, "method")
