"""Every picture has its place on the contact sheet."""

from pathlib import Path

import numpy
import pytest
from matplotlib.image import imread, imsave

from scripts.artifacts.contact_sheet import COLUMNS, sheet
from scripts.common.errors import UserError


def test_every_picture_is_there_once(tmp_path: Path) -> None:
    colours = [(0.1 + 0.12 * i, 0.9 - 0.12 * i, 0.5) for i in range(COLUMNS + 2)]
    pictures = []
    for i, colour in enumerate(colours):
        pictures.append(tmp_path / f"fig{i}.png")
        imsave(pictures[-1], numpy.full((40 + 10 * i, 60, 3), colour))
    sheet(pictures, tmp_path / "sheet.png")
    made = imread(tmp_path / "sheet.png")[..., :3]
    found = [numpy.abs(made - numpy.array(colour)).max(axis=-1) < 0.02 for colour in colours]
    # the same width, heights in proportion
    widths = [mask.any(axis=0).sum() for mask in found]
    heights = [mask.any(axis=1).sum() for mask in found]
    assert max(widths) - min(widths) <= 4
    for i, height in enumerate(heights):
        assert height / widths[i] == pytest.approx((40 + 10 * i) / 60, rel=0.03)


def test_what_is_no_picture_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "fig1.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"fig1\.png: is no picture"):
        sheet([tmp_path / "fig1.png"], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
