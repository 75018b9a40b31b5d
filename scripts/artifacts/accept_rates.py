"""Copies the learning rates that a sweep chose beside its study, or checks the ones that lie there.

python -m scripts.artifacts.accept_rates            # after: snakemake results/learning_rates.yaml
python -m scripts.artifacts.accept_rates --check    # do the committed rates still follow from the sweeps?
"""

import argparse
from pathlib import Path

from scripts.artifacts.learning_rates import RESULT, code_versions, outdated, write
from scripts.common import commands
from scripts.common.commands import snakemake_command
from scripts.common.errors import UserError, run
from scripts.common.files import read_yaml
from scripts.launch.command import launch_options
from scripts.launch.launch import launch_by_hand
from scripts.plan.grid import Grid
from scripts.study.load import ACCEPTED, STUDIES, accepted_path, read_accepted


def accept(result: Path, study: str | None) -> None:
    """Copies what the sweep chose to its study, where it becomes part of every spec at the next launch.

    Raises:
        UserError: there is no such result, it is another study's, or it does not follow from the study's sweep.
    """
    if not result.exists():
        raise UserError(f"{result} does not exist; `{snakemake_command(str(result), study=study)}` makes it")
    settings = read_accepted(result)
    choices = read_yaml(result)
    name = str(choices.get("study"))
    if study not in (None, name):
        raise UserError(f"{result}: holds the choices of study {name!r}, not of {study!r}")
    grid = _grid(name)
    if why := outdated(grid, result):
        raise UserError(f"{why}; `{snakemake_command(str(result), study=name)}` makes it anew")
    target = accepted_path(name, STUDIES)
    before = read_accepted(target) if target.exists() else {}
    write(target, choices)
    for setting, methods in settings.items():
        for method, choice in methods.items():
            old = before.get(setting, {}).get(method, {}).get("learning_rate")
            rate = choice["learning_rate"]
            changed = "" if old == rate else f" (was {old:g})" if old else " (new)"
            at_edge = f"; it is the {choice['edge']} rate tried, try more beyond it" if choice.get("edge") else ""
            print(f"{setting} {method}: {rate:g}{changed}{at_edge}")
    print(f"{target}: written; commit it")


def check(study: str | None) -> None:
    """Says of every study with accepted rates (or of the one named) whether they follow from its sweep.

    Raises:
        UserError: they do not.
    """
    names = [study] if study else sorted(file.name.removesuffix(ACCEPTED) for file in STUDIES.glob(f"*{ACCEPTED}"))
    for name in names:
        path = accepted_path(name, STUDIES)
        if not path.exists():
            raise UserError(f"{path} does not exist: study {name!r} has no accepted learning rates")
        grid = _grid(name)
        if why := outdated(grid, path):
            raise UserError(why)
        raised = [
            f"{code} {version}, which is {grid.versions[code]} now"
            for code, version in code_versions(path).items()
            if version != grid.versions.get(code, version)
        ]
        print(
            f"{path}: follows from the sweep of study {name}"
            + (f", made under the code version {' and '.join(raised)}" if raised else "")
        )


def _grid(name: str) -> Grid:
    return launch_by_hand(name, None).grid


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing, say whether the rates follow from the sweep"
    )
    launch_options(parser)

    def main(arguments: argparse.Namespace) -> None:
        commands.belong_to(arguments.study, arguments.store)
        if arguments.check:
            check(arguments.study)
        else:
            accept(RESULT, arguments.study)

    run(main, parser)
