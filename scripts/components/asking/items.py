"""How the items of a benchmark are read."""

import json
from collections.abc import Mapping
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

    return {"test": Dataset.from_list(read(test)), "train": read(train) if train else []}


def texts(item: Item, field: str) -> list[str]:
    """The list of texts in a field; empty where the field holds anything else, or the list anything but texts."""
    value = item.get(field)
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else []
