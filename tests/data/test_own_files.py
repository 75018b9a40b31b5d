"""Files of one's own, as people have them: read and checked when they are locked, each mistake with file and line."""

import csv
import gzip
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.common.errors import UserError
from scripts.components.forms import Document, Instruction, Use
from scripts.components.making import BuildContext
from scripts.components.sources import SOURCES, Source
from scripts.components.tasks import TASKS
from scripts.data.records import read_records
from tests.conftest import ROOT, House, copy_checkout

Rows = list[dict[str, Any]]
PROBLEMS: Rows = [
    {"instruction": f"Ann has {i} pens and buys {i + 1} more.", "response": f"#### {2 * i + 1}"} for i in range(6)
]
INSTRUCTIONS = (Use("settings.math-ift.dataset", (Instruction,)),)
DOCUMENTS = (Use("settings.code-cpt.dataset", (Document,)),)


def lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: Rows) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def source(path: str, **keys: Any) -> Source:
    chosen: Source = SOURCES["path"].model_validate({"source": "path", "path": path, **keys})
    return chosen


def taken(chosen: Source, tmp_path: Path, uses: tuple[Use, ...] = ()) -> tuple[Rows, dict[str, Any]]:
    """What is locked, checked and built of a source, one after the other."""
    entry = chosen.lock({})
    spec = chosen.spec(entry, 0)
    lock = {str(chosen.identity): entry}
    context = BuildContext("data/records/file-0123456789ab", "mine", tmp_path / "scratch", lock, lambda: [], uses)
    chosen.check(spec, context)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    results = chosen.build(spec, context, out)
    return list(read_records(out)), results


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", lines(PROBLEMS)),
        ("bom.jsonl", "\ufeff".encode() + lines(PROBLEMS)),
        ("blank-last.jsonl", lines(PROBLEMS) + b"\n"),
        ("blank-inside.jsonl", lines(PROBLEMS[:3]) + b"\n  \n" + lines(PROBLEMS[3:])),
        ("no-end.jsonl", lines(PROBLEMS)[:-1]),
        ("compressed-though-it-says-not.jsonl", gzip.compress(lines(PROBLEMS))),
        ("mine.jsonl.gz", gzip.compress(lines(PROBLEMS))),
        ("mine.data", lines(PROBLEMS)),  # once everything was JSON lines
        ("mine.json", json.dumps(PROBLEMS, indent=1).encode()),
        ("mine.csv", table(PROBLEMS)),
        ("mine.csv.gz", gzip.compress(table(PROBLEMS))),
        ("MINE.CSV", table(PROBLEMS)),
        ("mine.parquet", parquet(PROBLEMS)),
    ],
)
def test_what_people_have_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found, results = taken(source(str(tmp_path / name)), tmp_path, INSTRUCTIONS)
    assert found == PROBLEMS
    assert results["records"] == 6


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    for name, text in {"b.txt": "second\n", "a/one.txt": "first", ".hidden": "no", "c.jsonl": '{"text": "3"}'}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "d.jsonl").write_text('{"text": "4"}\n')
    found, results = taken(source(f"{folder}/"), tmp_path, DOCUMENTS)
    assert [record["text"] for record in found] == ["first", "second\n", "3", "4"]
    assert results["files"] == 4
    found, _ = taken(source(f"{folder}/", files=["*.txt"]), tmp_path, DOCUMENTS)
    assert [record["text"] for record in found] == ["first", "second\n"]
    # a file that is renamed, changed or added is another folder; one that is hidden is none of it
    before = source(f"{folder}/").lock({})
    (folder / ".more").write_text("no")
    assert source(f"{folder}/").lock({}) == before
    (folder / "b.txt").rename(folder / "e.txt")
    assert source(f"{folder}/").lock({}) != before
    with pytest.raises(UserError, match=r"is a folder; say so with a slash at its end, `path: .*/texts/`"):
        source(str(folder)).lock({})
    with pytest.raises(UserError, match="is not a folder"):
        source(f"{tmp_path}/none/").lock({})
    (folder / "f.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match=r"f\.pdf: what it is cannot be told; allowed are \.jsonl"):
        taken(source(f"{folder}/"), tmp_path, DOCUMENTS)


def test_columns_conversations_and_a_limit_are_taken_as_from_the_hub(tmp_path: Path) -> None:
    rows = [{"q": str(i), "a": f"yes {i}", "kind": "ab"[i % 2], "unused": 1} for i in range(10)]
    (tmp_path / "a.csv").write_bytes(table(rows))
    columns = {"instruction": "q", "response": "a"}
    found, results = taken(source(f"{tmp_path}/a.csv", columns=columns, keep={"kind": "b"}, limit=3), tmp_path)
    assert found == [{"instruction": str(i), "response": f"yes {i}"} for i in (1, 3, 5)]
    assert results == {"records": 3, "files": 1, "text_bytes": 3 * 6, "duplicates": 0}
    chats = [{"talk": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": f"{i}!"}]} for i in range(3)]
    (tmp_path / "b.json").write_text(json.dumps([*chats, {"talk": []}]))
    found, results = taken(source(f"{tmp_path}/b.json", conversation="talk"), tmp_path, INSTRUCTIONS)
    assert found == [{"instruction": f"{i}?", "response": f"{i}!"} for i in range(3)]
    assert results["left_out"] == 1
    (tmp_path / "c.jsonl").write_bytes(lines(PROBLEMS))
    assert taken(source(f"{tmp_path}/c.jsonl", limit=2), tmp_path)[0] == PROBLEMS[:2]
    assert taken(source(f"{tmp_path}/c.jsonl", limit=60), tmp_path)[0] == PROBLEMS


def test_what_decides_the_records_is_in_their_spec_and_nothing_else_is() -> None:
    entry = {"sha256": "0" * 64}
    plain = {"source": "path", "sha256": "0" * 64}
    assert source("a.jsonl").spec(entry, 0) == source("/b/c.json").spec(entry, 7) == plain
    assert source("a.jsonl.gz").spec(entry, 0) == source("a.data").spec(entry, 0) == plain
    assert source("a.csv").spec(entry, 0) == {**plain, "format": "csv"}
    assert source("a/", files=["*.txt"]).spec(entry, 0) == {**plain, "format": "folder", "files": ["*.txt"]}
    more = {"columns": {"text": "content"}, "limit": 3}
    assert source("a.jsonl", **more).spec(entry, 0) == {**plain, **more}


LONE = b'{"instruction":"x \\ud83d y","response":"#### 1"}\n'
MISTAKES: list[tuple[str, bytes, tuple[Use, ...], str]] = [
    ("utf8.jsonl", lines(PROBLEMS[:5]) + b'{"instruction": "h\xffs"}', INSTRUCTIONS, ", line 6: is not UTF-8 text"),
    ("surrogate.jsonl", lines(PROBLEMS[:3]) + LONE, INSTRUCTIONS, ", line 4: holds half of a character, \\ud83d"),
    ("surrogate.json", b"[" + LONE + b"]", INSTRUCTIONS, ", row 1: holds half of a character, \\ud83d"),
    (
        "null.jsonl",
        lines([*PROBLEMS[:3], {"instruction": "How many?", "response": None}]),
        INSTRUCTIONS,
        ", line 4: is no instruction with its response (response must be text, and is null); settings.math-ift.dataset",
    ),
    ("other.csv", b"question,answer\na,b\n", INSTRUCTIONS, ", line 2: is no instruction with its response (it has no"),
    ("number.jsonl", b'{"text": 1}\n', DOCUMENTS, ", line 1: is no document (text must be text, and is a number)"),
    ("nothing.jsonl", b"", DOCUMENTS, "the source gives no record"),
    ("empty.jsonl", lines([{"text": ""}, {"text": " \n"}]), DOCUMENTS, ", line 1: text is empty, as in every record"),
    ("deep.jsonl", b'{"text": ' + b"[" * 100_000, DOCUMENTS, ", line 1: not valid JSON"),
    (
        "nested.parquet",
        parquet([{"text": ["a"]}]),
        DOCUMENTS,
        ", row 1: is no document (text must be text, and is a li",
    ),
    (
        "input.jsonl",
        lines([{"instruction": "Add", "input": "1 and 2", "response": "3"}]),
        INSTRUCTIONS,
        ", line 1: has an `input` that would be left out of the prompt",
    ),
    (
        "test.jsonl",
        lines([{"question": "1+1?", "answer": "2"}]),
        (Use("evaluation.tasks.gsm8k.dataset", TASKS["gsm8k"].forms),),
        ", line 1: is no item of gsm8k (answer must end in #### and a number, and is '2'); evaluation.tasks.gsm8k.da",
    ),
]


@pytest.mark.parametrize(("name", "content", "uses", "said"), MISTAKES)
def test_a_mistake_is_one_sentence_with_the_persons_file_and_line(
    tmp_path: Path, name: str, content: bytes, uses: tuple[Use, ...], said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        taken(source(f"{tmp_path}/{name}"), tmp_path, uses)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert message.startswith(f"{tmp_path}/{name}")
    assert not list((tmp_path).glob("out/*")), "it was said when it was locked"


def test_copies_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The order of fields makes no difference, the place of a space does."""
    again = [{"response": row["response"], "instruction": row["instruction"]} for row in PROBLEMS[:2]]
    other = [{**PROBLEMS[0], "response": PROBLEMS[0]["response"] + " "}]
    (tmp_path / "a.jsonl").write_bytes(lines([*PROBLEMS, PROBLEMS[0], *again, *other]))
    assert taken(source(f"{tmp_path}/a.jsonl"), tmp_path)[1]["duplicates"] == 3
    said = capsys.readouterr().err.count(f"{tmp_path}/a.jsonl: 3 of 10 records are the same as one before\n")
    assert said == 2, "when they are locked, and when they are made"


def test_the_lock_says_what_is_wrong_and_the_job_says_it_too(tmp_path: Path) -> None:
    """By command: nothing is locked that cannot be trained on or asked, and no job makes records of it."""
    house = House(copy_checkout(ROOT, tmp_path / "house"))
    (house.root / "mine.jsonl").write_bytes(lines([*PROBLEMS[:3], {"instruction": "How many?", "response": None}]))
    (house.root / "test.csv").write_text('question,answer\n"1+1?","#### 2"\n"1+2?",3\n')

    def own(study: dict[str, Any]) -> None:
        study["datasets"]["math-instructions"] = {"source": "path", "path": "mine.jsonl"}
        study["datasets"]["gsm8k"] = {"source": "path", "path": "test.csv"}

    house.edit(own)
    lock = house.root / "config/data.lock"
    before = lock.read_text()
    said = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=False)
    assert "not locked: datasets.math-instructions: mine.jsonl, line 4: is no instruction with its response" in said
    assert "not locked: datasets.gsm8k: test.csv, line 3: is no item of gsm8k" in said
    assert "Traceback" not in said
    assert lock.read_text() == before

    # one that was locked before there were such checks is refused by its job, which is before any training
    hashes = {name: hashlib.sha256((house.root / name).read_bytes()).hexdigest() for name in ("mine.jsonl", "test.csv")}
    lock.write_text(before + "".join(f"path:{name}:\n  sha256: {sha}\n" for name, sha in hashes.items()))
    said = house.python("-m", "scripts.data.products", "data/records/file", "--study", "smoke", ok=False)
    assert "several products" in said
    keys = sorted(set(re.findall(r"data/records/file-[0-9a-f]{12}", said)))
    each = [house.python("-m", "scripts.data.products", key, "--study", "smoke", ok=False) for key in keys]
    assert sorted(text.splitlines()[-1].partition(": is no")[0] for text in each) == [
        "error: mine.jsonl, line 4",
        "error: test.csv, line 3",
    ]
    assert not house.manifests("data/records")


def test_a_shared_lock_may_have_a_file_in_places_of_several_people(tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").write_bytes(lines(PROBLEMS))
    chosen = source(f"{tmp_path}/here.jsonl")
    entry = chosen.lock({})
    lock = {f"path:{tmp_path}/another-machine/theirs.jsonl": entry, str(chosen.identity): entry}
    context = BuildContext("data/records/file-0123456789ab", "mine", tmp_path / "scratch", lock, lambda: [], ())
    (tmp_path / "out").mkdir()
    assert chosen.build(chosen.spec(entry, 0), context, tmp_path / "out")["records"] == len(PROBLEMS)
