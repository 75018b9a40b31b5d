"""Records in a file of one's own."""

from collections.abc import Mapping
from typing import Any, Literal

from scripts.components.part import field
from scripts.components.sources import Source


class PathDataset(Source):
    """Records in a JSON-lines file of one's own; its SHA-256 stands in ``config/data.lock``."""

    source: Literal["path"] = field("the records lie in a file")
    path: str = field(
        "the .jsonl file, absolute or relative to the repository: documents `{text}`, or `{instruction, response}`",
        min_length=1,
    )

    @property
    def identity(self) -> str:
        return f"path:{self.path}"

    @property
    def place(self) -> str:
        return "file"

    def spec(self, entry: Mapping[str, Any], data_seed: int) -> dict[str, Any]:
        spec = {"source": self.source, "sha256": entry.get("sha256")}
        # two files must not be one product before they are locked
        return spec if entry else {**spec, "path": self.path}

    @property
    def expected_records(self) -> int:
        return 0
