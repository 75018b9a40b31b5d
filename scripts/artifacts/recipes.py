"""What the files with plain names are made of: a recipe for each, of everything that can change their content.

A product of the store has its fingerprint in its name. A CSV, a drawing and a page have a recipe instead, whose
fingerprint lies beside them (`scripts.artifacts.provenance`): the head of a launch compares it with what the study
wants now, and what makes the files records it. In a recipe are the products that are read, what of the study is shown,
and by content the modules that compute or draw, the registry's entry, and the numbers that the project brings along.
More of the study than a file shows may stand in its recipe: to make it anew then costs a second.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.artifacts import imports
from scripts.artifacts.published import PUBLISHED
from scripts.artifacts.repetitions import REPETITIONS
from scripts.common.errors import UserError
from scripts.launch.launch import Launch
from scripts.plan import artifacts as plan
from scripts.plan.conditions import GRID, SWEEP, Condition
from scripts.plan.product import Key
from scripts.plan.registry import REGISTRY, Artifact
from scripts.store.fingerprint import fingerprint, known_sha256

CLAIMED = ("learning", "forgetting")
"""What the claims are judged on, of the conditions of figures 1 to 3."""
_NOT_SHOWN = ("resources", "grain", "sweep", "blocks", "bos", "join", "contamination")


def of_csv(launch: Launch, artifact: Artifact, made: Callable[[Key], bool]) -> str:
    """The fingerprint of what an artifact's CSV is made of.

    Args:
        launch: the study and the store.
        artifact: the figure or table.
        made: whether a product is complete; see `Artifact.measurements`.

    Raises:
        UserError: the study cannot have it.
    """
    keys = artifact.measurements(launch.grid, made)
    conditions = launch.grid.conditions(artifact.block, artifact.setting) if artifact.needs else None
    entry = artifact.model_dump(mode="json", include={"name", "kind", "needs", "block", "setting", "by_rate"})
    overlay = launch.grid.study.overlay and not artifact.is_table
    files = imports.of_csv(artifact.kind) + ((str(PUBLISHED),) if overlay else ())
    study = _shown(launch, conditions, keys, rates=bool(artifact.needs))
    # of the sweep, only what a footnote says of it
    rule = {"chosen_by": launch.study["sweep"]["rule"]} if plan.shows_what_chose(launch.grid, artifact.needs) else {}
    return _fingerprint(files, keys, artifact=entry, study=study, **rule)


def of_printed(artifact: Artifact) -> str:
    """The fingerprint of what the CSV of the paper's printed numbers is made of."""
    return _fingerprint(
        (*imports.of_printed(), str(PUBLISHED)), artifact=artifact.model_dump(mode="json", include={"name", "kind"})
    )


def of_drawing(artifact: Artifact, csv: Path) -> str:
    """The fingerprint of what a figure or table is made of, a CSV among it by its bytes."""
    command = "tabulate" if artifact.is_table else "draw"
    return _fingerprint(
        (*imports.of_drawing(command, artifact.kind), str(REPETITIONS), str(csv)),
        artifact=artifact.model_dump(mode="json"),
    )


def of_claims(launch: Launch) -> str:
    """The fingerprint of what the claims are judged on; raises UserError where the study cannot have them."""
    if reason := plan.lack_of_claims(launch.grid):
        raise UserError(reason)
    keys = plan.measurements(launch.grid, CLAIMED, GRID)
    study = _shown(launch, launch.grid.conditions(GRID), keys)
    return _fingerprint(imports.of_command("claims"), keys, study=study)


def of_comparison(launch: Launch, made: Callable[[Key], bool]) -> str:
    """The fingerprint of what is compared with the paper: whatever is evaluated, as far as it is made."""
    files = (*imports.of_command("comparison"), str(PUBLISHED))
    # what only the sweep had may be a block's now: no other product, and one more model to compare
    study = _shown(launch, None, ()) | {"blocks": launch.study["blocks"]}
    return _fingerprint(files, launch.evaluated(made), study=study)


def of_rates(launch: Launch) -> str:
    """The fingerprint of what learning rates are chosen from; raises UserError where the study has no sweep."""
    keys = plan.validations(launch.grid)
    # the rates that were chosen before, and are the study's by now, decide nothing of it
    study = _shown(launch, launch.grid.conditions(SWEEP), keys, rates=False)
    return _fingerprint(imports.of_command("learning_rates"), keys, study=study, sweep=launch.study["sweep"])


def of_plan(launch: Launch) -> str:
    """The fingerprint of what the page of costs is computed from: the study with its devices; nothing of the store."""
    files = (*imports.behind("scripts.planning.page"), str(REGISTRY))
    return _fingerprint(files, study={"name": launch.name, **launch.study}, data_lock=launch.data_lock)


def of_contact_sheet(pictures: Sequence[Path]) -> str:
    """The fingerprint of what the contact sheet shows, in this order."""
    return _fingerprint(imports.of_command("contact_sheet"), pictures=_contents(map(str, pictures)))


def _fingerprint(files: Iterable[str], keys: Iterable[Key] = (), **more: Any) -> str:
    return fingerprint({"files": _contents(files), "products": sorted(set(keys)), **more})


def _contents(files: Iterable[str]) -> list[list[str]]:
    """Names and hashes of files, of those that are there."""
    return [[Path(file).name, _sha256(Path(file))] for file in files]


def _sha256(path: Path) -> str:
    try:
        return known_sha256(path)  # recipes have most modules in common
    except OSError:
        return ""


def _shown(
    launch: Launch, conditions: Sequence[Condition] | None, keys: Iterable[Key], *, rates: bool = True
) -> dict[str, Any]:
    """What of a study can show in a file: all but how its jobs run, and what other conditions are like.

    Args:
        launch: the study.
        conditions: those that the file shows; None for all that the study has.
        keys: the products that it is made of.
        rates: whether it shows anything that was trained at the settings' learning rates.
    """
    study = {name: value for name, value in launch.study.items() if name not in _NOT_SHOWN}
    if conditions is not None:
        settings, methods = {c.setting for c in conditions}, {c.method for c in conditions}
        study["settings"] = {name: value for name, value in study["settings"].items() if name in settings}
        study["methods"] = {name: value for name, value in study["methods"].items() if name in methods}
        tasks = {launch.grid.products[key].spec.get("task") for key in keys}
        asked = {name: value for name, value in study["evaluation"]["tasks"].items() if name in tasks}
        study["evaluation"] = study["evaluation"] | {"tasks": asked}
        del study["datasets"]
    hidden = {"sweep"} if rates else {"sweep", "learning_rates"}
    study["settings"] = {
        name: {key: value for key, value in setting.items() if key not in hidden}
        for name, setting in study["settings"].items()
    }
    return {"name": launch.name, **study}
