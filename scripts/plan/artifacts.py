"""What artifacts need of a study: which measurements of which conditions, or why a study cannot have one."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scripts.common.commands import python_command, snakemake_command
from scripts.common.errors import UserError
from scripts.components.asking.answers import Conversations
from scripts.components.measures import FORGETTING, LEARNING, MEASURES, SOURCE_LOSS, TARGET_LOSS
from scripts.plan.conditions import GRID, SWEEP, VALIDATION, Condition
from scripts.plan.evaluation import labels
from scripts.plan.product import Key
from scripts.study.schema import Cell

if TYPE_CHECKING:
    from scripts.plan.grid import Grid

THROUGHPUT = "throughput"


def tasks(
    grid: "Grid", condition: Condition, needs: Sequence[str], block: str = GRID, setting: str | None = None
) -> list[str]:
    """What an artifact that needs ``learning``, ``forgetting``, ... reads of a condition's evaluations.

    Of the base model it is what the settings of the artifact's block ask; it has no spectra.
    """
    asked_in = [condition.setting] if condition.setting else _settings(grid, block, setting)
    found = (label for need in needs for label in labels(grid.study, need, asked_in, of_base=condition.is_base))
    return list(dict.fromkeys(found))


def lack(grid: "Grid", needs: Sequence[str], block: str, setting: str | None = None) -> str | None:
    """Why the study does not have such an artifact, in one sentence; None where it does."""
    study = grid.study
    if THROUGHPUT in needs:
        return None if grid.throughput else f"study {grid.name!r} has no benchmark of training speed (throughput)"
    if block not in grid.blocks:
        return f"study {grid.name!r} has no block {block!r} (blocks.{block})"
    if setting is not None and setting not in _settings(grid, block, None):
        if setting not in study.settings:
            return f"study {grid.name!r} has no setting {setting!r}; it has {', '.join(study.settings)}"
        return f"study {grid.name!r} has no conditions of setting {setting!r} in its block {block!r}"
    settings = _settings(grid, block, setting)
    if not settings and block == GRID:
        return f"study {grid.name!r} has no conditions in its main grid (main.settings)"
    if block == SWEEP and not any(study.settings[name].sweep for name in settings):
        return f"study {grid.name!r} has no sweep over learning rates"
    if block == SWEEP and TARGET_LOSS in needs and not shows_what_chose(grid, needs):
        return f"the sweep of study {grid.name!r} does not choose by held-out loss (sweep.rule)"
    if SOURCE_LOSS in needs and not study.evaluation.held_out:
        return f"study {grid.name!r} has no records for the source loss (evaluation.held_out)"
    for name in settings:
        if TARGET_LOSS in needs and not study.settings[name].held_out:
            return f"study {grid.name!r} has no records for the target loss (settings.{name}.held_out)"
    for need in needs:
        if need not in MEASURES and need not in study.evaluation.known:
            return f"study {grid.name!r} has no task {need!r} (evaluation.tasks.{need})"
    if block in study.blocks:
        measures: set[str] = set(study.blocks[block].measures)
        for measure in (FORGETTING, LEARNING):
            if measure in measures:
                measures.update(labels(study, measure, settings, of_base=False))
        for need in needs:
            if need not in measures:
                known = study.evaluation.known
                graded = need in known and isinstance(known[need].answers, Conversations)
                judged = f" (it takes a judge: evaluation.tasks.{need})" if graded else ""
                return f"study {grid.name!r} does not measure {need} in its block {block!r}{judged}"
    return None


def lack_of_claims(grid: "Grid") -> str | None:
    """Why the paper's claims cannot be judged on a study, in one sentence; None where they can."""
    study = grid.study
    if not grid.blocks[GRID]:
        return f"study {grid.name!r} has no conditions in its main grid (main.settings)"
    taught = {f"settings.{name}.learning": study.settings[name].learning for name in study.main_settings}
    for key, task in {**taught, "evaluation.forgetting": study.evaluation.forgetting[0]}.items():
        if study.evaluation.known[task].shown.lower_is_better:
            return f"the paper's claims are about accuracies, and study {grid.name!r} measures {task} ({key})"
    return None


def require(grid: "Grid", needs: Sequence[str], block: str, setting: str | None = None) -> None:
    """Raises UserError where the study does not have such an artifact, or its sweep has still to choose rates."""
    if reason := lack(grid, needs, block, setting):
        raise UserError(reason)
    if THROUGHPUT in needs:
        return
    for name, missing in _without_rate(grid, block, setting):
        sweep = snakemake_command("results/learning_rates.yaml", study=grid.name)
        accept = python_command("scripts.artifacts.accept_rates", study=grid.name)
        raise UserError(
            f"settings.{name} of study {grid.name!r} has no learning rate for {', '.join(missing)}: "
            f"`{sweep}` runs the sweep that chooses it, and `{accept}` takes the choice over"
        )


def measurements(grid: "Grid", needs: Sequence[str], block: str, setting: str | None = None) -> list[Key]:
    """The products that an artifact's CSV is made from, whatever the study's grain.

    Raises:
        UserError: see `require`.
    """
    require(grid, needs, block, setting)
    if THROUGHPUT in needs:
        return list(grid.throughput.values())
    shown = grid.conditions(block, setting)
    return [c.evaluations[task] for c in shown for task in tasks(grid, c, needs, block, setting)]


def validations(grid: "Grid") -> list[Key]:
    """The evaluations that learning rates are chosen from.

    Raises:
        UserError: the study has no sweep.
    """
    require(grid, (), SWEEP)
    return [condition.evaluations[VALIDATION] for condition in grid.blocks[SWEEP]]


def shows_what_chose(grid: "Grid", needs: Sequence[str]) -> bool:
    """Whether among the needs of an artifact is what the study's sweep chooses learning rates by: the target loss."""
    sweep = grid.study.sweep
    return TARGET_LOSS in needs and sweep is not None and sweep.by_loss


def _settings(grid: "Grid", block: str, setting: str | None) -> list[str]:
    """The settings that a block has conditions in, or the one that is asked for."""
    study = grid.study
    if setting is not None:
        return [setting]
    if block == SWEEP:
        return [name for name, value in study.settings.items() if value.sweep]
    if block in study.blocks:
        return list(dict.fromkeys(cell.setting for cell in study.blocks[block].cells))
    return study.main_settings


def _without_rate(grid: "Grid", block: str, setting: str | None) -> Iterator[tuple[str, list[str]]]:
    """Settings and the methods that a block shows there and no rate is chosen for yet."""
    if block == SWEEP:
        return
    study = grid.study
    own = study.blocks.get(block)
    for cell in own.cells if own else [Cell(setting=name) for name in study.main_settings]:
        known = {*study.settings[cell.setting].learning_rates, *study.settings[cell.setting].published}
        missing = [method for method in cell.methods or study.main_methods if method not in known]
        if setting in (None, cell.setting) and missing and not cell.learning_rates:
            yield cell.setting, missing
