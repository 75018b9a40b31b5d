"""Files of the hub: the commit that is locked, one copy, and one sentence for everything that can go wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from scripts.common.environment import LAUNCH
from scripts.common.errors import UserError
from scripts.components.forms import Instruction, Use
from scripts.components.making import BuildContext
from scripts.components.models.hub import HubModel
from scripts.components.sources import hub as of_hub
from scripts.components.sources.hub import HubDataset
from scripts.data import products
from scripts.data.hub import Repository
from tests.standins.hub import Hub, use
from tests.vocabularies import small_files

LARGE = bytes(range(256)) * 8
NAME = "owner/set"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as hub:
        use(hub, monkeypatch, tmp_path / "home")
        yield hub


def cached_blobs() -> list[Path]:
    return [path for path in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if path.is_file()]


def test_the_locked_commit_is_what_comes_whatever_main_is_now(hub: Hub) -> None:
    first = hub.commit("dataset", NAME, {"a.jsonl": b"old", "b.bin": LARGE})
    repository = Repository("dataset", NAME)
    assert repository.commit() == first
    second = hub.commit("dataset", NAME, {"a.jsonl": b"new"})
    assert repository.commit() == second
    assert repository.branches() == {"main": second}
    assert set(repository.files(first)) == {"a.jsonl", "b.bin"}
    assert repository.download("a.jsonl", first, None).read_bytes() == b"old"
    assert repository.download("a.jsonl", second, None).read_bytes() == b"new"


def test_a_file_that_is_not_what_the_hub_says_is_refused(hub: Hub) -> None:
    commit = hub.commit("dataset", NAME, {"b.bin": LARGE})
    repository = Repository("dataset", NAME)
    sums = repository.files(commit)
    assert repository.download("b.bin", commit, sums["b.bin"]).read_bytes() == LARGE
    (blob,) = cached_blobs()
    blob.write_bytes(LARGE[:-1] + b"?")
    with pytest.raises(UserError, match="not the file that the hub describes"):
        repository.download("b.bin", commit, sums["b.bin"])


def test_what_is_in_the_cache_needs_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import snapshot_download

    commit = hub.commit("dataset", NAME, {"a.jsonl": b"text", "b.bin": LARGE})
    snapshot_download(NAME, repo_type="dataset", revision=commit)  # what `hf download` does
    hub.status = 503
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = Repository("dataset", NAME)
    assert set(repository.files(commit)) == {"a.jsonl", "b.bin"}
    assert repository.download("a.jsonl", commit, None).read_bytes() == b"text"


@pytest.mark.parametrize("network", ["forbidden", "gone"])
def test_a_cache_that_was_filled_by_hand_needs_no_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    """Files of a commit and where main points to, as an older client or a copy leaves them: locked and taken."""
    config = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "max_position_embeddings": 64, "vocab_size": 400}
    files = {**small_files(), "config.json": json.dumps(config).encode(), "model.safetensors": LARGE}
    commit = "01234567" * 5
    cache = Path(constants.HF_HUB_CACHE) / "models--owner--set"
    (cache / "refs").mkdir(parents=True)
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, data in files.items():
        (snapshot / name).write_bytes(data)
    if network == "forbidden":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    model = HubModel.model_validate({"label": "net", "source": "hub", "repository": NAME})
    with pytest.raises(UserError) as refused:  # nothing says which commit is meant
        model.lock({})
    assert f"its commit is not in the cache {cache} and " in str(refused.value)
    assert f"call `hf download {NAME}` where it can be had and copy models--owner--set" in str(refused.value)

    (cache / "refs" / "main").write_text(commit)
    entry = model.lock({})
    model.require_trainable(entry, {})
    assert entry["revision"] == commit
    assert Repository("model", NAME).branches() == {"main": commit}
    out = tmp_path / "out"
    out.mkdir()
    context = BuildContext("models/hub/set-0123456789ab", "mine", tmp_path / "scratch", {}, lambda: [])
    HubModel.build(model.spec(entry), context, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    assert not hub.requests


def test_of_a_dataset_a_part_is_not_taken_for_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.commit("dataset", NAME, {"a.jsonl": b"text", "b.jsonl": b"more"})
    Repository("dataset", NAME).download("a.jsonl", commit, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the list of its files at the commit") as refused:
        Repository("dataset", NAME).files(commit)
    assert f"call `hf download --repo-type dataset {NAME} --revision {commit}`" in str(refused.value)


PAIR = b'{"query": "1+1?", "answer": "2"}\n'


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ""),
        ({"columns": {"instruction": "query", "response": "output"}}, "has no column 'output'; it has query, answer"),
        ({"columns": {}}, "data/train-0.jsonl, line 1: is no instruction with its response (it has no instruction; "),
        ({"conversation": "messages", "columns": {}}, "has no column 'messages'"),
        ({"files": ["*test*"]}, "no file matches '*test*'; it has README.md, data/train-0.jsonl, data/train-1.jsonl"),
        ({"files": ["*train*", "train.py"]}, "train.py is no table, and `files` chooses it; allowed are .jsonl"),
        ({"columns": {"instruction": "query", "response": "output"}, "keep": {"query": "x"}}, ""),
        ({"columns": {"instruction": "query", "response": "output"}, "gated": True}, ""),
        ({"files": ["data/train-1.jsonl"]}, ""),  # what stands behind the first 1000 is not looked at
    ],
)
def test_files_and_first_records_are_looked_at_when_it_is_locked(hub: Hub, more: dict[str, Any], said: str) -> None:
    """Where the job would stop; of what needs a licence the list of files alone, of what is chosen by value neither."""
    files = {
        "README.md": b"#",
        "data/train-0.jsonl": PAIR * 3,
        "data/train-1.jsonl": PAIR * 1000 + b"{",
        "train.py": b"1",
    }
    hub.commit("dataset", NAME, files)
    said_of_all = {"columns": {"instruction": "query", "response": "answer"}, "files": ["data/train*"], **more}
    dataset = HubDataset.model_validate({"source": "hub", "repository": NAME, **said_of_all})
    entry = dataset.lock({})
    uses = [Use("settings.own.dataset", (Instruction,))]
    context = BuildContext("datasets.train", "mine", Path("scratch"), {}, lambda: [], uses=uses)
    if said:
        with pytest.raises(UserError) as refused:
            dataset.check(dataset.spec(entry, 0), context)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    else:
        dataset.check(dataset.spec(entry, 0), context)
    assert set(hub.downloads()) <= {"data/train-0.jsonl", "data/train-1.jsonl"}


def test_a_large_file_is_not_downloaded_to_look_at_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.commit("dataset", NAME, {"a.jsonl": PAIR})
    monkeypatch.setattr(of_hub, "LOOKED_AT", len(PAIR) - 1)
    dataset = HubDataset.model_validate({"source": "hub", "repository": NAME, "files": ["*"]})
    context = BuildContext("datasets.train", "mine", Path("scratch"), {}, lambda: [])
    dataset.check(dataset.spec({"revision": commit}, 0), context)
    assert not hub.downloads()
    assert (said := capsys.readouterr().err).startswith(f"dataset {NAME}: reads a.jsonl\n")
    assert "a.jsonl is large, so its columns are seen when it is downloaded" in said
    Repository("dataset", NAME).download("a.jsonl", commit, None)
    assert Repository("dataset", NAME).size("a.jsonl", commit) == 0


def gated(hub: Hub) -> None:
    hub.repos["dataset", NAME].gated = True


def gated_for_this_account(hub: Hub) -> None:
    gated(hub)
    hub.tokens["mine"] = set()
    os.environ["HF_TOKEN"] = "mine"


def wrong_token(hub: Hub) -> None:
    os.environ["HF_TOKEN"] = "expired"


def private(hub: Hub) -> None:
    hub.repos["dataset", NAME].private = True


def nowhere(hub: Hub) -> None:
    hub.tokens["mine"] = set()
    os.environ["HF_TOKEN"] = "mine"
    del hub.repos["dataset", NAME]


def forbidden(hub: Hub) -> None:
    hub.status = 403


def out_of_order(hub: Hub) -> None:
    hub.status = 501


def commit_gone(hub: Hub) -> None:
    hub.repos["dataset", NAME].commits.clear()


def offline(hub: Hub) -> None:
    constants.HF_HUB_OFFLINE = True


PAGE = "/datasets/owner/set"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (gated, ["accept it at", PAGE, "HF_TOKEN", "HF_HOME", "source: path"]),
        (gated_for_this_account, ["has not accepted its licence", PAGE, "HF_TOKEN"]),
        (wrong_token, ["does not accept the token in HF_TOKEN"]),
        (private, ["does not show it to everybody", "HF_TOKEN"]),
        (nowhere, ["no such repository", "study"]),
        (forbidden, ["may not read it", PAGE]),
        (out_of_order, ["501"]),
        (commit_gone, ["no commit", "python -m scripts.data.lock"]),
        (offline, ["HF_HUB_OFFLINE", "HF_HOME", "source: path"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_failure_has_its_own_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, change: Any, said: list[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")  # put back afterwards, whatever `change` does
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    commit = hub.commit("dataset", NAME, {"a.jsonl": b"text"})
    change(hub)
    repository = Repository("dataset", NAME)
    with pytest.raises(UserError) as caught:
        repository.download("a.jsonl", commit, repository.files(commit).get("a.jsonl"))
    sentence = str(caught.value)
    assert sentence.startswith("dataset owner/set: ")
    assert "\n" not in sentence
    assert not [part for part in said if part not in sentence], sentence


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.commit("model", NAME, {"a.json": b"{}"})
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(UserError) as caught:
        Repository("model", NAME).files(commit)
    sentence = str(caught.value)
    assert "cannot be reached" in sentence
    assert f"`hf download {NAME} --revision {commit}`" in sentence
    assert "source: path" in sentence


def test_a_server_that_is_no_hub(hub: Hub) -> None:
    commit = hub.commit("model", NAME, {})
    hub.answer = b"<html>log in first</html>"
    with pytest.raises(UserError, match="HF_ENDPOINT"):
        Repository("model", NAME).files(commit)


def test_taking_keeps_one_copy(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit("model", NAME, {"a.json": b"{}", "weights.safetensors": LARGE})
    repository = Repository("model", NAME)
    files = repository.files(commit)
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    repository.take(files, commit, out, scratch)
    assert (out / "weights.safetensors").read_bytes() == LARGE
    assert not (out / "weights.safetensors").is_symlink()
    assert not cached_blobs()
    assert any((out / "weights.safetensors").samefile(path) for path in scratch.rglob("blobs/*"))  # two names, one file


def test_what_the_cache_has_is_linked_and_stays_there(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit("model", NAME, {"weights.safetensors": LARGE})
    repository = Repository("model", NAME)
    files = repository.files(commit)
    repository.download("weights.safetensors", commit, None)
    sent = len(hub.downloads())
    out = tmp_path / "out"
    out.mkdir()
    repository.take(files, commit, out, tmp_path / "scratch")
    assert len(hub.downloads()) == sent
    (blob,) = cached_blobs()
    assert blob.samefile(out / "weights.safetensors")


def test_an_interrupted_job_does_not_download_again(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit("model", NAME, {"a.bin": LARGE, "b.bin": LARGE[::-1]})
    repository = Repository("model", NAME)
    files = repository.files(commit)
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    with pytest.raises(UserError):
        repository.take({**files, "c.bin": None}, commit, out, scratch)
    assert not list(out.iterdir())
    repository.take(files, commit, out, scratch)
    assert sorted(hub.downloads()) == ["a.bin", "b.bin"]


def test_a_launch_keeps_jobs_offline_and_downloads_lift_it(hub: Hub) -> None:
    commit = hub.commit("dataset", NAME, {"a.jsonl": b"text"})
    program = f"from scripts.data.hub import Repository; print(Repository('dataset', '{NAME}').commit())"

    def ask(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    assert ask(**{LAUNCH: "{}"}).stdout.strip() == commit
    assert "HF_HUB_OFFLINE" in ask().stderr  # set by a person, it counts


def test_a_tokenizer_is_taken_without_the_model(hub: Hub, tmp_path: Path) -> None:
    files = {**small_files(), "config.json": b"{}", "model.safetensors": LARGE, "README.md": b""}
    commit = hub.commit("model", NAME, files)
    context = BuildContext("data/tokenizers/set-0123456789ab", "paper", tmp_path / "scratch", {}, lambda: [])
    spec = {"kind": "tokenizer", "source": "hub", "repository": NAME, "revision": commit}
    out = tmp_path / "out"
    out.mkdir()
    build = products.builder(spec)
    build(spec, context, out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert "model.safetensors" not in hub.downloads()
    with pytest.raises(UserError, match=r"python -m scripts\.data\.lock --study paper"):
        build({**spec, "revision": None}, context, out)
