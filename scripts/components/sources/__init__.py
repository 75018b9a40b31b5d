"""Where the records of a dataset come from."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scripts.components.discovery import classes, union
from scripts.components.making import Made


class Source(Made):
    """A study's choice of where a dataset's records come from.

    `place` is the first word of the records' name in the store; `build` writes ``records.jsonl``.
    """

    if TYPE_CHECKING:
        source: str

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

    @property
    def part(self) -> str | None:
        """Which of three disjoint parts the records are: train, validation or test; None where nobody can know."""
        return None

    @property
    def items(self) -> str | None:
        """What the records are, where that is known: no two sources with other items can stand in for each other."""
        return None

    def overlaps(self, other: "Source") -> bool:
        """Whether both are known to have records in common."""
        return self == other


SOURCES = classes(__name__, __path__, Source, "source")  # type: ignore[type-abstract]
if TYPE_CHECKING:
    Dataset = Source
else:
    Dataset = union(SOURCES, "source")
