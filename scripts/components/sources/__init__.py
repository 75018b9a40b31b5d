"""Where the records of a dataset come from."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scripts.components.discovery import classes, union
from scripts.components.making import BuildContext, Made
from scripts.components.part import Count, Part, field


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

    def check(self, spec: Mapping[str, Any], context: BuildContext) -> None:
        """Reads the records of a spec as far as they are at hand when they are locked, and writes nothing.

        Raises:
            UserError: they are not as the study's uses of them need them.
        """


class Table(Part):
    """What is taken of tables; a key that joined later is left out of specs while it says nothing."""

    columns: dict[str, str] = field(
        "field of a record to the column that it is taken from; if empty, records have all columns as they are called. "
        "An `input` beside `instruction` and `response` stands in the prompt, behind the instruction",
        default={},
    )
    conversation: str | None = field(
        "the column with a list of messages (role and content, or ShareGPT's from and value): the last reply is the "
        "response, what stands before it the instruction",
        default=None,
        paper="not said",
    )
    keep: dict[str, str] = field("column to the value that a row must have there to be taken", default={})
    limit: Count | None = field(
        "how many records are taken at most, from the first on (all, if absent)", default=None, unit="records"
    )


SOURCES = classes(__name__, __path__, Source, "source")  # type: ignore[type-abstract]
if TYPE_CHECKING:
    Dataset = Source
else:
    Dataset = union(SOURCES, "source")
