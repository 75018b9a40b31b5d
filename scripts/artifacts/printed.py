"""Writes an artifact's CSV from the numbers that the paper prints, with no model at all: the picture to compare with.

python -m scripts.artifacts.printed fig1 --csv results/published/figures/fig1.csv

The paper ran each condition once and prints no uncertainty, so every `stderr` is empty: a binomial error over the test
items would be ours, not the paper's. It names no seed either. An adapter whose rank it does not say is left out, for no
line of a figure is its. Tables S14 to S16 show no scores and have the columns of `memory_table`.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.artifacts import memory_table, recipes
from scripts.artifacts.points import COLUMNS
from scripts.artifacts.provenance import write_record
from scripts.artifacts.published import MEMORY, PUBLISHED, SCORES, PublishedValue, load_published, values_of
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.components.measures import FORGETTING
from scripts.components.tasks import AVERAGE, TASKS
from scripts.plan.evaluation import BASE
from scripts.plan.registry import REGISTRY, find_artifact, load_registry
from scripts.store.fingerprint import fingerprint

STUDY = {"study": "published", "study_title": "The paper's printed numbers", "scale": "paper", "source": "printed"}
FORGETTING_ITEMS = {name: TASKS[name].items or 0 for name in AVERAGE}
ITEMS = {
    **{name: items for name in SCORES if name != FORGETTING and (items := TASKS[name].items)},
    FORGETTING: sum(FORGETTING_ITEMS.values()),
}
"""Items behind a printed score, as far as the paper says."""
MODULES = {"all": "all", "all-but-gate": "all without gate"}
"""Adapted modules, as in the published values and as in the CSV of an artifact."""


@dataclass(frozen=True)
class Setting:
    """What the paper calls a setting's panel, its domain, what counts as learning, the tokens of one epoch (table 1).

    `epoch_tokens` is 0 where epochs do not count, and where the paper does not say.
    """

    label: str
    domain: str
    learning: str
    epoch_tokens: int = 0


SETTINGS = {
    "code-cpt": Setting("StarCoder-Python", "code", "humaneval"),
    "code-ift": Setting("Magicoder", "code", "humaneval", 72_970_000),
    "math-cpt": Setting("OpenWebMath", "math", "gsm8k"),
    "math-ift": Setting("MetaMathQA", "math", "gsm8k", 103_000_000),
    "chat-ift": Setting("Tulu-v2-mix", "chat", "gsm8k"),
}


def main(name: str, path: Path, published: Path = PUBLISHED) -> None:
    """Writes the CSV of the artifact called `name`, and beside it the record of how it was made.

    Raises:
        UserError: there is no such artifact, the paper prints no numbers of it, or `published` is malformed.
    """
    artifact = find_artifact(name)
    values = load_published(published)
    rows = printed_rows(name, values)
    if not rows:
        known = ", ".join(other for other in load_registry(REGISTRY) if printed_rows(other, values))
        raise UserError(f"{name}: the paper prints no numbers that it could be made from; it does for {known}")
    with atomic_path(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        columns = tuple(rows[0]) if artifact.kind == "memory_table" else COLUMNS
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_record(recipes.of_printed(artifact), path)


def printed_rows(name: str, values: list[PublishedValue]) -> list[dict[str, Any]]:
    """The rows of an artifact's CSV, the base model's first; none where the paper prints no numbers of it."""
    shown = values_of(name, values)
    if memory := [_memory_row(value) for value in shown if value.metric == MEMORY]:
        return memory
    trained = [_trained_row(value) for value in shown if value.kind == "full" or value.rank]
    return [*(_row(value) for value in shown if value.kind == BASE), *trained] if trained else []


def _memory_row(value: PublishedValue) -> dict[str, Any]:
    """A cell of a memory table as `memory_table.rows` has it, but that its gigabytes are the printed ones."""
    labels = {what: label for label, what in memory_table.METHODS.items()}
    return {
        **STUDY,
        "model": value.model,
        "table": value.artifact,
        "parameters": value.model,
        "method": labels[value.optimizer or "", value.kind],
        "gpus": value.gpus,
        "gigabytes": value.value,
        "printed": value.value,
        "note": value.note,
    }


def _row(value: PublishedValue) -> dict[str, Any]:
    """What every row has; the condition's fingerprint is of what was trained, whatever table tells of it."""
    condition = {
        "published": value.edition,
        "setting": value.setting,
        "method": value.method,
        "duration": value.duration,
    }
    return {
        **STUDY,
        "model": value.model,
        "method": value.method,
        "kind": value.kind,
        "metric": value.metric,
        "value": value.value,
        "items": ITEMS.get(value.metric, ""),
        "tasks": ";".join(AVERAGE) if value.metric == FORGETTING else value.metric,
        "condition": fingerprint(condition),
    }


def _trained_row(value: PublishedValue) -> dict[str, Any]:
    setting = SETTINGS[value.setting or ""]
    return {
        **_row(value),
        "setting": value.setting,
        "setting_label": setting.label,
        "domain": setting.domain,
        "regime": value.regime,
        "learning_task": setting.learning,
        "rank": value.rank,
        "alpha": value.alpha,
        "modules": MODULES.get(value.modules or "", ""),
        "duration": value.duration,
        "duration_value": value.amount,
        "duration_unit": "tokens" if value.regime == "cpt" else "epochs",
        "tokens": (value.amount or 0) * (1 if value.regime == "cpt" else setting.epoch_tokens) or "",
        "learning_rate": value.learning_rate,
        "chosen": "yes",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("artifact", help="a name of config/artifacts.yaml, such as fig1")
    parser.add_argument("--csv", type=Path, required=True)
    run(lambda arguments: main(arguments.artifact, arguments.csv), parser)
