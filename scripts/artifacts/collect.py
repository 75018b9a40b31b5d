"""Collects what an artifact is drawn from into its CSV: one row for each condition and metric.

python -m scripts.artifacts.collect fig2 --csv results/figures/fig2.csv
"""

import argparse
import csv
import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.artifacts import recipes
from scripts.artifacts.frames import condition_cells
from scripts.artifacts.imports import collects
from scripts.artifacts.points import CHOSEN_BY, COLUMNS, DIVERGED, SHOWN_OWN
from scripts.artifacts.provenance import write_record
from scripts.artifacts.published import load_published
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.components.measures import FORGETTING, LANGUAGE_UNDERSTANDING, TARGET_LOSS
from scripts.components.tasks import COMPOSITE
from scripts.evaluation.scores import language_understanding, plain_average
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan import artifacts as plan
from scripts.plan.conditions import Condition
from scripts.plan.evaluation import BASE
from scripts.plan.registry import Artifact, find_artifact
from scripts.study.schema import ContinuedPretraining


def main(launch: Launch, name: str, path: Path) -> None:
    """Writes the CSV of an artifact, for every condition that it shows, and beside it the record of how it was made.

    Raises:
        UserError: no such artifact, the study cannot have it, or an evaluation is missing.
    """
    artifact = find_artifact(name)
    recipe = recipes.of_csv(launch, artifact, launch.store.is_made)
    # a kind whose numbers are no scores collects them itself; others are not loaded, as that takes seconds
    if collects(artifact.kind):
        kind = importlib.import_module(f"scripts.artifacts.{artifact.kind}")
        study = launch.grid.study
        own = {"study": launch.name, "study_title": study.title, "scale": study.scale, "model": study.model.label}
        columns = tuple(dict.fromkeys([*own, *kind.COLUMNS]))
        rows = [{**own, **row} for row in kind.collect(launch, artifact)]
    else:
        conditions = launch.grid.conditions(artifact.block, artifact.setting)
        columns, rows = COLUMNS, [row for condition in conditions for row in _rows(launch, condition, artifact)]
        if shown := _shown(launch, rows):
            columns, rows = (*COLUMNS, SHOWN_OWN), [{**row, SHOWN_OWN: shown} for row in rows]
        if plan.shows_what_chose(launch.grid, artifact.needs):
            columns, rows = (*columns, CHOSEN_BY), [{**row, CHOSEN_BY: TARGET_LOSS} for row in rows]
        if launch.grid.study.overlay and not artifact.is_table:
            rows += _overlaid(launch, artifact, rows)
    with atomic_path(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_record(recipe, path)


def _shown(launch: Launch, rows: list[dict[str, Any]]) -> str:
    """How those of the study's own tasks are shown that rows are of; empty where there is none."""
    evaluation = launch.grid.study.evaluation
    named = {name for row in rows for name in (row.get("learning_task"), *row["tasks"].split(";"))}
    shown = {name: asdict(evaluation.task(name).shown) for name in evaluation.tasks.own if name in named}
    return json.dumps(shown) if shown else ""


def _rows(launch: Launch, condition: Condition, artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of one condition: what was measured, and the forgetting average (paper, section 3).

    Of a model that diverged they have no value, and say so.
    """
    study = launch.grid.study
    tasks = plan.tasks(launch.grid, condition, artifact.needs, artifact.block, artifact.setting)
    results = {task: launch.store.require(condition.evaluations[task])["results"] for task in tasks}
    if any("diverged" in result for result in results.values()):
        metrics: dict[str, list[Any]] = {task: [task] for task in tasks}
        if FORGETTING in artifact.needs:
            metrics[FORGETTING] = list(study.evaluation.forgetting)
        if LANGUAGE_UNDERSTANDING in artifact.needs:
            metrics[LANGUAGE_UNDERSTANDING] = list(COMPOSITE)
        return [_row(launch, condition, metric, None, None, 0, parts) for metric, parts in metrics.items()]
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
    if LANGUAGE_UNDERSTANDING in artifact.needs:
        value, stderr = language_understanding(
            {task: results[task]["value"] for task in COMPOSITE}, {task: results[task]["stderr"] for task in COMPOSITE}
        )
        items = sum(results[task]["items"] for task in COMPOSITE)
        rows.append(_row(launch, condition, LANGUAGE_UNDERSTANDING, value, stderr, items, list(COMPOSITE)))
    return rows


def _row(
    launch: Launch,
    condition: Condition,
    metric: str,
    value: float | None,
    stderr: float | None,
    items: int,
    tasks: list[Any],
) -> dict[str, Any]:
    """A row with `COLUMNS`; the value is None where training diverged."""
    study = launch.grid.study
    metric, _, of_setting = metric.partition("@")
    row: dict[str, Any] = {
        "study": launch.name,
        "study_title": study.title,
        "scale": study.scale,
        "model": study.model.label,
        "setting": of_setting,
        **condition_cells(launch, condition),
        "metric": metric,
        "value": "" if value is None else repr(value),
        "stderr": "" if stderr is None else repr(stderr),
        "items": "" if value is None else items,
        "state": DIVERGED if value is None else "",
        "tasks": ";".join(task.partition("@")[0] for task in tasks),
        "evaluations": ";".join(condition.evaluations[task].fingerprint for task in tasks),
    }
    if condition.method != BASE:
        setting = study.settings[condition.setting]
        row |= {
            "domain": setting.domain,
            "regime": setting.regime,
            "learning_task": setting.learning,
            "tokens": _tokens(launch, condition),
            "learning_rate": "" if condition.learning_rate is None else repr(condition.learning_rate),
            "chosen": "yes" if condition.learning_rate == setting.learning_rates.get(condition.method) else "no",
        }
    return row


def _overlaid(launch: Launch, artifact: Artifact, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's numbers of the models that the artifact shows, each under the study's name of its method.

    Raises UserError where the study's numbers are not comparable with the paper's.
    """
    from scripts.artifacts.counterparts import incomparable
    from scripts.artifacts.printed import printed_rows

    if sentence := incomparable(launch.grid.study):
        raise UserError(f"study {launch.name!r}, overlay: {sentence}")
    own = {key: rows[0][key] for key in ("study", "study_title", "model", "scale")}
    overlaid = []
    for printed in printed_rows(artifact.name, load_published()):
        row = next((row for row in rows if _is_counterpart(row, printed)), None)
        if row and printed["kind"] != BASE:
            overlaid.append({**printed, **own, "method": row["method"]})
    return overlaid


def _is_counterpart(row: dict[str, Any], printed: dict[str, Any]) -> bool:
    """Whether both are the same of one model; what the paper does not say of an adapter may be anything."""
    if sorted(row["tasks"].split(";")) != sorted(printed["tasks"].split(";")):
        return False  # another forgetting average than the paper's, say
    said = [key for key in ("setting", "kind", "duration_value", "rank", "alpha", "modules") if printed.get(key)]
    return not row.get("variant") and all(str(row.get(key)) == str(printed[key]) for key in said)


def _tokens(launch: Launch, condition: Condition) -> int | str:
    """Positions that the condition was trained on; a branch's own manifest counts only those after its leg."""
    setting = launch.grid.study.settings[condition.setting]
    if isinstance(setting, ContinuedPretraining):
        return setting.batches(condition.amount) * setting.batch_tokens
    keys = [condition.product]
    while legs := launch.grid.products[keys[-1]].inputs_of("leg"):
        keys += legs
    manifests = [launch.store.read(key) for key in keys]
    # the authors do not say how many positions their checkpoints saw; and where a run is lost that was evaluated, it is
    # not trained again to say so
    if not all(manifest and "tokens" in manifest["results"] for manifest in manifests):
        return ""
    return sum(int(manifest["results"]["tokens"]) for manifest in manifests if manifest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("artifact")
    parser.add_argument("--csv", type=Path, required=True)
    launch_options(parser)
    run(lambda arguments: main(current_launch(arguments), arguments.artifact, arguments.csv), parser)
