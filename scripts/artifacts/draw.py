"""Draws an artifact from its CSV, as PDF and as PNG.

python -m scripts.artifacts.draw fig2 --csv results/figures/fig2.csv --pdf results/figures/fig2.pdf \\
    --png results/figures/fig2.png

The same CSV and record at the same commit give the same bytes: no file holds a date or a path.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

from scripts.artifacts import recipes, style, words
from scripts.artifacts.points import Origin, Points, read_points
from scripts.artifacts.provenance import write_record
from scripts.common.checkout import commit
from scripts.common.commands import snakemake_command
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.plan.registry import Artifact, find_artifact

DOTS_PER_INCH = 160


def metadata(artifact: Artifact, points: Origin, drawn_at: str) -> dict[str, str]:
    """Title, Subject and Keywords of both files; keywords are the provenance, `key=value` joined by `; `."""
    facts = style.provenance(artifact, points, drawn_at)
    return {
        "Title": f"{artifact.heading} ({points.study_title})",
        "Subject": artifact.caption,
        "Keywords": "; ".join(f"{key}={value}" for key, value in facts.items()),
    }


def draw(artifact: Artifact, csv: Path, pdf: Path, png: Path) -> None:
    """Draws `csv` into both files, each written under a temporary name and then renamed; and records it beside them.

    Raises UserError where the CSV cannot be drawn, or not with the artifact's options; then nothing is written.
    """
    recipe = recipes.of_drawing(artifact, csv)
    kind = importlib.import_module(f"scripts.artifacts.{artifact.kind}")
    artifact.check_options(getattr(kind, "OPTIONS", {}))
    # a kind whose numbers are no scores reads its own CSV
    read = getattr(kind, "read", None)
    points: Origin = read(csv) if read else read_points(csv, artifact.needs, artifact.by_rate)
    if isinstance(points, Points):
        artifact = words.of_points(artifact, points)
    drawn_at = commit()
    facts: dict[str, Any] = metadata(artifact, points, drawn_at)
    with style.whitegrid():
        figure = kind.draw(artifact, points, drawn_at)
        with atomic_path(pdf) as new_pdf, atomic_path(png) as new_png:
            # matplotlib dates a PDF unless told not to
            figure.savefig(new_pdf, format="pdf", metadata={**facts, "CreationDate": None})
            figure.savefig(new_png, format="png", metadata=facts, dpi=DOTS_PER_INCH)
    write_record(recipe, pdf, png)


def main(name: str, csv: Path, pdf: Path, png: Path) -> None:
    """Draws the artifact called `name`; raises UserError where there is none, or it is a table."""
    artifact = find_artifact(name)
    if artifact.is_table:
        raise UserError(f"{name} is a table: `{snakemake_command(artifact.files()[0])}` writes it")
    draw(artifact, csv, pdf, png)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("artifact", help="a name of config/artifacts.yaml, such as fig2")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--pdf", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    run(lambda arguments: main(arguments.artifact, arguments.csv, arguments.pdf, arguments.png), parser)
