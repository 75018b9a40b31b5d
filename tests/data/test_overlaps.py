"""Training records that share words with what is asked: found by GPT-3's rule, said, refused or left out."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.data.batches import Batches
from scripts.data.overlaps import Asked, words_of
from tests.conftest import ROOT, House, copy_checkout

THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"
Rows = list[dict[str, Any]]


def pairs(records: Rows, items: Rows) -> list[tuple[int, int]]:
    """Numbers, from 1, of the records and items that overlap."""
    asked = Asked()
    asked.add("items", items)
    return [(overlap.record, overlap.item) for overlap in asked.overlaps(records)]


def text(words: str) -> dict[str, Any]:
    return {"text": words}


@pytest.mark.parametrize(
    ("record", "item", "overlap"),
    [
        (f"zero {THIRTEEN} fourteen", f"a {THIRTEEN} b", True),
        ("x " + THIRTEEN.removesuffix(" thirteen"), f"a {THIRTEEN} b", False),  # twelve words of a longer item
        ("One, two; THREE: four-- five six seven (eight) nine ten\neleven 'twelve' thirteen!", THIRTEEN, True),
        (THIRTEEN.replace("seven", "7"), THIRTEEN, False),
        ("x one two three four five six seven eight y", "one two three four five six seven eight", True),
        ("one two three four five six seven", "one two three four five six seven", False),  # seven words are too few
        ("it is 0+1=1 and so on and so on and on and on and on", "it is 011 and so on and so on and on and on", True),
    ],
)
def test_words_in_a_row_by_hand(record: str, item: str, overlap: bool) -> None:
    assert bool(pairs([text(record)], [text(item)])) == overlap


def test_what_more_than_ten_records_share_is_a_phrase() -> None:
    """Copies of one record are one: a training set that has an item a hundred times leaks it all the same."""
    records = [text(f"{i} {THIRTEEN}") for i in range(10)]
    assert len(pairs(records, [text(THIRTEEN)])) == 10
    assert pairs([*records, text(f"{10} {THIRTEEN}")], [text(THIRTEEN)]) == []
    assert len(pairs([text(THIRTEEN)] * 100, [text(THIRTEEN)])) == 100


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_pairs_are_those_of_comparing_all_with_all(seed: int) -> None:
    """Texts of few words, so that they share many in a row; compared by sets of tuples, each with each."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices("abc", k=rng.randint(5, 22))) for _ in range(24)]
    records, items = [text(one) for one in texts[:16]], [text(one) for one in texts[16:]]

    def grams(words: list[str], size: int) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

    expected = set()
    for number, item in enumerate(items, start=1):
        words = item["text"].split()
        size = min(13, len(words))
        if size < 8:
            continue
        for gram in grams(words, size):
            having = [i for i, record in enumerate(records, 1) if gram in grams(record["text"].split(), size)]
            if len({records[i - 1]["text"] for i in having}) <= 10:
                expected |= {(i, number) for i in having}
    assert set(pairs(records, items)) == expected


def test_all_texts_of_a_record_have_words() -> None:
    record = {"question": "Which, of Two?", "choices": {"text": ["A b", "c_d"], "label": ["A"]}, "number": 3}
    assert words_of(record) == ["which", "of", "two", "a", "b", "cd", "a"]


# -- by command -------------------------------------------------------------------------------

SUMS = [
    {"instruction": f"Ann {name} has {i} pens and buys {i + 1} more. How many pens?", "response": f"#### {2 * i + 1}"}
    for i, name in enumerate(["Lee", "May", "Kim", "Roy", "Jay", "Sue", "Tom", "Ida", "Eva", "Ned", "Pat", "Zoe"] * 2)
]
LEAK = {"question": "Ann Kim has 2 pens and buys 3 more. How many pens?", "answer": "#### 5"}


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A study that trains on a file of one's own, and asks one of its records."""
    house = House(copy_checkout(ROOT, tmp_path / "house"))

    def write(name: str, rows: Rows) -> None:
        (house.root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("train.jsonl", SUMS)
    write("test.jsonl", [LEAK, {"question": "What is the sum of 1 and 1, if anything?", "answer": "#### 2"}])

    def own(study: dict[str, Any]) -> None:
        study["datasets"]["math-instructions"] = {"source": "path", "path": "train.jsonl"}
        study["datasets"]["gsm8k"] = {"source": "path", "path": "test.jsonl"}

    house.edit(own)
    return house


def test_a_copy_under_another_name_is_refused(house: House) -> None:
    """Both files are locked, and are one."""
    (house.root / "copy.jsonl").write_bytes((house.root / "train.jsonl").read_bytes())

    def held_out(study: dict[str, Any]) -> None:
        study["datasets"]["copy"] = {"source": "path", "path": "copy.jsonl"}
        study["settings"]["math-ift"]["held_out"] = "copy"

    house.edit(held_out)
    said = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=False)
    sentence = (
        "settings.math-ift.held_out: dataset 'copy' is a copy of 'math-instructions', which is trained on "
        "(settings.math-ift.dataset): config/data.lock has the same SHA-256 of path:copy.jsonl and of path:train.jsonl"
    )
    assert said.splitlines()[-1] == f"error: {sentence}"
    assert sentence in house.snakemake("-n", ok=False)


@pytest.mark.parametrize("action", ["warn", "refuse", "drop"])
def test_what_is_asked_and_trained_on(house: House, action: str) -> None:
    """The third record is the first item; the second item shares nothing."""
    house.edit(lambda study: study.update({"contamination": action}))
    house.python("-m", "scripts.data.lock", "--study", "smoke")
    manifests = house.planned("data")
    (rows,) = [path for path in manifests if "/rows/math-ift" in path]
    key = rows.removeprefix("results/store/").removesuffix(".json")
    if action == "refuse":
        said = house.snakemake(rows, ok=False)
        log = (house.root / f"results/logs/{key}.log").read_text()
        assert "1 of the training records share 8 to 13 words in a row with what is asked or held out" in log
        assert "record 3 with item 1 of data/records/file-" in log
        assert "`contamination: drop` leaves them out" in log
        assert "Traceback" not in said
        assert not (house.root / rows).exists()
        return
    house.snakemake(rows)
    manifest = json.loads((house.root / rows).read_text())
    (comparison,) = house.store.glob("data/overlaps/file-*.json") if action == "warn" else [house.root / rows]
    report = comparison.with_suffix("") / "overlaps.jsonl"
    (pair,) = [json.loads(line) for line in report.read_text().splitlines()]
    assert (pair["record"], pair["item"]) == (3, 1)
    assert pair["words"].startswith("ann kim has 2 pens and buys 3 more how many pens")
    assert manifest["results"]["examples"] == len(SUMS) - (action == "drop")
    assert Batches(house.store / key).steps_per_epoch
    log = (house.root / f"results/logs/{key}.log").read_text()
    warning = f"warning: data/overlaps/{comparison.stem}: 1 of the training records share"
    assert (warning in log) == (action == "warn")
    counted = {"compared": len(SUMS), "overlapping": 1} if action == "warn" else {"overlapping": 1}
    assert json.loads(comparison.read_text())["results"].items() >= counted.items()

    house.snakemake("results/tables/table1.md")
    with (house.root / "results/tables/table1.csv").open() as file:
        (one, *_) = [row for row in csv.DictReader(file) if row["setting"] == "math-ift"]
    assert [one[name] for name in ("records", "duplicates", "compared", "overlapping")] == [
        str(len(SUMS)), "0", str(len(SUMS)), "1",
    ]  # fmt: skip


def test_another_question_is_compared_again(house: House) -> None:
    """The rows stay as they are, and what their records share is known anew."""
    house.python("-m", "scripts.data.lock", "--study", "smoke")
    house.snakemake("results/tables/table1.md")
    house.edit(lambda study: study["datasets"]["gsm8k"].update(limit=2))
    assert not house.planned("data/rows", "results/tables/table1.md")
    house.snakemake("results/tables/table1.md")
    assert len(list(house.store.glob("data/overlaps/file-*.json"))) == 2


def test_records_that_are_made_here_are_not_compared(tmp_path: Path) -> None:
    """Their parts share no item; and neither the names nor the bytes of what is made of them change."""
    house = House(copy_checkout(ROOT, tmp_path / "house"))
    before = house.planned("data")
    house.edit(lambda study: study.update({"contamination": "drop"}))
    assert house.planned("data") == before


@pytest.mark.thorough
def test_what_is_not_downloaded_yet_is_said_and_compared_later(house: House) -> None:
    """The rows do not wait for the hub; the line has the command that compares with the rest."""
    revision = "0123456789" * 4

    def from_the_hub(study: dict[str, Any]) -> None:
        study["datasets"]["hellaswag"] = {"source": "hub", "repository": "owner/set", "files": ["*.jsonl"]}

    house.python("-m", "scripts.data.lock", "--study", "smoke")
    house.edit(from_the_hub)
    with (house.root / "config/data.lock").open("a") as lock:
        lock.write(f"dataset:owner/set:\n  revision: {revision}\n")
    (rows,) = [path for path in house.planned("data") if "/rows/math-ift" in path]
    key = rows.removeprefix("results/store/").removesuffix(".json")
    house.snakemake(rows)
    log = (house.root / f"results/logs/{key}.log").read_text()
    assert "compared with 9 of 10 sets that are asked" in log
    assert "-m scripts.data.products data/overlaps/file-" in log
    assert f"warning: {key}: 1 of the training records share" in log
    assert not (house.store / "data/overlaps").exists()
