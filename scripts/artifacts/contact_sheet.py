"""All figures of a study on one picture, to be looked over at once.

python -m scripts.artifacts.contact_sheet --png results/contact_sheet.png results/figures/fig1.png ...
"""

import argparse
import math
from pathlib import Path

from scripts.artifacts import recipes
from scripts.artifacts.provenance import write_record
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path

COLUMNS, WIDTH, DOTS_PER_INCH = 4, 4.0, 110
CAPTION = 0.28


def sheet(pictures: list[Path], png: Path) -> None:
    """Draws the pictures, each under its file's name, in rows of `COLUMNS` that are as high as their highest.

    Raises UserError where there is none, or one cannot be read.
    """
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    recipe = recipes.of_contact_sheet(pictures)
    if not pictures:
        raise UserError("a contact sheet needs at least one picture")
    images = []
    for path in pictures:
        try:
            images.append(imread(path))
        except (OSError, SyntaxError) as error:
            raise UserError(f"{path}: is no picture that can be read ({error})") from error
    rows = [range(first, min(first + COLUMNS, len(images))) for first in range(0, len(images), COLUMNS)]
    inner = WIDTH - 0.15
    heights = [max(inner * images[i].shape[0] / images[i].shape[1] for i in row) + CAPTION + 0.1 for row in rows]
    figure = Figure(figsize=(COLUMNS * WIDTH, math.fsum(heights)), facecolor="white")
    total_width, total_height = figure.get_size_inches()
    top = total_height
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            size = inner * images[i].shape[0] / images[i].shape[1]
            left, bottom = column * WIDTH + 0.075, top - CAPTION - size
            ax = figure.add_axes((left / total_width, bottom / total_height, inner / total_width, size / total_height))
            ax.imshow(images[i], interpolation="lanczos", aspect="auto")
            ax.set_axis_off()
            figure.text(left / total_width, (top - 0.2) / total_height, pictures[i].stem, fontsize=9, weight="bold")
        top -= height
    with atomic_path(png) as new:
        figure.savefig(new, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    write_record(recipe, png)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--png", type=Path, required=True)
    run(lambda arguments: sheet(arguments.pictures, arguments.png), parser)
