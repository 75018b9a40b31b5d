"""``config/data.lock``: what is outside, by what it is; a command writes it, and its reader takes nothing else."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.common.errors import UserError
from scripts.study import datalock
from tests.conftest import House, copy_checkout
from tests.standins.hub import Hub, use, wheel
from tests.vocabularies import small_files

ROOT = Path(__file__).resolve().parents[2]
SHA, COMMIT = "0123456789abcdef" * 4, "01234567" * 5
BRANCHES = {"0.25B-tokens": "a", "500M": "b", "1B": "c", "1B-again": "d", "main": "e"}
DESCRIPTION = b'{"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e"], "label": "0"}\n'
ITEM = b'{"question": "1+1?", "answer": "#### 2"}\n'
REPOSITORY = "authors/starcoder-lora-rank-2-2B-tokens"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with Hub() as hub:
        use(hub, monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A study with one source of every kind."""
    house = House(copy_checkout(ROOT, tmp_path / "house"))
    (house.root / "mine.jsonl").write_text('{"text": "a"}\n')

    def from_outside(study: dict[str, Any]) -> None:
        study["datasets"]["code-documents"] = {"source": "path", "path": "mine.jsonl"}
        study["datasets"]["hellaswag"] = {"source": "hub", "repository": "owner/set", "files": ["*.jsonl"]}
        study["datasets"]["gsm8k"] = {
            "source": "package",
            "package": "some-data",
            "version": "1.0",
            "member": "some_data/test.jsonl",
        }
        cpt = study["settings"]["code-cpt"]
        cpt["published"] = {"lora-r2": REPOSITORY}
        cpt["durations"] = ["0.25B", "0.5B", "1B", "2B"]

    house.edit(from_outside)
    return house


def test_nothing_is_left_of_a_command_that_was_killed(
    hub: Hub, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a download, pip with it."""
    hub.commit("dataset", "owner/set", {"a.jsonl": b"{}"})
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    command = [sys.executable, "-m", "scripts.data.lock", "--study", "smoke"]
    with socket.create_server(("127.0.0.1", 0)) as mute:  # an index that accepts and says nothing
        where = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": f"http://127.0.0.1:{mute.getsockname()[1]}/simple"}
        started = subprocess.Popen(
            command, cwd=house.root, env=house.environment() | where, start_new_session=True, stderr=subprocess.DEVNULL
        )
        mute.settimeout(60)
        mute.accept()
        os.killpg(started.pid, signal.SIGKILL)
        assert started.wait() == -signal.SIGKILL
    left = list(temporary.iterdir())
    assert len(left) == 1
    said = subprocess.run(command, cwd=house.root, env=house.environment(), capture_output=True, text=True, check=False)
    assert "package some-data==1.0: pip cannot download its wheel" in said.stderr
    assert list(temporary.iterdir()) == []


def test_every_kind_of_source_is_locked(hub: Hub, house: House, tmp_path: Path) -> None:
    data = hub.commit("dataset", "owner/set", {"a.jsonl": DESCRIPTION})
    commits = {
        branch: hub.commit("model", REPOSITORY, {"x": seed.encode()}, branch) for branch, seed in BRANCHES.items()
    }
    package = wheel(tmp_path / "index", "some-data", "1.0", {"some_data/test.jsonl": ITEM})
    path = house.root / "config/data.lock"
    path.write_text(yaml.safe_dump({"dataset:of/another-study": {"revision": COMMIT}}))

    # 1B has two branches: it stays open and is said, the rest is written
    said = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=False)
    assert "is named after 1B; it has the branches 0.25B-tokens, 1B, 1B-again, 500M, main" in said
    assert said.splitlines()[-1].startswith("error: config/data.lock: 1 of 4 outside sources")
    locked = {branch: commits[branch] for branch in ("0.25B-tokens", "500M", "main")}
    expected: dict[str, Any] = {
        "dataset:of/another-study": {"revision": COMMIT},
        "dataset:owner/set": {"revision": data},
        f"model:{REPOSITORY}": {"revision": commits["main"], "branches": locked},
        "package:some-data==1.0": {
            "file": "some_data-1.0-py3-none-any.whl",
            "sha256": hashlib.sha256(package.read_bytes()).hexdigest(),
        },
        "path:mine.jsonl": {"sha256": hashlib.sha256(b'{"text": "a"}\n').hexdigest()},
    }
    assert datalock.read(path) == expected
    assert path.read_text().startswith("# ")

    # a person may choose one of the two; what moved meanwhile is followed
    locked["1B-again"] = "0" * 40
    path.write_text(yaml.safe_dump(expected))
    locked["1B-again"] = commits["1B-again"]
    expected["dataset:owner/set"]["revision"] = hub.commit("dataset", "owner/set", {"a.jsonl": DESCRIPTION * 2})
    said = house.python("-m", "scripts.data.lock", "--study", "smoke")
    assert "dataset:owner/set: changed" in said
    assert "path:mine.jsonl: as it was" in said
    assert datalock.read(path) == expected


def test_what_cannot_be_reached_is_left_as_it_was(hub: Hub, house: House) -> None:
    path = house.root / "config/data.lock"
    before = {"dataset:owner/set": {"revision": COMMIT}, "path:mine.jsonl": {"sha256": SHA}}
    path.write_text(yaml.safe_dump(before))
    hub.status = 503
    said = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=False)
    lines = said.splitlines()
    assert len([line for line in lines if line.startswith("not locked: ")]) == 3
    assert any(line.startswith("not locked: datasets.hellaswag: dataset owner/set: ") for line in lines)
    assert any(line.startswith("not locked: datasets.gsm8k: package some-data==1.0: ") for line in lines)
    assert "Traceback" not in said
    after = datalock.read(path)
    assert after == {**before, "path:mine.jsonl": {"sha256": hashlib.sha256(b'{"text": "a"}\n').hexdigest()}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer_config.json": b"{}"}, "does not say which token ends a text"),
        ({"tokenizer_config.json": b'{"eos_token": "<end>"}'}, "names the eos token '<end>', which is not among"),
        ({"tokenizer.json": b"{}"}, "its tokenizer.json cannot be read"),
        ({"tokenizer.json": None}, "has no tokenizer.json"),
        ({}, "its tokenizer has 5 tokens, but the model of the study"),
        ({"tokenizer_config.json": b"{}", "generation_config.json": b'{"eos_token_id": 1}'}, ""),
    ],
)
def test_a_tokenizer_that_cannot_be_trained_with_is_not_locked(
    hub: Hub, tmp_path: Path, change: dict[str, bytes | None], said: str
) -> None:
    """Of the base model and of a setting alike, and before anything of a model is downloaded."""
    llama: dict[str, Any] = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    llama |= {"num_attention_heads": 2, "max_position_embeddings": 512, "vocab_size": 5 if change else 4}
    files = {"config.json": json.dumps(llama).encode(), "model.safetensors": b"w" * 1000, **small_files(), **change}
    for name in ("owner/net", "owner/chat"):
        hub.commit("model", name, {name: data for name, data in files.items() if data is not None})
    shape = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "context": 512}

    house = House(copy_checkout(ROOT, tmp_path / "house"))

    def of_the_hub(study: dict[str, Any]) -> None:
        architecture = {**shape, "vocabulary": 5 if change else 4}
        study["model"] = {"label": "N", "source": "hub", "repository": "owner/net", "architecture": architecture}
        study["settings"]["math-ift"]["tokenizer"] = "owner/chat"

    house.edit(of_the_hub)
    told = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=not said)
    refused = [line for line in told.splitlines() if line.startswith("not locked: ")]
    if said:
        assert [line.split(": ")[1:3] for line in refused] == [
            ["model", "model owner/net"],
            ["settings.math-ift.tokenizer", "model owner/chat"],
        ]
        assert all(said in line for line in refused)
    assert "model.safetensors" not in hub.downloads()
    assert ("model:owner/net" in datalock.read(house.root / "config/data.lock")) != bool(said)


@pytest.mark.parametrize("whole", [False, True])
def test_examples_of_ones_own_are_measured_against_a_row(hub: Hub, tmp_path: Path, whole: bool) -> None:
    """A row of smoke has 96 tokens; the tokenizer knows the letters a and b, and nothing else is a token."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "context": 512, "vocabulary": 5}
    llama = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    llama |= {"num_attention_heads": 2, "max_position_embeddings": 512, "vocab_size": 5}
    hub.commit(
        "model", "owner/net", {"config.json": json.dumps(llama).encode(), "model.safetensors": b"w", **small_files()}
    )
    sizes = [(120, 1)] if whole else [(3, 3), (3, 200), (120, 1), (47, 48)]
    lines = [json.dumps({"instruction": "b" * prompt, "response": "a" * response}) for prompt, response in sizes]
    house = House(copy_checkout(ROOT, tmp_path / "house"))
    (house.root / "own.jsonl").write_text("\n".join(lines) + "\n")

    def own(study: dict[str, Any]) -> None:
        study["model"] = {"label": "N", "source": "hub", "repository": "owner/net", "architecture": shape}
        study["datasets"]["math-instructions"] = {"source": "path", "path": "own.jsonl"}

    house.edit(own)
    told = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=not whole)
    row = "a row of 96 tokens (sequence_length)"
    assert ("path:own.jsonl" in datalock.read(house.root / "config/data.lock")) != whole
    if whole:
        assert "not locked: settings.math-ift.dataset: the prompt alone of every example is longer than " + row in told
    else:
        sentence = (
            f"settings.math-ift.dataset: 2 of 4 examples are longer than {row}, and the end of each is cut off; of 1 "
            f"that is the whole response; the first, own.jsonl, line 2, has 204"
        )
        assert sentence in told


@pytest.mark.parametrize("own", [False, True])
def test_a_chat_template_is_tried_when_its_tokenizer_is_locked(hub: Hub, tmp_path: Path, own: bool) -> None:
    """Of the base model, or of the setting's tokenizer: without one that can be used neither stands in the lock."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "context": 512, "vocabulary": 5}
    llama = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    llama |= {"num_attention_heads": 2, "max_position_embeddings": 512, "vocab_size": 5}
    files = {"config.json": json.dumps(llama).encode(), "model.safetensors": b"w", **small_files()}
    name = "owner/chat" if own else "owner/net"
    for repository in ("owner/net", "owner/chat"):
        hub.commit("model", repository, files)
    house = House(copy_checkout(ROOT, tmp_path / "house"))
    (house.root / "own.jsonl").write_text(json.dumps({"instruction": "b" * 90, "response": "a" * 9}) + "\n")

    def chats(study: dict[str, Any]) -> None:
        study["model"] = {"label": "N", "source": "hub", "repository": "owner/net", "architecture": shape}
        study["datasets"]["math-instructions"] = {"source": "path", "path": "own.jsonl"}
        study["settings"]["math-ift"] |= {"template": "chat", **({"tokenizer": name} if own else {})}

    house.edit(chats)
    locking = ("-m", "scripts.data.lock", "--study", "smoke")
    told = house.python(*locking, ok=False)
    assert f"not locked: settings.math-ift.template: model {name}: its tokenizer has no chat template" in told
    assert f"model:{name}" not in datalock.read(house.root / "config/data.lock")
    template = b"{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    hub.commit("model", name, {**files, "chat_template.jinja": template})
    told = house.python(*locking)
    # with the three tokens that the template writes around them, and without any other
    assert "1 of 1 examples are longer than a row of 96 tokens" in told
    assert told.count("line 1, has 101") == 1
    assert f"model:{name}" in datalock.read(house.root / "config/data.lock")


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"path:/data/mine.jsonl": {"sha256": SHA}},
        {"package:some-data==1.0": {"file": "some_data-1.0-py3-none-any.whl", "sha256": SHA}},
        {"dataset:owner/set": {"revision": COMMIT}, "model:owner/net": {"revision": COMMIT}},
        {"model:owner/net": {"revision": COMMIT, "branches": {"0.25B": COMMIT, "main": COMMIT}}},
    ],
)
def test_a_well_formed_lock_is_read(tmp_path: Path, entries: dict[str, Any]) -> None:
    path = tmp_path / "data.lock"
    path.write_text(yaml.safe_dump(entries) if entries else "# nothing\n")
    assert datalock.read(path) == entries


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "must map identities"),
        (f"mine: {{path: mine.jsonl, sha256: {SHA}}}", "'mine' is no identity"),  # as it was written once
        (f"'path:': {{sha256: {SHA}}}", "is no identity"),
        (f"package:some-data: {{file: a.whl, sha256: {SHA}}}", "package:NAME==VERSION"),
        ("path:a: {sha256: abc}", "path:a must be {sha256: 64 hex digits}"),
        ("dataset:a/b: {revision: main}", "40 hex digits"),
        (f"dataset:a/b: {{revision: {COMMIT}, branches: {{}}}}", "dataset:a/b must be"),
        (f"model:a/b: {{revision: {COMMIT}, branches: {{1B: main}}}}", "branches"),
        ("model:a/b:", "model:a/b must be"),
        (f"path:a: {{sha256: {SHA}}}\npath:a: {{sha256: {SHA}}}", "stands twice"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "data.lock"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        datalock.read(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
