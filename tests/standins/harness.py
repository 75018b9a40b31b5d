"""Stands in for asking models: an answer is a hash of the weights, the task with its settings, and its records."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from scripts.store.fingerprint import file_sha256


class Harness:
    def __init__(self, tasks: dict[str, Any], records: dict[str, Path], base: Path, *, seed: int, **_: Any) -> None:
        self.tasks, self.records, self.base, self.seed = tasks, records, base, seed

    def score(self, run: Path | None, method_kind: str | None, labels: list[str], **_: Any) -> dict[str, Any]:
        results = {}
        for label in labels:
            name, value, items = self._asked(run, label)
            samples = [{"item": item, name: float(item < value * items)} for item in range(items)]
            results[label] = {"metric": name, "value": value, "stderr": 0.01, "items": items, "samples": samples}
        return results

    def write(
        self, run: Path | None, method_kind: str | None, label: str, **_: Any
    ) -> tuple[list[Any], dict[str, Any]]:
        _, value, items = self._asked(run, label)
        return [{"item": item, "prompts": [""], "completions": [repr(value)]} for item in range(items)], {}

    def _asked(self, run: Path | None, label: str) -> tuple[str, float, int]:
        weights = {path.name: file_sha256(path) for path in sorted(run.glob("[!.]*"))} if run else "base"
        settings, records = self.tasks[label], self.records[label]
        text = json.dumps([weights, settings, file_sha256(records), self.seed], sort_keys=True)
        name, items = settings["task"], len(records.read_text().splitlines())
        with open(os.environ["STANDIN_LOG"], "a") as log:
            log.write(f"evaluated {run.name if run else 'base'} {name} {items}\n")
        return name, int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8, items
