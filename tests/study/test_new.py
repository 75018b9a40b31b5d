"""A study from five answers: what is written is whole, and every answer that cannot be is one sentence."""

import csv
import json
import math
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.data.hub import Repository
from scripts.study import new
from scripts.study.load import load_study
from scripts.study.new import Answers, write
from tests.standins.hub import Hub, use
from tests.vocabularies import chat, qwen2

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}."} for n in range(80)]
TEXTS = [{"text": f"The cat sat on the mat for {n} minutes, and nobody saw it. " * 20} for n in range(200)]


def lines(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(path)


def model(directory: Path, **config: Any) -> str:
    directory.mkdir()
    (directory / "config.json").write_text(
        json.dumps({"model_type": "qwen2", "max_position_embeddings": 256, **config})
    )
    return str(directory)


@pytest.fixture
def answers(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "studies").mkdir()
    return {
        "name": "mine",
        "model": model(tmp_path / "tiny-qwen"),
        "train": lines(tmp_path / "train.jsonl", PAIRS),
        "learn": lines(tmp_path / "held-out.jsonl", PAIRS[:9]),
        "keep": lines(tmp_path / "kept.jsonl", TEXTS),
        "device": "cpu",
        "hours": 2.0,
    }


def test_instructions(answers: dict[str, Any], tmp_path: Path) -> None:
    path = write(Answers(**answers), tmp_path / "studies").path
    study = load_study("mine", tmp_path / "studies")
    (setting,) = study.settings.values()
    assert (study.scale, study.precision, setting.regime) == ("own", "fp32", "ift")
    assert (setting.learning, study.evaluation.forgetting) == ("target_loss", ["source_loss"])
    assert study.datasets["train"].columns == {"instruction": "prompt", "response": "completion"}  # type: ignore[attr-defined]
    assert study.model.label == "tiny-qwen"
    assert setting.sequence_length <= 256
    assert len(PAIRS) / setting.batch_rows >= 5, "an epoch has some steps"
    assert study.resources.jobs.training.minutes == 120
    assert not study.evaluation.tasks.present
    assert len([line for line in path.read_text().splitlines() if line.strip()]) <= 50


def test_documents_and_benchmarks(answers: dict[str, Any], tmp_path: Path) -> None:
    answers["train"] = lines(tmp_path / "texts.jsonl", TEXTS)
    write(
        Answers(**{**answers, "learn": "gsm8k", "keep": "hellaswag, winogrande", "device": "8xh100-80gb"}),
        tmp_path / "studies",
    )
    study = load_study("mine", tmp_path / "studies")
    (setting,) = study.settings.values()
    assert (setting.regime, setting.learning, study.precision) == ("cpt", "gsm8k", "bf16")
    assert study.evaluation.forgetting == ["hellaswag", "winogrande"]
    assert set(study.evaluation.tasks.present) == {"gsm8k", "hellaswag", "winogrande"}
    assert study.datasets["hellaswag"].expected_records == new.ITEMS
    assert study.datasets["gsm8k-train"].expected_records == 0, "shots come from all of them"
    assert (study.resources.devices.kind, study.resources.devices.gpus) == ("h100-80gb", 8)
    # what is trained on is not read twice, and some of it all the same
    read = max(setting.durations) / (sum(len(one["text"]) for one in TEXTS) / new.BYTES_OF_TOKEN)
    assert 0.5 < read <= 1


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"instruction": "a", "response": "b"}, {}),
        ({"instruction": "a", "input": "c", "output": "b"},
         {"columns": {"instruction": "instruction", "response": "output", "input": "input"}}),
        ({"question": "a", "answer": "b", "id": 7}, {"columns": {"instruction": "question", "response": "answer"}}),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
         {"conversation": "messages"}),
    ],
)  # fmt: skip
def test_columns_are_found(
    answers: dict[str, Any], tmp_path: Path, record: dict[str, Any], said: dict[str, Any]
) -> None:
    answers["train"] = lines(tmp_path / "own.jsonl", [record] * 20)
    write(Answers(**answers), tmp_path / "studies")
    found = load_study("mine", tmp_path / "studies").datasets["train"]
    defaults = {"columns": {}, "conversation": None}
    assert {key: getattr(found, key) for key in defaults} == {**defaults, **said}


@pytest.mark.parametrize("first", [{"input": ""}, {}])
def test_an_input_that_the_first_record_lacks_is_not_left_out(
    answers: dict[str, Any], tmp_path: Path, first: dict[str, str]
) -> None:
    """Most of Alpaca's have none."""
    pair = {"instruction": "Add.", "output": "3"}
    answers["train"] = lines(tmp_path / "own.jsonl", [{**pair, **first}] * 16 + [{**pair, "input": "1 and 2"}])
    write(Answers(**answers), tmp_path / "studies")
    columns = load_study("mine", tmp_path / "studies").datasets["train"].columns  # type: ignore[attr-defined]
    assert columns == {"instruction": "instruction", "response": "output", "input": "input"}


def test_other_formats(answers: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, PAIRS[0])
        writer.writeheader()
        writer.writerows(PAIRS)
    pandas.DataFrame(PAIRS[:9]).to_parquet(tmp_path / "held-out.parquet")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "one.txt").write_text("Nobody knows how many there are.")
    own = {"train": str(tmp_path / "train.csv"), "learn": str(tmp_path / "held-out.parquet"), "keep": str(notes)}
    write(Answers(**{**answers, **own}), tmp_path / "studies")
    study = load_study("mine", tmp_path / "studies")
    assert study.datasets["kept"].path == f"{notes}/"  # type: ignore[attr-defined]


def test_what_is_not_to_be_forgotten_has_a_text_beside_the_paper_s_tasks(
    answers: dict[str, Any], tmp_path: Path
) -> None:
    write(Answers(**{**answers, "keep": new.KEPT}), tmp_path / "studies")
    study = load_study("mine", tmp_path / "studies")
    assert study.evaluation.forgetting == ["hellaswag", "arc_challenge", "winogrande"]
    assert study.evaluation.held_out == "wikipedia"
    asked = {study.datasets[name].expected_records for name in study.asked.values() if name != "held-out"}
    assert asked == {new.ITEMS}
    own = f"winogrande, {answers['keep']}"
    write(Answers(**{**answers, "name": "own", "keep": own}), tmp_path / "studies")
    study = load_study("own", tmp_path / "studies")
    assert (study.evaluation.forgetting, study.evaluation.held_out) == (["winogrande"], "kept")
    # the loss on a text is drawn beside that on held-out records
    write(Answers(**{**answers, "name": "task", "keep": new.KEPT, "learn": "gsm8k"}), tmp_path / "studies")
    study = load_study("task", tmp_path / "studies")
    assert (len(study.evaluation.forgetting), study.evaluation.held_out) == (3, None)
    write(Answers(**{**answers, "name": "text", "keep": "wikipedia", "learn": "gsm8k"}), tmp_path / "studies")
    assert load_study("text", tmp_path / "studies").evaluation.forgetting == ["source_loss"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {"conversation": "messages"}),
        ({"columns": "text=body"}, {"columns": {"text": "body"}}),
        (
            {"columns": "instruction=query, response=output"},
            {"columns": {"instruction": "query", "response": "output"}},
        ),
        ({"learn": "held-out.jsonl"}, {"columns": {"instruction": "prompt", "response": "completion"}}),
    ],
)
def test_data_of_the_hub(
    answers: dict[str, Any], tmp_path: Path, said: dict[str, str], expected: dict[str, Any], hub: Hub
) -> None:
    """Written without asking anybody, and then looked at by what the study and the sentences name."""
    said = {key: str(tmp_path / value) if key == "learn" else value for key, value in said.items()}
    of_hub = {"train": "owner/set", "learn": "owner/set:data/test-*.jsonl", "keep": "owner/texts"}
    written = write(Answers(**{**answers, **of_hub, **said}), tmp_path / "studies")
    assert written.unread == ["owner/set", "owner/texts"]
    assert not hub.requests
    (note,) = (line for line in written.path.read_text().splitlines() if "nobody has read" in line)
    assert "owner/set, owner/texts yet: `" in note
    assert "-m scripts.data.lock --study mine`" in note
    assert note.endswith("sequence_length, batch_rows and durations are guesses")
    study = load_study("mine", tmp_path / "studies")
    train, kept = study.datasets["train"], study.datasets["kept"]
    defaults = {"columns": {}, "conversation": None, "limit": None}
    assert {key: getattr(train, key) for key in defaults} == {**defaults, **expected}
    assert (study.settings["own"].regime == "cpt") is ("text" in expected.get("columns", {}))
    assert kept.expected_records == new.ITEMS
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    record = {"messages": messages, "body": "a b", "query": "a", "output": "b", "prompt": "a", "completion": "b"}
    files = {"data/train-0.jsonl": record, "data/test-0.jsonl": record, "README.md": {}}
    hub.commit("dataset", "owner/set", {name: json.dumps({**line, "n": name}).encode() for name, line in files.items()})
    for name in ("train", "held-out"):
        if (source := study.datasets[name]).needs_network:
            context = BuildContext(name, "mine", tmp_path, {}, lambda: [], uses=study.uses(name))
            source.check(source.spec(source.lock({}), 0), context)
            assert f"data/{'train' if name == 'train' else 'test'}-0.jsonl" in hub.downloads()


def test_a_held_out_set_of_the_hub_beside_a_file(answers: dict[str, Any], tmp_path: Path) -> None:
    """Rows are as long as the file needs them, and the held-out records have its columns."""
    written = write(Answers(**{**answers, "learn": "owner/set"}), tmp_path / "studies")
    study = load_study("mine", tmp_path / "studies")
    assert study.datasets["held-out"].columns == study.datasets["train"].columns  # type: ignore[attr-defined]
    assert "guesses" not in next(line for line in written.path.read_text().splitlines() if "nobody has read" in line)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as hub:
        use(hub, monkeypatch, tmp_path / "home")
        yield hub


def chat_model(directory: Path, name: str = "qwen2.5") -> str:
    directory.mkdir(exist_ok=True)
    chat(directory, name)
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": 256}))
    return str(directory)


@pytest.mark.parametrize(
    ("said", "template"), [({}, "chat"), ({"chat": True}, "chat"), ({"chat": False}, "plain"), ({"model": ""}, "plain")]
)
def test_instructions_have_the_chat_template_that_a_model_comes_with(
    answers: dict[str, Any], tmp_path: Path, said: dict[str, Any], template: str
) -> None:
    model = answers["model"] if "model" in said else chat_model(tmp_path / "chat-model")
    written = write(Answers(**{**answers, **said, "model": model}), tmp_path / "studies")
    setting = load_study("mine", tmp_path / "studies").settings["own"]
    assert (setting.template, written.chat) == (template, template == "chat")  # type: ignore[union-attr]
    whole = new.CHAT_TOKENS + max(len(pair["prompt"] + pair["completion"]) for pair in PAIRS) / new.BYTES_OF_TOKEN
    assert template != "chat" or setting.sequence_length >= whole


def test_of_a_model_of_the_hub_the_cache_is_looked_at(answers: dict[str, Any], tmp_path: Path, hub: Hub) -> None:
    of_hub = {**answers, "model": "owner/net"}
    assert not write(Answers(**of_hub), tmp_path / "studies").chat, "nobody can know"
    assert write(Answers(**{**of_hub, "name": "told", "chat": True}), tmp_path / "studies").chat
    assert not hub.requests
    snapshot = Path(chat_model(tmp_path / "files"))
    files = {path.name: path.read_bytes() for path in snapshot.iterdir()}
    commit = hub.commit("model", "owner/net", files)
    for name in files:
        Repository("model", "owner/net").download(name, "main", None)
    assert commit in str(next(iter((tmp_path / "home").rglob("snapshots/*"))))
    hub.status = 503
    assert write(Answers(**{**of_hub, "name": "cached"}), tmp_path / "studies").chat
    assert load_study("cached", tmp_path / "studies").settings["own"].template == "chat"  # type: ignore[union-attr]


def test_documents_have_no_template(answers: dict[str, Any], tmp_path: Path) -> None:
    answers |= {"model": chat_model(tmp_path / "chat-model"), "train": lines(tmp_path / "texts.jsonl", TEXTS)}
    assert not write(Answers(**{**answers, "learn": "gsm8k", "keep": "wikipedia"}), tmp_path / "studies").chat


def model_without_template(directory: Path) -> str:
    directory.mkdir()
    qwen2(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    return str(directory)


def mistakes(tmp_path: Path) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """What somebody may say, and what the sentence has."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    (tmp_path / "nothing.jsonl").write_text("")
    (tmp_path / "data.xlsx").write_bytes(b"PK")
    broken = model(tmp_path / "broken-model")
    (Path(broken) / "config.json").write_text("{")
    other = lines(tmp_path / "copy.jsonl", PAIRS)
    folder = tmp_path / "folder"
    folder.mkdir()
    inside = lines(folder / "one.jsonl", PAIRS)
    dated = chat_model(tmp_path / "dated")
    (tmp_path / "dated/chat_template.jinja").write_text("{{ strftime_now('%Y') }}")
    hub_twice = {"train": "owner/set:data/*.jsonl", "learn": "owner/set:data/*.jsonl"}
    return {
        "a name with a slash": ({"name": "my/study"}, ["'my/study' is no name of a study", "letters"]),
        "a model that is not there": ({"model": "./nowhere"}, ["--model ./nowhere", "no directory", "OWNER/NAME"]),
        "a directory without a model": ({"model": str(empty)}, ["--model", "without a config.json"]),
        "a GGUF": ({"model": str(tmp_path / "weights.gguf")}, ["--model", "is a file", "directory"]),
        "a broken configuration": ({"model": broken}, ["broken-model/config.json", "not the configuration"]),
        "no training file": ({"train": "gone.jsonl"}, ["--train gone.jsonl", "no file and no folder"]),
        "an empty one": ({"train": str(tmp_path / "nothing.jsonl")}, ["--train", "has no records"]),
        "a spreadsheet": ({"train": str(tmp_path / "data.xlsx")}, ["data.xlsx", "allowed are .jsonl"]),
        "a broken line": ({"train": str(tmp_path / "broken.jsonl")}, ["broken.jsonl", "line 2"]),
        "three examples": ({"train": lines(tmp_path / "3.jsonl", PAIRS[:3])}, ["--train", "3 records", "16"]),
        "other columns": (
            {"train": lines(tmp_path / "odd.jsonl", [{"x": "a", "y": "b"}] * 20)},
            ["--train", "its records have x, y", "instruction / prompt", "rename"],
        ),
        "a short text": (
            {"train": lines(tmp_path / "short.jsonl", [{"text": "a"}] * 20), "learn": "gsm8k"},
            ["short.jsonl", "too few to train on"],
        ),
        "an unknown task to learn": ({"learn": "mbpp"}, ["--learn mbpp", "no file", "gsm8k"]),
        "held out is trained on": ({"learn": str(tmp_path / "train.jsonl")}, ["--learn", "is what --train names"]),
        "a copy of it": ({"learn": other}, ["--learn", "is what --train names"]),
        "documents to learn from instructions": (
            {"learn": lines(tmp_path / "text.jsonl", TEXTS)},
            ["--learn", "documents", "instructions with responses", "one kind"],
        ),
        "an unknown task to keep": ({"keep": "hellaswag,piqa"}, ["--keep hellaswag,piqa", "'piqa' is neither"]),
        "a task twice": ({"keep": "hellaswag,hellaswag"}, ["mine.yaml: evaluation.forgetting", "nothing was written"]),
        "kept is held out already": ({"keep": str(tmp_path / "held-out.jsonl")}, ["--keep", "is what --learn names"]),
        "kept on the hub is held out already": (
            {"train": "owner/set", "learn": "owner/other", "keep": "owner/other"},
            ["--keep owner/other", "is what --learn names"],
        ),
        "kept is trained on": ({"keep": str(tmp_path / "train.jsonl")}, ["--keep", "is what --train names"]),
        "no device": ({"device": "tpu"}, ["--device tpu", "`cpu` or a kind of GPU", "rtx-4090"]),
        **{
            f"nothing for {name}": ({name: ""}, [f"--{name} ", "OWNER/NAME"])
            for name in ("model", "train", "learn", "keep")
        },
        "a comma too many": ({"keep": "hellaswag,"}, ["--keep hellaswag,: '' is neither a file"]),
        "an address": (
            {"train": "https://huggingface.co/datasets/owner/set"},
            ["--train https", "no file and no folder", "OWNER/NAME"],
        ),
        "a name without its owner": ({"train": "alpaca"}, ["--train alpaca", "OWNER/NAME:FILES"]),
        "a name with too many parts": ({"train": "datasets/owner/set"}, ["--train datasets/owner/set", "OWNER/NAME"]),
        "a file of a folder that is not there": ({"train": "data/gone.jsonl"}, ["--train data/gone.jsonl", "no file"]),
        "a place on the hub without files": ({"train": "owner/set:"}, ["--train owner/set:", "OWNER/NAME:FILES"]),
        "held out of a mistyped name": ({"learn": "owner/set/test"}, ["--learn owner/set/test", "OWNER/NAME"]),
        "held out on the hub is trained on": (hub_twice, ["--learn owner/set", "is what --train names"]),
        "held out on the hub is some of it": (
            {**hub_twice, "learn": "owner/set:data/a.jsonl"},
            ["--learn owner/set:data/a.jsonl", "is what --train names"],
        ),
        "kept on the hub is trained on": (
            {"train": "owner/set:data/*.jsonl", "keep": "hellaswag,owner/set:data/*.jsonl"},
            ["--keep owner/set:data/*.jsonl", "is what --train names"],
        ),
        "held out lies in the folder": ({"train": str(folder), "learn": inside}, ["--learn", "is what --train names"]),
        "the folder of it": ({"train": inside, "keep": str(folder)}, ["--keep", "is what --train names"]),
        "documents of the hub": (
            {"train": "owner/set", "columns": "text=text", "keep": "owner/set", "learn": str(tmp_path / "train.jsonl")},
            ["--learn", "has no column 'text'; it has prompt, completion"],
        ),
        "a column that is not there": (
            {"columns": "instruction=query,response=completion"},
            ["--train", "has no column 'query'; it has prompt, completion"],
        ),
        "half of the columns": ({"columns": "instruction=prompt"}, ["--columns instruction=prompt", "text=COLUMN"]),
        "no columns": (
            {"columns": "prompt"},
            ["--columns prompt", "conversation=COLUMN; instruction=COLUMN,response="],
        ),
        "a column for nothing": ({"columns": "text="}, ["--columns text="]),
        "a field twice": ({"columns": "text=a,text=b"}, ["--columns text=a,text=b"]),
        "two texts": ({"keep": f"wikipedia,{tmp_path / 'kept.jsonl'}"}, ["--keep", "wikipedia and", "one is the most"]),
        "a text beside tasks and no loss": (
            {"keep": "hellaswag,wikipedia", "learn": "gsm8k"},
            ["--keep hellaswag,wikipedia", "--learn gsm8k has none"],
        ),
        "a chat without a tokenizer": ({"chat": True}, ["--chat: ", "has no tokenizer.json"]),
        "a chat without a template": (
            {"chat": True, "model": model_without_template(tmp_path / "without")},
            ["--chat: ", "no chat template"],
        ),
        "a template with the day's date": ({"chat": True, "model": dated}, ["--chat: ", "the day's date"]),
        "a chat of documents": (
            {"chat": True, "train": lines(tmp_path / "documents.jsonl", TEXTS), "learn": "gsm8k"},
            ["--chat: ", "documents"],
        ),
        "no GPUs": ({"device": "0"}, ["--device 0"]),
        "all the time there is": ({"hours": math.inf}, ["--hours inf", "more than 0, and a number"]),
        "no time": ({"hours": 0.0}, ["--hours 0", "more than 0"]),
    }


def test_a_mistake_is_one_sentence(answers: dict[str, Any], tmp_path: Path) -> None:
    for name, (said, expected) in mistakes(tmp_path).items():
        with pytest.raises(UserError) as raised:
            write(Answers(**{**answers, **said}), tmp_path / "studies")
        sentence = str(raised.value)
        assert "\n" not in sentence, name
        for part in expected:
            assert part in sentence, (name, sentence)
        assert not [*(tmp_path / "studies").iterdir()], name


def test_a_study_is_not_written_over(answers: dict[str, Any], tmp_path: Path) -> None:
    write(Answers(**answers), tmp_path / "studies")
    with pytest.raises(UserError, match=r"mine\.yaml: is there already"):
        write(Answers(**answers), tmp_path / "studies")


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "scripts.study.new", *options]


def test_what_nobody_can_be_asked_is_said(answers: dict[str, Any]) -> None:
    options = ["mine", "--model", answers["model"], "--train", answers["train"]]
    done = subprocess.run(command(*options), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: --learn, --device with --hours must be said")
    assert "-m scripts.study.new mine --model my-model" in sentence


def test_a_terminal_is_asked(answers: dict[str, Any], tmp_path: Path) -> None:
    """A name that is taken ends it, so that nothing is written into this repository."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command("demo"), cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(
        ours, f"{chat_model(tmp_path / 'chat-model')}\n{answers['train']}\n{answers['learn']}\n\ngpu 12\n".encode()
    )
    said = b""
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:  # as Linux says that the other end is closed
            break
    assert process.wait() == 1
    assert len(new.QUESTIONS) == 5
    for question in new.QUESTIONS:
        assert question.asks.encode() in said
    assert b"has a chat template: instructions will have it, unless you say --no-chat" in said
    assert b"demo.yaml: is there already" in said
