"""The records of a dataset: a file of JSON lines, written from tables of several formats."""

import hashlib
import json
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from scripts.common.errors import UserError
from scripts.common.quantities import parse_tokens
from scripts.components.forms import Checks, Use
from scripts.components.templates import TURNS_BEFORE
from scripts.data.tables import rows_of

FILE = "records.jsonl"
BYTES_A_TOKEN = 3.5
"""What a token of a sampled set is taken to be, in bytes of text: about right for code and prose in English under
Llama-2's vocabulary. The sample is a little larger or smaller than asked for; training counts real tokens."""

ROLES = {"system": "System:", "user": "User:", "assistant": "Assistant:"}
"""Who can speak in a conversation, and the line that stands over what is said where it is written out."""
SHAREGPT = {"human": "user", "gpt": "assistant"}
"""Names of roles in ShareGPT's form, whose messages have `from` and `value`."""

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


class Records:
    """The records that a source has in its tables, read once; one file is open at a time.

    Args:
        files: the names of the tables, see `rows_of`, and where they lie.
        spec: what of them is taken: `columns`, `keep`, `conversation`, `sample_tokens` and `limit` as the sources have
            them, and `format` where it does not follow from names. A sample stops at the first record that reaches it.
            With `turns`, a record of a conversation has the messages before its response too (`TURNS_BEFORE`).
        where: how lines and errors call the records.
        uses: what the records are for, and so what they have to be.
        own: whether the files are a person's own: what is no text is refused there, and elsewhere replaced.
        as_written: whether lines of JSON stay as they are, byte for byte.
        total: how many files there are.

    Raises:
        UserError: a table cannot be read, lacks a column or holds what is no JSON; a record is not as a use needs it;
            there is none. The sentence names file and line.
    """

    def __init__(
        self,
        files: Iterable[tuple[str, Path]],
        spec: Mapping[str, Any],
        where: str,
        uses: Sequence[Use] = (),
        *,
        own: bool = False,
        as_written: bool = False,
        total: int = 1,
    ) -> None:
        self._files = files
        self._spec = spec
        self._where = where
        self._checks = Checks(uses)
        self._own = own
        self._as_written = as_written
        self._total = total
        self._count = self._left_out = self._text_bytes = self._taken = self._duplicates = 0
        self._digests = array("Q")

    def write(self, out: Path) -> dict[str, Any]:
        """Writes ``records.jsonl`` into a directory.

        Returns:
            What was taken: `records`, `files`, and `text_bytes`, the UTF-8 bytes of the records' texts; `duplicates`,
            how many are the same as one before them; of conversations also `left_out`, how many gave none.
        """
        # a lone surrogate (half of a broken escape) is no text that UTF-8 can hold
        with (out / FILE).open("w", encoding="utf-8", errors="replace", newline="") as file:
            file.writelines(line for _, _, line in self._taken_lines())
        results = {"records": self._count, "files": self._taken, "text_bytes": self._text_bytes}
        results["duplicates"] = self._duplicates
        return results | ({"left_out": self._left_out} if self._spec.get("conversation") else {})

    def check(self) -> None:
        """Reads all, as `write` does, and writes nothing."""
        for _ in self._taken_lines():
            pass

    def placed(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every record that `write` would write, with where it stands: file and line."""
        for place, record, _ in self._taken_lines():
            yield place, record

    def _taken_lines(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        limit = self._spec.get("limit", float("inf"))
        enough = float("inf")
        if "sample_tokens" in self._spec:
            enough = parse_tokens(self._spec["sample_tokens"]) * BYTES_A_TOKEN
        last = time.monotonic()
        for source, path in self._files:
            self._taken += 1
            for place, record, line in self._records(source, path):
                self._checks.take(record, place, bool(self._spec.get("columns")))
                text = self._text(record, place)
                self._count += 1
                self._digests.append(digest(record))
                texts = (value for value in record.values() if isinstance(value, str))
                self._text_bytes += sum(len(text.encode(errors="replace")) for text in texts)
                yield place, record, line or text + "\n"
                if self._text_bytes >= enough or self._count >= limit:
                    break
                if time.monotonic() - last > _REPORT_SECONDS:
                    last = time.monotonic()
                    self._report()
            self._report()
            if self._text_bytes >= enough or self._count >= limit:
                break
        if not self._count:
            raise UserError(f"{self._where}: the source gives no record (see keep and files)")
        for said in self._checks.finish(self._where):
            print(said, file=sys.stderr)
        if again := duplicates(self._digests):
            self._duplicates = again
            print(f"{self._where}: {again:,} of {self._count:,} records are the same as one before", file=sys.stderr)

    def _records(self, source: str, path: Path) -> Iterator[tuple[str, dict[str, Any], str | None]]:
        """Place, record, and its line where it stays as it is written."""
        columns, keep = self._spec.get("columns", {}), self._spec.get("keep", {})
        conversation = self._spec.get("conversation")
        named = [*columns.values(), *([conversation] if conversation else [])]
        wanted = {*named, *keep} if named else None
        for row in rows_of(path, source, wanted, self._spec.get("format")):
            place = f"{source}, {row.place}"
            if missing := [column for column in keep if column not in row.values]:
                raise UserError(f"{place}: has no column {missing[0]!r}; it has {', '.join(row.values)}")
            if any(str(row.values[column]) != value for column, value in keep.items()):
                continue
            if wanted is None:
                yield place, row.values, row.line if self._as_written else None
                continue
            record = {field: row.values[column] for field, column in columns.items()}
            if conversation:
                turns = "turns" in self._spec
                example = example_of(row.values[conversation], f"{place}: {conversation}", turns=turns)
                if example is None:
                    self._left_out += 1
                    continue
                record |= example
            yield place, record, None

    def _text(self, record: Mapping[str, Any], place: str) -> str:
        try:
            text = json.dumps(record, ensure_ascii=False)
            if self._own:
                text.encode()
        except TypeError as error:
            raise UserError(f"{place}: holds a value that JSON has no form for ({error})") from error
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise UserError(
                f"{place}: holds half of a character, \\u{ord(half):04x}, which is no text; mend or drop the record"
            ) from error
        return text

    def _report(self) -> None:
        print(
            f"{self._where}: file {self._taken} of {self._total}, {self._count:,} records, "
            f"{self._text_bytes / 1e6:,.1f} MB of text",
            file=sys.stderr,
            flush=True,
        )


def digest(record: Mapping[str, Any]) -> int:
    """64 bits that stand for a record: two that are the same have the same, whatever the order of their fields."""
    text = json.dumps(record, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def duplicates(digests: "array[int]") -> int:
    """How many records are the same as one before them."""
    return len(digests) - len(np.unique(np.array(digests, dtype=np.uint64)))


def example_of(messages: object, where: str, *, turns: bool = False) -> dict[str, Any] | None:
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
        messages: a list of mappings with `role` (system, user or assistant) and `content`, in their order; or, as
            ShareGPT has them, with `from` (system, human or gpt) and `value`. None is an empty one.
        where: how an error calls it.
        turns: whether the messages before the response are returned as they are, too.

    Returns:
        None where no assistant replies, where the last reply is empty, and where nothing stands before it.

    Raises:
        UserError: it is no such list.
    """
    if not isinstance(messages, list | None):
        raise UserError(f"{where}: must be a list of messages with role and content, and is {type(messages).__name__}")
    said: list[tuple[str, str]] = []
    for message in messages or []:
        role, content = _said(message) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or role not in ROLES:
            raise UserError(
                f"{where}: the role of a message must be one of {', '.join(ROLES)} (it is {role!r}); ShareGPT's, with "
                f"from and value instead of role and content, may be {' or '.join(SHAREGPT)} too"
            )
        if not isinstance(content, str):
            raise UserError(f"{where}: the content of a message must be text (it is {type(content).__name__})")
        if role != "system" or content.strip():
            said.append((role, content))
    last = max((place for place, (role, _) in enumerate(said) if role == "assistant"), default=0)
    before, response = said[:last], said[last][1] if said else ""
    if not before or not response.strip():
        return None
    more = {TURNS_BEFORE: [{"role": role, "content": text} for role, text in before]} if turns else {}
    if [role for role, _ in before] == ["user"]:
        return {"instruction": before[0][1], "response": response, **more}
    told = "\n\n".join(f"{ROLES[role]}\n{text}" for role, text in before)
    return {"instruction": told, "response": response, **more}


def _said(message: Mapping[str, Any]) -> tuple[object, object]:
    """Role and content of a message."""
    if "from" in message and "role" not in message:
        role = message["from"]
        return SHAREGPT.get(role, role) if isinstance(role, str) else role, message.get("value")
    return message.get("role"), message.get("content")


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
