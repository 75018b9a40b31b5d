"""Records in a file of one's own."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from scripts.common.errors import UserError
from scripts.common.files import project
from scripts.components.making import DATA_LOCK, BuildContext, LockEntry, Sha256, lock_command
from scripts.components.part import field
from scripts.components.sources import Source
from scripts.store.fingerprint import file_sha256


class FileEntry(LockEntry):
    """A file of one's own."""

    kind: ClassVar[str] = "path"
    named: ClassVar[str] = "FILE"

    sha256: Sha256


class PathDataset(Source):
    """Records in a JSON-lines file of one's own; its SHA-256 stands in ``config/data.lock``."""

    source: Literal["path"] = field("the records lie in a file")
    path: str = field(
        "the .jsonl file, absolute or relative to the repository: documents `{text}`, or `{instruction, response}`",
        min_length=1,
    )

    entry: ClassVar[type[LockEntry]] = FileEntry
    needs_network: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        return FileEntry.key(self.path)

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

    def overlaps(self, other: Source) -> bool:
        return isinstance(other, PathDataset) and project(self.path).resolve() == project(other.path).resolve()

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        path = project(self.path)
        if not path.is_file():
            raise UserError(f"{path} is not a file")
        return {"sha256": file_sha256(path)}

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.data.records import FILE, read_records

        sha256 = context.locked(spec["sha256"], FileEntry.key(spec.get("path", "")))
        shutil.copyfile(_file_of(sha256, context), out / FILE)
        return {"records": sum(1 for _ in read_records(out))}


def _file_of(sha256: str, context: BuildContext) -> Path:
    """The file that the lock has under this hash; a spec has no path, as records are the same wherever they lay."""
    prefix = FileEntry.key("")
    paths = [key for key, entry in context.data_lock.items() if key.startswith(prefix) and entry["sha256"] == sha256]
    if not paths:
        raise UserError(f"{context.key}: no file of {DATA_LOCK} has the SHA-256 {sha256[:12]}...")
    path = project(paths[0].removeprefix(prefix))
    if not path.is_file():
        raise UserError(f"{path}: is not there, where {DATA_LOCK} says that it is")
    if (found := file_sha256(path)) != sha256:
        raise UserError(
            f"{path}: its SHA-256 is {found[:12]}..., {DATA_LOCK} says {sha256[:12]}...; "
            f"restore the file, or lock the new one with `{lock_command(context.study)}`"
        )
    return path
