"""How the items of a benchmark are read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Item = Mapping[str, Any]
"""One record of a benchmark, in the format of the real set, or of a dataset to train on."""


def read(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    with Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_items(test: str, train: str | None = None, **_rest: Any) -> dict[str, Any]:
    """The splits of a task: `test` to be scored, `train` to draw shots from (both JSON lines).

    They stay in memory: `datasets` would put a copy of every file into its cache in the home directory.
    lm-eval hands over the number of shots and the metadata of the task file as well; nothing here depends on them.
    """
    from datasets import Dataset

    # a column may hold numbers and texts: a label is one or the other
    return {"test": Dataset.from_list(read(test), on_mixed_types="use_json"), "train": read(train) if train else []}


def right_one(name: str, label: int | str, of: str, choices: Sequence[str]) -> None:
    """Raises ValueError where a label is not the number of a choice, from 0, or there are fewer than two choices.

    Args:
        name: of the field with the label, a number or a text of one.
        of: the name of the field with the choices.
    """
    if len(choices) < 2:
        raise ValueError(f"{of} must be at least two, and are {len(choices)}")
    if label == "":
        raise ValueError(f"{name} is empty, as where a split's answers are not published")
    if not str(label).isdecimal() or int(label) >= len(choices):
        raise ValueError(f"{name} must be the number of the right one of {len(choices)}, from 0, and is {label!r}")
