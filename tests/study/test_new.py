"""A study from five answers: what is written is whole, and every answer that cannot be is one sentence."""

import csv
import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest

from scripts.common.errors import UserError
from scripts.study import new
from scripts.study.load import load_study
from scripts.study.new import Answers, write

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
    path = write(Answers(**answers), tmp_path / "studies")
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
        "kept is trained on": ({"keep": str(tmp_path / "train.jsonl")}, ["--keep", "is what --train names"]),
        "no device": ({"device": "tpu"}, ["--device tpu", "`cpu` or a kind of GPU", "rtx-4090"]),
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
    """Four of the five; a name that is taken ends it, so that nothing is written into this repository."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("demo", "--model", answers["model"]), cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, f"{answers['train']}\n{answers['learn']}\n\ngpu 12\n".encode())
    said = b""
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:  # as Linux says that the other end is closed
            break
    assert process.wait() == 1
    for question in new.QUESTIONS[1:]:
        assert question.asks.encode() in said
    assert b"demo.yaml: is there already" in said
