"""Where the records of a dataset come from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scripts.components.discovery import classes, union
from scripts.components.part import Part


class Source(Part, ABC):
    """A study's choice of where a dataset's records come from."""

    if TYPE_CHECKING:
        source: str

    @property
    @abstractmethod
    def identity(self) -> str | None:
        """Its key in ``config/data.lock``, KIND:NAME; None where the records are made here."""

    @property
    @abstractmethod
    def place(self) -> str:
        """The first word of the records' name in the store."""

    @abstractmethod
    def spec(self, entry: Mapping[str, Any], data_seed: int) -> dict[str, Any]:
        """What decides the records, but for the code version.

        Args:
            entry: that of the lock, empty where there is none.
            data_seed: the study's.
        """

    @property
    @abstractmethod
    def expected_records(self) -> int:
        """How many records there are, for estimates of time; 0 where that is known only once they are read."""


SOURCES = classes(__name__, __path__, Source, "source")  # type: ignore[type-abstract]
if TYPE_CHECKING:
    Dataset = Source
else:
    Dataset = union(SOURCES, "source")
