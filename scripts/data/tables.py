"""Rows of files of several formats, each with the place in its file that a person can look up.

What a file is, its name says (see `FORMATS`); whether it is compressed, its first bytes do. Text is UTF-8, with or
without a byte order mark.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from scripts.common.errors import UserError

FORMATS = {
    ".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "tsv",
    ".txt": "text", ".md": "text",
}  # fmt: skip
"""How a file's name ends, but for `COMPRESSED`, to its format.

    json     an object a line, or one array of objects
    csv, tsv a header, then a row a line; every value is text, quotes are those of Excel (RFC 4180)
    text     the whole file is one document, in the column `text`
"""
COMPRESSED = (".gz", ".zst")
"""Ends of names that say nothing of the format."""
ALLOWED = f"allowed are {', '.join(FORMATS)}, each but .parquet and .arrow with {' or '.join(COMPRESSED)} too"

_ROWS_AT_ONCE = 1000
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Row(NamedTuple):
    """A row of a table."""

    place: str
    """Where it stands in its file: ``line 3``; ``row 3`` where lines cannot be counted."""
    values: dict[str, Any]
    """Column to value, as plain data."""
    line: str | None
    """The line itself where it is one of JSON, with its end."""


def format_of(name: str) -> str | None:
    """The format that a file's name says; None where it says none."""
    for end in COMPRESSED:
        name = name.removesuffix(end)
    return FORMATS.get(Path(name).suffix.lower())


def rows_of(path: Path, name: str, columns: Collection[str] | None, form: str | None = None) -> Iterator[Row]:
    """The rows of a table. One that is no array of JSON is read without holding it in memory.

    Args:
        path: where its bytes lie.
        name: how errors call it, and whose end says what it is.
        columns: those that are wanted; all, if None.
        form: a format that counts instead of what the name says.

    Raises:
        UserError: another format, a broken file, a line that is not as the others, a column that is not there. The
            sentence names the file, and the line as far as there is one.
    """
    form = form or format_of(name)
    if form in ("parquet", "arrow"):
        if _compression(path):
            raise UserError(f"{name}: is a compressed file, and {form} has a compression of its own; decompress it")
        yield from (_parquet_rows if form == "parquet" else _arrow_rows)(path, name, columns)
        return
    readers = {"json": _json_rows, "csv": _csv_rows, "tsv": _tsv_rows, "text": _text_rows}
    if form not in readers:
        raise UserError(f"{name}: what it is cannot be told; {ALLOWED}")
    with _opened(path, name) as file:
        for row in readers[form](file, name):
            for column in columns or ():
                if column not in row.values:
                    raise UserError(f"{name}, {row.place}: has no column {column!r}; it has {', '.join(row.values)}")
            yield row


# -- bytes ------------------------------------------------------------------------------------


def _compression(path: Path) -> str | None:
    with path.open("rb") as file:
        first = file.read(4)
    return next((name for magic, name in _MAGIC.items() if first.startswith(magic)), None)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed as they are read."""
    import pyarrow as pa  # type: ignore[import-untyped]

    compression = _compression(path)
    try:
        if compression == "gzip":
            with gzip.open(path) as unpacked:
                yield unpacked  # type: ignore[misc]  # it reads as any binary file does
        elif compression == "zstd":
            with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream, io.BufferedReader(stream) as buffer:
                yield buffer
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, pa.ArrowException) as error:
        raise UserError(f"{name}: cannot be decompressed ({_first_line(error)})") from error
    except OSError as error:
        if compression != "zstd":
            raise
        raise UserError(f"{name}: cannot be decompressed ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _decoded(data: bytes, name: str, line: int) -> str:
    """The text of bytes that begin in a line of a file, counted from 1; without a byte order mark."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise UserError(
            f"{name}, line {line}: is not UTF-8 text (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from error
    return text.removeprefix("\ufeff") if line == 1 else text


# -- formats ----------------------------------------------------------------------------------


def _json_rows(file: IO[bytes], name: str) -> Iterator[Row]:
    # a name does not tell lines and an array apart: there are arrays whose file is called .jsonl.gz
    before: list[bytes] = []
    for data in file:
        before.append(data)
        if stripped := _decoded(data, name, len(before)).lstrip():
            break
    else:
        return
    if stripped.startswith("["):
        text = _decoded(b"".join([*before, *file]), name, 1)
        items = _parsed(text, name, 1)
        for number, item in enumerate(items, start=1):
            yield Row(f"row {number}", _object(item, name, f"row {number}"), None)
        return
    for number, data in enumerate((line for lines in (before, file) for line in lines), start=1):
        line = _decoded(data, name, number)
        if line.strip():
            place = f"line {number}"
            yield Row(place, _object(_parsed(line, name, number), name, place), line)


def _parsed(text: str, name: str, line: int) -> Any:
    """The value of a JSON text that begins in a line of a file."""
    try:
        return json.loads(text.rstrip(), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        what = f"line {line + error.lineno - 1}: not valid JSON ({error.msg}, column {error.colno})"
        hint = "a JSON file has one array of objects, or an object a line"
        raise UserError(f"{name}, {what}; {hint}") from error
    except (ValueError, RecursionError) as error:
        # a key that stands twice, a number of five thousand digits, ten thousand "["
        raise UserError(f"{name}, line {line}: not valid JSON ({_first_line(error)})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {again!r} stands twice in an object")
    return values


def _object(item: object, name: str, place: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise UserError(f"{name}, {place}: not a JSON object")
    return item


def _csv_rows(file: IO[bytes], name: str, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    lines = (_decoded(data, name, number) for number, data in enumerate(file, start=1))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    begin = 1
    try:
        for fields in reader:
            if header is None and fields:
                header = fields
                if again := next((column for column in header if header.count(column) > 1), None):
                    raise UserError(f"{name}, line {begin}: the column {again!r} stands twice")
            elif header is not None and fields:
                if len(fields) != len(header):
                    raise UserError(
                        f"{name}, line {begin}: has {len(fields)} values, and the header {len(header)} columns "
                        f"({', '.join(header)})"
                    )
                yield Row(f"line {begin}", dict(zip(header, fields, strict=True)), None)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}, line {begin}: cannot be read as a table ({error})") from error


def _tsv_rows(file: IO[bytes], name: str) -> Iterator[Row]:
    return _csv_rows(file, name, delimiter="\t")


def _text_rows(file: IO[bytes], name: str) -> Iterator[Row]:
    yield Row("line 1", {"text": _decoded(file.read(), name, 1)}, None)


def _parquet_rows(path: Path, name: str, columns: Collection[str] | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        table = pq.ParquetFile(path)
        chosen = _chosen(table.schema_arrow.names, name, columns)
        yield from _numbered(table.iter_batches(_ROWS_AT_ONCE, columns=chosen))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: cannot be read ({_first_line(error)})") from error


def _arrow_rows(path: Path, name: str, columns: Collection[str] | None) -> Iterator[Row]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                batches: Iterable[Any] = pa.ipc.open_stream(source)
                names = batches.schema.names  # type: ignore[attr-defined]
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
                names = reader.schema.names
            chosen = _chosen(names, name, columns)
            pieces = (
                batch.slice(start, _ROWS_AT_ONCE).select(chosen)
                for batch in batches
                for start in range(0, batch.num_rows, _ROWS_AT_ONCE)
            )
            yield from _numbered(pieces)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: cannot be read ({_first_line(error)})") from error


def _numbered(batches: Iterable[Any]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            yield Row(f"row {number}", values, None)


def _chosen(names: list[str], where: str, columns: Collection[str] | None) -> list[str]:
    if columns is None:
        return names
    if missing := sorted(set(columns) - set(names)):
        raise UserError(f"{where}: has no column {missing[0]!r}; it has {', '.join(names)}")
    return sorted(columns)
