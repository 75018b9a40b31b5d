"""The figure of target modules: a panel for each rank, a line for each set of modules."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex

from scripts.artifacts import modules
from scripts.common.errors import UserError
from tests.artifacts.blocks import artifact, drawn, full, lora, row
from tests.artifacts.conftest import (
    Row,
    assert_all_apart,
    bars,
    base_row,
    data,
    footer,
    legend_entries,
    line,
    markers,
    pick,
)

FIG7 = artifact("modules", "learning", name="fig7")
EPOCHS = ("1", "2", "4")
SETS = ("attention", "mlp", "all")


def study(ranks: tuple[int, ...] = (16, 64, 256), sets: tuple[str, ...] = SETS, **more: Any) -> list[Row]:
    return [base_row("humaneval", 0.13)] + [
        row(lora(rank, 0, chosen), "code-ift", epochs, "humaneval", **more)
        for chosen in sets
        for rank in ranks
        for epochs in EPOCHS
    ]


def test_each_rank_has_a_panel_and_each_set_a_line(tmp_path: Path) -> None:
    rows = study()
    made = drawn(tmp_path, FIG7, rows[::-1])
    assert [ax.texts[1].get_text() for ax in made.axes] == ["r=16", "r=64", "r=256"]
    assert [ax.texts[2].get_text() for ax in made.axes] == ["Code IFT"] * 3
    lefts = [ax.get_position().x0 for ax in made.axes]
    assert lefts == sorted(set(lefts))
    assert len({round(ax.get_position().y0, 6) for ax in made.axes}) == 1
    assert len({ax.get_ylim() for ax in made.axes}) == 1
    colours: dict[str, set[str]] = {chosen: set() for chosen in SETS}
    for rank, ax in zip((16, 64, 256), made.axes, strict=True):
        for chosen in SETS:
            method = lora(rank, 0, chosen)["method"]
            expected = [(float(epochs), pick(rows, method=method, duration=epochs)) for epochs in EPOCHS]
            assert data(line(ax, method)) == expected
            colours[chosen].add(to_hex(line(ax, method).get_color()))
        assert len(markers(ax)) == len(bars(ax)) == 9
        assert list(line(ax, "base model").get_ydata()) == [0.13] * 2
        assert line(ax, "base model").get_linestyle() == "--"
        assert [label.get_text() for label in ax.get_xticklabels()] == list(EPOCHS)
        assert ax.get_ylabel() == "Accuracy in HumanEval (demo)"
    assert legend_entries(made) == ["Attention", "MLP", "All", "base model"]
    assert [{to_hex(handle.get_color())} for handle in made.legends[0].get_lines()[:3]] == list(colours.values())
    assert_all_apart(made)


def test_the_first_versions_sets_keep_what_they_leave_out(tmp_path: Path) -> None:
    sets = ("attention", "all without gate", "mlp without gate")
    made = drawn(tmp_path, FIG7, study(ranks=(16, 256), sets=sets, alpha=32))
    assert legend_entries(made)[:3] == ["Attention", "MLP without gate", "All without gate"]
    assert len(made.axes) == 2


def test_a_set_without_a_name_is_called_by_its_matrices(tmp_path: Path) -> None:
    made = drawn(tmp_path, FIG7, study(ranks=(16,), sets=("all", "q_proj+v_proj")))
    assert legend_entries(made) == ["q_proj+v_proj", "All", "base model"]


def test_a_missing_cell_is_not_drawn_and_a_rank_may_lack_a_set(tmp_path: Path) -> None:
    rows = [found for found in study() if (found.get("rank"), found.get("modules")) != (64, "mlp")]
    gone = {"method": lora(16)["method"], "duration": "2"}
    rows = [{**found, "value": ""} if gone.items() <= found.items() else found for found in rows]
    made = drawn(tmp_path, FIG7, rows)
    assert [x for x, _ in data(line(made.axes[0], gone["method"]))] == [1, 4]
    assert [len(markers(ax)) for ax in made.axes] == [8, 6, 9]
    assert "1 more not there yet" in footer(made)


def test_two_settings_are_two_rows(tmp_path: Path) -> None:
    rows = study(ranks=(16, 64))
    other = [row(lora(rank), "math-ift", "1", "gsm8k") for rank in (16, 64)]
    made = drawn(tmp_path, FIG7, rows + other)
    tops = [round(ax.get_position().y1, 6) for ax in made.axes]
    assert tops[0] == tops[1] > tops[2] == tops[3]
    assert [ax.texts[2].get_text() for ax in made.axes] == ["Code IFT"] * 2 + ["Math IFT"] * 2
    assert_all_apart(made)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (full(), "fig7: full adapts no modules"),
        ({**lora(16), "method": "another"}, "another and lora-r16-a32-all adapt the same modules at the same rank"),
    ],
)
def test_what_is_no_such_comparison_is_one_sentence(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as raised:
        drawn(tmp_path, FIG7, [*study(), row(more, "code-ift", "1", "humaneval")])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def dichromat(colour: str) -> list[tuple[float, float, float]]:
    """What protanopes and deuteranopes see, as linear RGB (Vienot, Brettel and Mollon 1999, table of matrices)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    protan = (0.11238 * red + 0.88762 * green, 0.11238 * red + 0.88762 * green, 0.00401 * (red - green) + blue)
    deutan = (0.29275 * red + 0.70725 * green, 0.29275 * red + 0.70725 * green, 0.02234 * (green - red) + blue)
    return [protan, deutan]


def test_readers_who_see_no_red_or_no_green_tell_the_three_sets_apart() -> None:
    for one, other in combinations(modules.COLOURS[:3], 2):
        for seen, beside in zip(dichromat(one), dichromat(other), strict=True):
            assert sum((a - b) ** 2 for a, b in zip(seen, beside, strict=True)) ** 0.5 > 0.15
