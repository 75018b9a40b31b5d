"""Collects what an artifact is drawn from into its CSV: one row for each condition and metric.

python -m scripts.artifacts.collect fig2 --csv results/figures/fig2.csv
"""

import argparse
import csv
from pathlib import Path
from typing import Any

from scripts.artifacts.points import COLUMNS, FORGETTING
from scripts.evaluation.scores import plain_average
from scripts.study.command import current_launch, launch_options
from scripts.study.errors import run
from scripts.study.grid import BASE, Condition
from scripts.study.launch import Launch
from scripts.study.registry import Artifact, find_artifact
from scripts.study.schema import ContinuedPretraining, Lora
from scripts.study.store import atomic_path


def main(launch: Launch, name: str, path: Path) -> None:
    """Writes the CSV of an artifact, for every condition that it shows.

    Raises:
        UserError: no such artifact, the study cannot have it, or an evaluation is missing.
    """
    artifact = find_artifact(name)
    launch.grid.require(artifact.needs, artifact.block, artifact.setting)
    conditions = launch.grid.conditions(artifact.block, artifact.setting)
    rows = [row for condition in conditions for row in _rows(launch, condition, artifact)]
    with atomic_path(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _rows(launch: Launch, condition: Condition, artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of one condition: what was measured, and the forgetting average (paper, section 3)."""
    study = launch.grid.study
    tasks = launch.grid.tasks(condition, artifact.needs, artifact.setting)
    results = {task: launch.store.require(condition.evaluations[task])["results"] for task in tasks}
    rows = [
        _row(launch, condition, task, result["value"], result["stderr"], result["items"], [task])
        for task, result in results.items()
    ]
    if FORGETTING in artifact.needs:
        parts = study.evaluation.forgetting
        value, stderr = plain_average(
            [results[task]["value"] for task in parts], [results[task]["stderr"] for task in parts]
        )
        items = sum(results[task]["items"] for task in parts)
        rows.append(_row(launch, condition, FORGETTING, value, stderr, items, parts))
    return rows


def _row(
    launch: Launch,
    condition: Condition,
    metric: str,
    value: float,
    stderr: float,
    items: int,
    tasks: list[Any],
) -> dict[str, Any]:
    study = launch.grid.study
    metric, _, of_setting = metric.partition("@")
    row: dict[str, Any] = {
        "study": launch.name,
        "study_title": study.title,
        "scale": study.scale,
        "model": study.model.label,
        "setting": of_setting,
        "method": condition.method,
        "kind": BASE,
        "seed": condition.seed,
        "metric": metric,
        "value": repr(value),
        "stderr": repr(stderr),
        "items": items,
        "source": "trained",
        "condition": condition.product[-12:],
        "evaluations": ";".join(condition.evaluations[task][-12:] for task in tasks),
    }
    if condition.method != BASE:
        setting, method = study.settings[condition.setting], study.methods[condition.method]
        row |= {
            "setting": condition.setting,
            "setting_label": setting.label,
            "regime": setting.regime,
            "learning_task": setting.learning,
            "kind": method.kind,
            "rank": method.rank if isinstance(method, Lora) else "",
            "duration": condition.duration,
            "duration_value": condition.amount,
            "duration_unit": "tokens" if isinstance(setting, ContinuedPretraining) else "epochs",
            "tokens": _tokens(launch, condition),
            "learning_rate": repr(condition.learning_rate),
            "chosen": "yes" if condition.learning_rate == setting.learning_rates.get(condition.method) else "no",
        }
    return row


def _tokens(launch: Launch, condition: Condition) -> int:
    """Positions that the condition was trained on; a branch's own manifest counts only those after its leg."""
    setting = launch.grid.study.settings[condition.setting]
    if isinstance(setting, ContinuedPretraining):
        return setting.batches(condition.amount) * setting.batch_tokens
    return int(launch.store.require(condition.product)["results"]["tokens"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("artifact")
    parser.add_argument("--csv", type=Path, required=True)
    launch_options(parser)
    run(lambda arguments: main(current_launch(arguments), arguments.artifact, arguments.csv), parser)
