"""Writes a table from its CSV, as Markdown and as LaTeX.

python -m scripts.artifacts.tabulate tableS1 --csv results/tables/tableS1.csv --md results/tables/tableS1.md \\
    --tex results/tables/tableS1.tex

The same CSV and record at the same commit give the same bytes: no file holds a date or a path.
"""

import argparse
import importlib
from pathlib import Path

from scripts.artifacts import recipes, tables
from scripts.artifacts.provenance import write_record
from scripts.common.checkout import commit
from scripts.common.commands import snakemake_command
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.plan.registry import Artifact, find_artifact


def tabulate(artifact: Artifact, csv: Path, md: Path, tex: Path) -> None:
    """Writes both files, each under a temporary name that is then renamed; and records it beside them.

    Raises UserError where the CSV makes no such table; then nothing is written.
    """
    recipe = recipes.of_drawing(artifact, csv)
    kind = importlib.import_module(f"scripts.artifacts.{artifact.kind}")
    artifact.check_options(getattr(kind, "OPTIONS", {}))
    table = kind.table(artifact, csv, commit())
    with atomic_path(md) as new_md, atomic_path(tex) as new_tex:
        new_md.write_text(tables.markdown(table), encoding="utf-8", newline="\n")
        new_tex.write_text(tables.latex(table), encoding="utf-8", newline="\n")
    write_record(recipe, md, tex)


def main(name: str, csv: Path, md: Path, tex: Path) -> None:
    """Writes the table called `name`; raises UserError where there is none."""
    artifact = find_artifact(name)
    if not artifact.is_table:
        raise UserError(f"{name} is no table: `{snakemake_command(artifact.files()[0])}` draws it")
    tabulate(artifact, csv, md, tex)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("artifact", help="a table of config/artifacts.yaml, such as tableS1")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--md", type=Path, required=True)
    parser.add_argument("--tex", type=Path, required=True)
    run(lambda arguments: main(arguments.artifact, arguments.csv, arguments.md, arguments.tex), parser)
