"""What of a model is trained."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from scripts.components.discovery import classes, union
from scripts.components.part import Part


class Method(Part, ABC):
    """A study's choice of a method."""

    if TYPE_CHECKING:
        kind: str

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What decides what is trained: keys that joined later only where they differ from before."""


METHODS = classes(__name__, __path__, Method, "kind")  # type: ignore[type-abstract]
if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = union(METHODS, "kind")
