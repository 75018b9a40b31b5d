"""Files of every format: what the format's own writer wrote is read back, and what is broken is named with its line."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scripts.common.errors import UserError
from scripts.data import tables

# separators that str.splitlines takes for line ends, text that is no ASCII, quotes and brackets
TEXTS = st.text(alphabet=st.sampled_from('ab"\\[]{},: \n\r\t\u2028\x0b\x85\u00e9\U0001f600\ufeff'), max_size=30)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": TEXTS,
            "number": st.integers(-(2**53), 2**53),
            "choices": st.fixed_dictionaries({"label": st.lists(TEXTS, max_size=3)}),
        }
    ),
    min_size=1,
    max_size=20,
)
BOM = "\ufeff".encode()
Rows = list[dict[str, Any]]


def parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=3)
    return file.getvalue()


def arrow(rows: Rows, *, stream: bool) -> bytes:
    file, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return file.getvalue()


def lines(rows: Rows, end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def zstd(data: bytes) -> bytes:
    """By Arrow's writer of streams; `test_zst_by_another_writer` has the frames of another."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "a.parquet": parquet,
    "stream.arrow": lambda rows: arrow(rows, stream=True),
    "file.arrow": lambda rows: arrow(rows, stream=False),
    "a.jsonl": lines,
    "a.json": lines,
    "windows.jsonl": lambda rows: BOM + lines(rows, "\r\n"),
    "blank.jsonl": lambda rows: b"\n \n" + lines(rows, "\n\r\n\t\n"),
    "a.jsonl.gz": lambda rows: gzip.compress(lines(rows)),
    "a.jsonl.zst": lambda rows: zstd(lines(rows)),
    "parts.jsonl.gz": lambda rows: b"".join(gzip.compress(lines([row])) for row in rows),
    "compressed.jsonl": lambda rows: gzip.compress(lines(rows)),
    "array.json": lambda rows: json.dumps(rows).encode(),
    "indented.json": lambda rows: BOM + json.dumps(rows, indent=2, ensure_ascii=False).encode(),
    "array.jsonl.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20)
@given(rows=ROWS)
def test_every_format_gives_the_rows_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: Rows
) -> None:
    path = tmp_path_factory.getbasetemp() / "blob"  # the hub's cache names no endings
    path.write_bytes(FORMATS[name](rows))
    assert [row.values for row in tables.rows_of(path, name, None)] == rows
    (first, *_) = tables.rows_of(path, name, {"text"})
    assert first.values["text"] == rows[0]["text"]


@pytest.mark.parametrize(
    ("name", "dialect"), [("a.csv", "excel"), ("a.csv", "unix"), ("a.tsv", "excel-tab"), ("a.csv.gz", "excel")]
)
@settings(max_examples=30)
@given(
    rows=st.lists(st.fixed_dictionaries({"text": TEXTS, "a b": TEXTS, '"': TEXTS}), min_size=1, max_size=8),
    bom=st.booleans(),
)
@example(rows=[{"text": "x" * 200_000, "a b": "", '"': ""}], bom=False)  # longer than the library's usual limit
def test_a_table_of_text_gives_the_texts_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, dialect: str, rows: Rows, bom: bool
) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), dialect=dialect)
    writer.writeheader()
    writer.writerows(rows)
    data = (BOM if bom else b"") + text.getvalue().encode()
    path = tmp_path_factory.getbasetemp() / "blob"
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert [row.values for row in tables.rows_of(path, name, None)] == rows


@settings(max_examples=50)
@given(text=TEXTS)
def test_a_text_file_is_a_document(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "blob"
    path.write_bytes(text.encode())
    (row,) = tables.rows_of(path, "a.txt", None)
    assert row.values == {"text": text.removeprefix("\ufeff")}  # which at the beginning is no content


def test_zst_by_another_writer(tmp_path: Path) -> None:
    """The frames that zstd 1.5.4 wrote of a line each, one behind the other, as `cat` puts them."""
    frames = (
        "28b52ffd04587100007b2274657874223a202261227d0afc0c4858",
        "28b52ffd04587100007b2274657874223a202262227d0a387d47c0",
    )
    (tmp_path / "blob").write_bytes(bytes.fromhex("".join(frames)))
    assert [row.values["text"] for row in tables.rows_of(tmp_path / "blob", "a.jsonl.zst", None)] == ["a", "b"]


PLACES: list[tuple[str, bytes, str]] = [
    ("a.doc", b"a,b", "what it is cannot be told; allowed are .jsonl, .json, .parquet, .arrow, .csv, .tsv, .txt, .md"),
    ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2: not valid JSON"),
    ("a.jsonl", b'{"text": "a"}\n\n\n{"text": "b"}, {"text": "c"}\n', "line 4: not valid JSON (Extra data"),
    ("a.jsonl", b'{"text": "a", "text": "b"}', "line 1: not valid JSON (the key 'text' stands twice"),
    ("a.jsonl", b'{"text": ' + b"[" * 100_000, "line 1: not valid JSON"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n{"text": "\xff"}', "line 3: is not UTF-8 text (byte 0xff)"),
    ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "line 1: is not UTF-8 text (byte 0xff); save the file as UTF-8"),
    ("a.jsonl", b'{\n "text": "a"\n}\n', "line 1: not valid JSON"),
    ("a.json", b'[{"text": "a"}, {"te', "line 1: not valid JSON"),
    ("a.json", b'[{"text": "1"},\n{"text": "2"}]\n[{"text": "3"}]', "line 3: not valid JSON (Extra data, column 1)"),
    ("a.json", b'[{"text": "1"}{"text": "2"},,,]', "line 1: not valid JSON (Expecting ',' delimiter, column 15)"),
    ("a.json", b'[{"text": "1"},\n,{"text": "2"}]', "line 2: not valid JSON"),
    ("a.json", b'[{"text": "1"},\n{"text": "2"},]', "not valid JSON"),
    ("a.json", b'[{"text": "1"}\n{"text": "2"}]', "line 2: not valid JSON (Expecting ',' delimiter"),
    ("a.json", b'[{"text": "1"}', "line 1: not valid JSON"),
    ("a.json", b"[1]", "row 1: not a JSON object"),
    ("a.jsonl", b"[1]\n[2]", "line 2: not valid JSON"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n', mtime=0)[:-9], "cannot be decompressed"),
    ("a.jsonl.zst", zstd(b'{"text": "a"}\n' * 9)[:-4] + b"1234567", "cannot be decompressed"),
    ("a.jsonl", b'{"text": "a"}\n{"content": "a"}', "line 2: has no column 'text'; it has content"),
    ("a.csv", b'text,b\n1,2\n\n"3\n4",5\n6\n', "line 6: has 1 values, and the header 2 columns (text, b)"),
    ("a.csv", b"text,b,text\n1,2,3", "line 1: the column 'text' stands twice"),
    ("a.csv", b'text\na\n"b\n', "line 3: cannot be read as a table"),
    ("a.csv", b"text\na\n\xe9\n", "line 3: is not UTF-8 text (byte 0xe9)"),
    ("a.csv", b"content\na\n", "line 2: has no column 'text'; it has content"),
    ("a.txt", b"a\nb\n\xe9", "line 3: is not UTF-8 text"),
    ("a.parquet", b"PAR1", "cannot be read"),
    ("a.parquet", parquet([{"content": "a"}]), "has no column 'text'; it has content"),
    ("a.parquet", gzip.compress(parquet([{"text": "a"}])), "is a compressed file"),
    ("a.arrow", b"ARROW", "cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "said"), PLACES)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / "blob").write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(tables.rows_of(tmp_path / "blob", name, {"text"}))
    message = str(caught.value)
    assert said in message
    assert message.startswith(name)
    assert "\n" not in message


def test_an_array_that_holds_everything_but_its_last_bytes_gives_no_row(tmp_path: Path) -> None:
    """Nothing is taken of a file that is broken further down, so no part of it can pass for the whole."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": str(number)} for number in range(10_000)])[:-1])
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        next(tables.rows_of(path, path.name, None))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "array.json", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz", "a.jsonl.zst", "array.jsonl.gz"]
)
@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Bytes are cut off, lost, doubled or changed: there is no other error than one sentence about the file."""
    rows = [{"text": "one, \u00e9"}, {"text": '"two"\n'}]
    table = b'text,b\n"one, \xc3\xa9",1\n"""two""\n",2\n'
    content = table if name in ("a.csv", "a.tsv", "a.txt") else FORMATS[name](rows)
    begin = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(begin, len(content)))
    put = data.draw(st.binary(max_size=4) | st.sampled_from([b"", content[begin:end] * 2, b"\x00", b"[" * 5000]))
    path = tmp_path_factory.getbasetemp() / "blob"
    path.write_bytes(content[:begin] + put + content[end:])
    said = ""
    try:
        for row in tables.rows_of(path, name, None):
            assert isinstance(row.values, dict)
    except UserError as error:
        said = str(error)
    assert not said or said.startswith(name)
    assert "\n" not in said
