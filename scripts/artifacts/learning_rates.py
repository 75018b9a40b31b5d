"""Chooses learning rates from a study's sweep by the rule that the study states, and says how.

python -m scripts.artifacts.learning_rates --out results/learning_rates.yaml
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.artifacts import recipes
from scripts.artifacts.provenance import write_record
from scripts.common.commands import python_command, snakemake_command
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path, read_yaml
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan.conditions import SWEEP, VALIDATION, Condition
from scripts.plan.grid import Grid
from scripts.plan.product import Key
from scripts.store.fingerprint import fingerprint
from scripts.study.load import STUDIES, accepted_path, read_accepted

RESULT = Path("results/learning_rates.yaml")

Curve = list[dict[str, Any]]
"""For each rate, rising: `learning_rate`, what the rule compares (`score` or `loss`, mean over seeds), `stderr` (over
items), `items`; and as `asked`, for each seed, what stands for the model and its items (`_asked`).

Where training diverged, of one of the seeds at least, score or loss and `stderr` are None and `diverged` is true.
"""


@dataclass(frozen=True)
class Rule:
    """How a sweep chooses."""

    compared: str
    """What it compares, as a curve calls it."""
    best: Callable[[Sequence[float]], float]
    """The best of several."""
    words: str
    """What `compared` is, for people."""


RULES = {
    "highest_validation_score": Rule("score", max, "the score on validation items"),
    "lowest_held_out_loss": Rule("loss", min, "the loss on held-out records, in bits per byte,"),
}
"""By their names in a study (`scripts.study.schema.Sweep`)."""


def choose(curve: Curve, rule: str) -> float:
    """The learning rate that a rule takes: that with the best score or loss; of a tie, the lowest.

    Raises:
        UserError: training diverged at every rate.
    """
    known = [point for point in curve if not point.get("diverged")]
    if not known:
        rates = ", ".join(f"{point['learning_rate']:g}" for point in curve)
        raise UserError(f"training diverged at every learning rate tried ({rates}); the sweep needs lower ones")
    compared = RULES[rule].compared
    best = RULES[rule].best([point[compared] for point in known])
    return float(min(point["learning_rate"] for point in known if point[compared] == best))


def edge(curve: Curve, rule: str) -> str | None:
    """``lowest`` or ``highest`` where the choice is at an end of the rates tried, so that the best may lie beyond."""
    rates = [point["learning_rate"] for point in curve]
    return {min(rates): "lowest", max(rates): "highest"}.get(choose(curve, rule))


def swept(grid: Grid) -> dict[tuple[str, str], dict[float, list[Condition]]]:
    """(setting, method) to rate, rising, to the sweep's conditions, one a seed."""
    found: dict[tuple[str, str], dict[float, list[Condition]]] = {}
    for condition in sorted(grid.blocks[SWEEP], key=lambda c: (c.learning_rate or 0.0, c.seed)):
        rates = found.setdefault((condition.setting, condition.method), {})
        rates.setdefault(condition.learning_rate or 0.0, []).append(condition)
    order = [(setting, method) for setting in grid.study.settings for method in grid.study.methods]
    return {key: found[key] for key in order if key in found}


def main(launch: Launch, out: Path) -> None:
    """Writes what the sweep chose, with the curve behind every choice, and the record of how it was made.

    Raises:
        UserError: the study has no sweep, one of its evaluations is not there, or training diverged at every rate of a
            method.
    """
    recipe = recipes.of_rates(launch)
    sweep = launch.grid.study.sweep
    assert sweep is not None
    settings: dict[str, dict[str, Any]] = {}
    for (setting, method), rates in swept(launch.grid).items():
        curve = [_point(launch, rate, conditions, RULES[sweep.rule]) for rate, conditions in rates.items()]
        first = next(iter(rates.values()))[0]
        try:
            chosen = choose(curve, sweep.rule)
        except UserError as error:
            raise UserError(f"{setting} {method}: {error}") from error
        settings.setdefault(setting, {})[method] = {
            "learning_rate": chosen,
            "edge": edge(curve, sweep.rule),
            "duration": first.duration,
            "curve": curve,
        }
        print(f"{setting} {method}: {chosen:g} of {' '.join(_mark(point, RULES[sweep.rule]) for point in curve)}")
    write(
        out,
        {
            "study": launch.name,
            "rule": sweep.rule,
            "seeds": list(sweep.seeds),
            "code_versions": launch.grid.versions,
            "settings": settings,
        },
    )
    write_record(recipe, out)


def _asked(grid: Grid, evaluation: Key) -> str:
    """Stands for what an evaluation asks of which model, and how it is judged, but not by which code."""
    product = grid.products[evaluation]
    specs = [*(grid.products[key].spec for key in product.inputs_of("samples")), product.spec]
    merged = {key: value for spec in specs for key, value in spec.items()}
    return fingerprint({key: value for key, value in merged.items() if key not in ("kind", "versions", "sampled")})


def _point(launch: Launch, rate: float, conditions: Sequence[Condition], rule: Rule) -> dict[str, Any]:
    keys = [condition.evaluations[VALIDATION] for condition in conditions]
    results = [launch.store.require(key)["results"] for key in keys]
    asked = [_asked(launch.grid, key) for key in keys]
    # weights that the last steps blew up have a loss that is no number
    if any("diverged" in result or not math.isfinite(result["value"]) for result in results):
        nothing = {rule.compared: None, "stderr": None, "items": 0, "diverged": True}
        return {"learning_rate": rate, **nothing, "asked": asked}
    return {
        "learning_rate": rate,
        rule.compared: statistics.fmean(result["value"] for result in results),
        "stderr": math.sqrt(math.fsum(result["stderr"] ** 2 for result in results)) / len(results),
        "items": results[0]["items"],
        "asked": asked,
    }


def _mark(point: dict[str, Any], rule: Rule) -> str:
    """`0.0001:0.345`, `0.01:diverged`."""
    compared = "diverged" if point.get("diverged") else f"{point[rule.compared]:.3f}"
    return f"{point['learning_rate']:g}:{compared}"


def write(path: Path, choices: dict[str, Any]) -> None:
    """Writes choices as YAML that reads back as the same numbers."""
    head = (
        f"# The learning rates of study {choices['study']}, chosen by its sweep: for each setting and method\n"
        f"# {RULES[choices['rule']].words} at every rate, and the rate that the rule takes. Not written by hand.\n"
    )
    with atomic_path(path) as new:
        new.write_text(head + yaml.safe_dump(choices, sort_keys=False, width=120), encoding="utf-8")


def outdated(grid: Grid, path: Path) -> str | None:
    """Why the choices in a file do not follow from the study's sweep as it is now; None where they do.

    Needs no result: the file says what was asked of which models, and the study says what it would ask, of models made
    under the code versions of the file. A choice that a person has accepted stays one when code versions rise.

    Raises:
        UserError: the file is not of the right form.
    """
    choices = read_accepted(path)
    sweep, rule = grid.study.sweep, read_yaml(path).get("rule")
    if sweep and rule != sweep.rule:
        return f"{path}: rule: the rates were chosen by {rule}, and the study's sweep chooses by {sweep.rule}"
    given = {(setting, method): choice for setting, methods in choices.items() for method, choice in methods.items()}
    then = grid.under(code_versions(path))
    expected = swept(then)
    for setting, method in [*expected, *(key for key in given if key not in expected)]:
        where = f"{path}: settings.{setting}.{method}"
        if (setting, method) not in given:
            return f"{where}: is missing, the sweep has a rate to choose there"
        if (setting, method) not in expected:
            return f"{where}: the sweep tries no rates there"
        choice, rates = given[setting, method], expected[setting, method]
        made_from = {point["learning_rate"]: list(point["asked"]) for point in choice["curve"]}
        now = {rate: [_asked(then, c.evaluations[VALIDATION]) for c in found] for rate, found in rates.items()}
        if made_from != now:
            return f"{where}: comes from another sweep than the study's (its rates, data, model or code changed since)"
        try:
            chosen = choose(choice["curve"], str(rule))
        except UserError as error:
            return f"{where}: {error}"
        if choice["learning_rate"] != chosen:
            return f"{where}: says {choice['learning_rate']:g}, and the rule takes {chosen:g} from its curve"
    return None


def code_versions(path: Path) -> dict[str, int]:
    """The code versions that the choices in a file were made under; empty where it does not say.

    Raises:
        UserError: what it says are none.
    """
    found = read_yaml(path).get("code_versions", {})
    if not isinstance(found, dict) or not all(type(version) is int and version > 0 for version in found.values()):
        raise UserError(
            f"{path}: code_versions must be positive integers by name, as `evaluation: 1`, and is {found!r}"
        )
    return found


def note(grid: Grid) -> str | None:
    """What a person should know of the study's accepted rates before a launch; None where all is well."""
    path = accepted_path(grid.name, STUDIES)
    why = outdated(grid, path) if path.exists() else None
    if not why:
        return None
    sweep, accept = snakemake_command(str(RESULT), study=grid.name), "scripts.artifacts.accept_rates"
    return f"{why}; `{sweep}` runs the sweep, `{python_command(accept, study=grid.name)}` takes it over"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    launch_options(parser)
    run(lambda arguments: main(current_launch(arguments), arguments.out), parser)
