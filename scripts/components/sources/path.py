"""Records in a file or a folder of one's own."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scripts.common.errors import UserError
from scripts.common.files import project
from scripts.components.making import DATA_LOCK, BuildContext, LockEntry, Sha256, lock_command
from scripts.components.part import field, unusual
from scripts.components.sources import Source, Table
from scripts.store.fingerprint import file_sha256

if TYPE_CHECKING:
    from scripts.data.records import Records

FOLDER = "folder"
"""What a spec has as the format of a folder, whose files have formats of their own."""


class FileEntry(LockEntry):
    """A file of one's own, or a folder."""

    kind: ClassVar[str] = "path"
    named: ClassVar[str] = "FILE"

    sha256: Sha256


class PathDataset(Table, Source):
    """Records in a file or a folder of one's own; its SHA-256 stands in ``config/data.lock``."""

    source: Literal["path"] = field("the records lie in a file, or in the files of a folder")
    path: str = field(
        "the file, or, with a slash at its end, the folder; absolute or relative to the repository. JSON lines or an "
        "array of JSON (`.jsonl`, `.json`), Parquet (`.parquet`), Arrow (`.arrow`), tables of text (`.csv`, `.tsv`), "
        "or one document a file (`.txt`, `.md`); all but Parquet and Arrow may be compressed (`.gz`, `.zst`). Records "
        "are documents `{text}`, or `{instruction, response}`, or the items of a benchmark",
        min_length=1,
    )
    files: list[str] = field(
        "globs over the folder's files; those that match are read, in the order of their names (all, if empty)",
        default=[],
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
        spec = {"source": self.source, "sha256": entry.get("sha256"), **_format(self.path)}
        spec |= unusual(self, "files", "columns", "conversation", "keep", "limit")
        # two files must not be one product before they are locked
        return spec if entry else {**spec, "path": self.path}

    @property
    def expected_records(self) -> int:
        return self.limit or 0

    def overlaps(self, other: Source) -> bool:
        return isinstance(other, PathDataset) and project(self.path).resolve() == project(other.path).resolve()

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        path = project(self.path)
        if self.path.endswith("/"):
            if not path.is_dir():
                raise UserError(f"{self.path}: is not a folder")
            return {"sha256": _folder_sha256(path)}
        if path.is_dir():
            raise UserError(f"{path}: is a folder; say so with a slash at its end, `path: {self.path}/`")
        if not path.is_file():
            raise UserError(f"{path} is not a file")
        if self.files:
            raise UserError(f"{path}: is one file, and `files` chooses among those of a folder")
        return {"sha256": file_sha256(path)}

    def check(self, spec: Mapping[str, Any], context: BuildContext) -> None:
        _records(spec, context).check()

    def raw(self) -> Iterator[dict[str, Any]]:
        """The rows as they lie there, column to value, whatever a study makes of them.

        Raises:
            UserError: a file cannot be read.
        """
        from scripts.data.tables import rows_of

        path = project(self.path)
        for file in _files(path) if path.is_dir() else [path]:
            yield from (row.values for row in rows_of(file, str(file), None))

    @staticmethod
    def placed(spec: Mapping[str, Any], context: BuildContext) -> Iterator[tuple[str, dict[str, Any]]]:
        """The records of a spec, each with the file and line where it stands.

        Raises:
            UserError: as `check` does.
        """
        return _records(spec, context).placed()

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        return _records(spec, context).write(out)


def names_table(name: str) -> bool:
    """Whether a name ends as those of files do that are read as tables."""
    from scripts.data.tables import format_of

    return format_of(name) is not None


def _format(path: str) -> dict[str, str]:
    """What a spec has of the format, which a hash does not tell: nothing of JSON, which once was all there was."""
    from scripts.data.tables import format_of

    form = FOLDER if path.endswith("/") else format_of(path) or "json"
    return {} if form == "json" else {"format": form}


def _records(spec: Mapping[str, Any], context: BuildContext) -> "Records":
    """Raises UserError where no file has the locked hash any more."""
    from scripts.data.records import Records, matching

    sha256 = context.locked(spec["sha256"], FileEntry.key(spec.get("path", "")))
    form = spec.get("format", "json")
    path = _file_of(sha256, form, context)
    if form != FOLDER:
        # a file of JSON lines is copied, as it was before there were any of these keys
        as_written = not spec.keys() & {"columns", "conversation", "keep", "limit"}
        chosen = {**spec, "format": form}
        return Records([(str(path), path)], chosen, str(path), context.uses, own=True, as_written=as_written)
    names = [str(file.relative_to(path)) for file in _files(path)]
    names = matching(names, spec.get("files", ["*"]), str(path))
    files = [(str(path / name), path / name) for name in names]
    rest = {key: value for key, value in spec.items() if key != "format"}
    return Records(files, rest, str(path), context.uses, own=True, total=len(files))


def _files(folder: Path) -> list[Path]:
    """All files of a folder and of those in it, but hidden ones, by their names."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    shown = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    return sorted(shown, key=lambda file: file.relative_to(folder).as_posix())


def _folder_sha256(folder: Path) -> str:
    """A hash of the files' names and their hashes."""
    lines = [f"{file_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in _files(folder)]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _file_of(sha256: str, form: str, context: BuildContext) -> Path:
    """The file that the lock has under this hash; a spec has no path, as records are the same wherever they lay."""
    prefix = FileEntry.key("")
    paths = [
        key.removeprefix(prefix)
        for key, entry in context.data_lock.items()
        if key.startswith(prefix) and entry["sha256"] == sha256
    ]
    paths = [path for path in paths if _format(path).get("format", "json") == form]
    if not paths:
        raise UserError(f"{context.key}: no file of {DATA_LOCK} has the SHA-256 {sha256[:12]}...")
    # people who share a lock may have the same file in different places
    places = [project(path) for path in paths]
    path = next((place for place in places if place.exists()), places[0])
    if not path.exists():
        raise UserError(f"{path}: is not there, where {DATA_LOCK} says that it is")
    if (found := _folder_sha256(path) if form == FOLDER else file_sha256(path)) != sha256:
        raise UserError(
            f"{path}: its SHA-256 is {found[:12]}..., {DATA_LOCK} says {sha256[:12]}...; "
            f"restore the {'folder' if form == FOLDER else 'file'}, or lock the new one with "
            f"`{lock_command(context.study)}`"
        )
    return path
