"""The records of a dataset: a file of JSON lines, written from tables of several formats."""

import gzip
import json
import re
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TextIO

from scripts.common.errors import UserError
from scripts.common.quantities import parse_tokens

FILE = "records.jsonl"
BYTES_A_TOKEN = 3.5
"""What a token of a sampled set is taken to be, in bytes of text: about right for code and prose in English under
Llama-2's vocabulary. The sample is a little larger or smaller than asked for; training counts real tokens."""

ROLES = {"system": "System:", "user": "User:", "assistant": "Assistant:"}
"""Who can speak in a conversation, and the line that stands over what is said where it is written out."""

_ROWS_AT_ONCE = 1000
_CHARACTERS_AT_ONCE = 1 << 20
_REPORT_SECONDS = 10.0


def matching(names: Iterable[str], globs: Iterable[str], where: str) -> list[str]:
    """The names that a glob matches (``*`` matches ``/`` too), each once, sorted.

    Raises:
        UserError: a glob matches none.
    """
    names = sorted(names)
    found: set[str] = set()
    for glob in globs:
        hits = [name for name in names if fnmatchcase(name, glob)]
        if not hits:
            few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise UserError(f"{where}: no file matches {glob!r}; it has {few or 'no files'}")
        found.update(hits)
    return sorted(found)


def write_records(
    out: Path, files: Iterable[tuple[str, Path]], spec: Mapping[str, Any], where: str, total: int = 1
) -> dict[str, Any]:
    """Writes the rows of tables as records; one file is open at a time.

    Args:
        out: the directory that gets ``records.jsonl``.
        files: the names of the tables, see `rows_of`, and where they lie.
        spec: what of them is taken: `columns`, `keep`, `conversation` and `sample_tokens` as a dataset of the hub has
            them. A sample stops at the first record that reaches it.
        where: how lines and errors call the records.
        total: how many files there are.

    Returns:
        What was taken: `records`, `files`, and `text_bytes`, the UTF-8 bytes of the records' texts; of conversations
        also `left_out`, how many gave none.

    Raises:
        UserError: a table cannot be read, lacks a column or holds what is no JSON, or none of them gives a record.
    """
    columns, keep, conversation = spec.get("columns", {}), spec.get("keep", {}), spec.get("conversation")
    named = [*columns.values(), *([conversation] if conversation else [])]
    wanted = {*named, *keep} if named else None
    enough = parse_tokens(spec["sample_tokens"]) * BYTES_A_TOKEN if "sample_tokens" in spec else float("inf")
    count, left_out, text_bytes, taken, last = 0, 0, 0, 0, time.monotonic()
    # a lone surrogate (half of a broken escape) is no text that UTF-8 can hold
    with (out / FILE).open("w", encoding="utf-8", errors="replace") as file:
        for taken, (source, path) in enumerate(files, start=1):
            for number, row in enumerate(rows_of(path, source, wanted), start=1):
                if any(str(row[column]) != value for column, value in keep.items()):
                    continue
                record = row if wanted is None else {field: row[column] for field, column in columns.items()}
                if conversation:
                    example = example_of(row[conversation], f"{source}, row {number}: {conversation}")
                    if example is None:
                        left_out += 1
                        continue
                    record |= example
                try:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                except TypeError as error:
                    raise UserError(f"{source}: holds a value that JSON has no form for ({error})") from error
                count += 1
                texts = (value for value in record.values() if isinstance(value, str))
                text_bytes += sum(len(text.encode(errors="replace")) for text in texts)
                if text_bytes >= enough:
                    break
                if time.monotonic() - last > _REPORT_SECONDS:
                    last = time.monotonic()
                    _report(where, taken, total, count, text_bytes)
            _report(where, taken, total, count, text_bytes)
            if text_bytes >= enough:
                break
    if not count:
        raise UserError(f"{where}: the source gives no record (see keep and files)")
    results = {"records": count, "files": taken, "text_bytes": text_bytes}
    return results | ({"left_out": left_out} if conversation else {})


def example_of(messages: object, where: str) -> dict[str, str] | None:
    """What a conversation teaches: its last reply is the `response`, all that stands before it the `instruction`.

    One user message is an instruction as it is. Anything else, with more turns or a system message, is written out in a
    plain form of this project's own, a line for the role over each message and an empty line between them; a model that
    is trained on it never saw another:

        System:
        You are a poet.

        User:
        Write a line.

        Assistant:
        The rain has come to stay.

        User:
        Another one.

    What stands after the last reply is nobody's answer and does not count; an empty system message is none.

    Args:
        messages: a list of mappings with `role` (system, user or assistant) and `content`, in their order; None is an
            empty one.
        where: how an error calls it.

    Returns:
        None where no assistant replies, where the last reply is empty, and where nothing stands before it.

    Raises:
        UserError: it is no such list.
    """
    if not isinstance(messages, list | None):
        raise UserError(f"{where}: must be a list of messages with role and content, and is {type(messages).__name__}")
    said: list[tuple[str, str]] = []
    for message in messages or []:
        role, content = (message.get(key) for key in ("role", "content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or role not in ROLES:
            raise UserError(f"{where}: the role of a message must be one of {', '.join(ROLES)} (it is {role!r})")
        if not isinstance(content, str):
            raise UserError(f"{where}: the content of a message must be text (it is {type(content).__name__})")
        if role != "system" or content.strip():
            said.append((role, content))
    last = max((place for place, (role, _) in enumerate(said) if role == "assistant"), default=0)
    before, response = said[:last], said[last][1] if said else ""
    if not before or not response.strip():
        return None
    if [role for role, _ in before] == ["user"]:
        return {"instruction": before[0][1], "response": response}
    return {"instruction": "\n\n".join(f"{ROLES[role]}\n{text}" for role, text in before), "response": response}


def _report(where: str, taken: int, total: int, count: int, text_bytes: int) -> None:
    print(
        f"{where}: file {taken} of {total}, {count:,} records, {text_bytes / 1e6:,.1f} MB of text",
        file=sys.stderr,
        flush=True,
    )


# -- files of other formats -------------------------------------------------------------------


def rows_of(path: Path, name: str, columns: Collection[str] | None) -> Iterator[dict[str, Any]]:
    """The rows of a table, as plain data, without holding the table in memory.

    Args:
        path: where its bytes lie.
        name: its name, whose end says what it is: .parquet, .arrow, .json, .jsonl, each of the last two with .gz too.
            A JSON file holds an object a line, or one array of objects.
        columns: those that are wanted; all, if None.

    Raises:
        UserError: another format, a broken file, or a column that is not there.
    """
    if name.endswith((".parquet", ".arrow")):
        yield from _arrow_rows(path, name, columns)
    elif name.endswith((".json", ".jsonl", ".json.gz", ".jsonl.gz")):
        for row in _json_rows(path, name):
            if missing := [column for column in columns or () if column not in row]:
                raise UserError(f"{name}: a row has no column {missing[0]!r}; it has {', '.join(row)}")
            yield row
    else:
        raise UserError(f"{name}: what it is cannot be told; allowed are .parquet, .arrow, .json and .jsonl (with .gz)")


def _arrow_rows(path: Path, name: str, columns: Collection[str] | None) -> Iterator[dict[str, Any]]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        if name.endswith(".parquet"):
            table = pq.ParquetFile(path)
            chosen = _chosen(table.schema_arrow.names, name, columns)
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=chosen):
                yield from batch.to_pylist()
            return
        with pa.memory_map(str(path)) as source:
            try:
                batches: Iterable[Any] = pa.ipc.open_stream(source)
                names = batches.schema.names  # type: ignore[attr-defined]
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
                names = reader.schema.names
            chosen = _chosen(names, name, columns)
            for batch in batches:
                for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    yield from batch.slice(start, _ROWS_AT_ONCE).select(chosen).to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{name}: cannot be read ({str(error).splitlines()[0]})") from error


def _chosen(names: list[str], where: str, columns: Collection[str] | None) -> list[str]:
    if columns is None:
        return names
    if missing := sorted(set(columns) - set(names)):
        raise UserError(f"{where}: has no column {missing[0]!r}; it has {', '.join(names)}")
    return sorted(columns)


def _json_rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    with (gzip.open if name.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        try:
            # a name does not tell them apart: there are arrays whose file is called .jsonl.gz
            start = file.read(_CHARACTERS_AT_ONCE).lstrip()
            file.seek(0)
            items = _array(file) if start.startswith("[") else (json.loads(line) for line in file if line.strip())
            for number, item in enumerate(items, start=1):
                if not isinstance(item, dict):
                    raise UserError(f"{name}, row {number}: not a JSON object")
                yield item
        except (ValueError, EOFError, gzip.BadGzipFile) as error:
            raise UserError(f"{name}: is not valid JSON ({error})") from error


_GAP = re.compile(r"[\s,]*")


def _array(file: TextIO) -> Iterator[Any]:
    """The items of a JSON array, read piece by piece."""
    decoder = json.JSONDecoder()
    text = file.read(_CHARACTERS_AT_ONCE)
    position = text.index("[") + 1
    while True:
        position = _GAP.match(text, position).end()  # type: ignore[union-attr]
        if text.startswith("]", position):
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except ValueError:
            more = file.read(_CHARACTERS_AT_ONCE)
            if not more:
                raise
            text, position = text[position:] + more, 0
            continue
        yield item


def read_records(directory: Path) -> Iterator[dict[str, Any]]:
    """The records in a product's directory.

    Raises:
        UserError: a line is not a JSON object.
    """
    with (directory / FILE).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{directory / FILE}, line {number}: not valid JSON") from error
            if not isinstance(record, dict):
                raise UserError(f"{directory / FILE}, line {number}: not a JSON object")
            yield record
