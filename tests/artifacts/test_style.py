"""The parts of a page: colours, limits, notes, and the line breaks of legend and footer."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import style
from scripts.artifacts.points import Duration, Estimate, ShownMethod
from scripts.components.measures import SHOWN


def lora(rank: int, name: str = "") -> ShownMethod:
    return ShownMethod(name or f"lora-r{rank}", "lora", rank)


FULL = ShownMethod("full", "full", 0)


def colours(*methods: ShownMethod) -> list[tuple[float, ...]]:
    looks = style.looks(methods)
    return [to_rgb(looks[method.name].colour) for method in methods]


def test_three_ranks_have_the_colours_of_the_paper() -> None:
    # Read off the pictures of the paper's figures 1 and 2.
    expected = [to_rgb(code) for code in ("#dda0dd", "#6a5acd", "#00008b", "#000000")]
    assert colours(lora(16), lora(64), lora(256), FULL) == expected
    assert colours(lora(256), FULL, lora(16), lora(64)) == [expected[i] for i in (2, 3, 0, 1)]


@pytest.mark.parametrize(
    ("ranks", "named"),
    [
        ((8,), ["slateblue"]),
        ((1, 8), ["plum", "darkblue"]),
        ((1, 2, 4, 8, 16), ["plum", None, "slateblue", None, "darkblue"]),
    ],
)
def test_other_numbers_of_ranks_stay_on_the_papers_scale(ranks: tuple[int, ...], named: list[str | None]) -> None:
    found = colours(*(lora(rank) for rank in ranks))
    assert len(set(found)) == len(ranks)
    assert [colour for colour, name in zip(found, named, strict=True) if name] == [to_rgb(n) for n in named if n]
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in found]
    assert luminance == sorted(luminance, reverse=True), "a higher rank must be darker, for readers who see no hue"


def test_methods_of_equal_rank_can_be_told_apart() -> None:
    methods = [lora(8, "lora-r8-attention"), lora(8, "lora-r8-mlp"), FULL]
    looks = style.looks(methods)
    assert {look.label for look in looks.values()} == {
        "LoRA (r=8), lora-r8-attention",
        "LoRA (r=8), lora-r8-mlp",
        "full finetuning",
    }
    assert len(set(colours(*methods))) == 3


@pytest.mark.parametrize(
    "values",
    [(0.14, 0.26), (0.5, 0.5), (0.0, 0.4), (0.2, 1.0), (0.0, 0.0)],
)
def test_limits_leave_room_and_stay_near_what_is_possible(values: tuple[float, float]) -> None:
    low, high = style.limits(
        [Estimate(value, value - 0.01, value + 0.01, 1, True) for value in values], SHOWN["humaneval"]
    )
    assert low < min(values)
    assert max(values) < high
    assert low > -0.05
    assert high < 1.05
    if values[0] > 0:
        assert low < values[0] - 0.01, "bars lie inside too"
    if values[1] < 1:
        assert values[1] + 0.01 < high, "bars lie inside too"
    assert high - low < 2 * max(values[1] - values[0], 0.05)


def test_a_duration_axis_is_logarithmic_with_the_exact_labels() -> None:
    ax = Figure().add_subplot()
    style.duration_axis(ax, [Duration("64K", 64e3), Duration("128K", 128e3), Duration("384K", 384e3)], "tokens")
    assert list(ax.get_xticks()) == [64e3, 128e3, 384e3]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["64K", "128K", "384K"]
    assert all(label.get_rotation() > 0 for label in ax.get_xticklabels()), "token counts are turned"
    left, middle, right = (ax.transData.transform((x, 0))[0] for x in (64e3, 128e3, 256e3))
    assert middle - left == pytest.approx(right - middle), "each doubling is equally far"
    assert not len(ax.get_xticks(minor=True))
    low, high = ax.get_xlim()
    assert low < 64e3
    assert high > 384e3


def test_epochs_are_not_turned_and_one_duration_is_enough() -> None:
    ax = Figure().add_subplot()
    style.duration_axis(ax, [Duration("2", 2.0)], "epochs")
    assert [(label.get_text(), label.get_rotation()) for label in ax.get_xticklabels()] == [("2", 0.0)]
    assert ax.get_xlabel() == "Epochs"


def test_only_a_demo_says_demo_on_its_axes() -> None:
    assert style.axis_label(SHOWN["humaneval"], "paper") == "Accuracy in HumanEval"
    assert style.axis_label(SHOWN["gsm8k"], "demo") == "Accuracy in GSM8K (demo)"
    assert style.axis_label(SHOWN["forgetting"], "demo") == "Forgetting average (demo)"
    assert style.axis_label(SHOWN["forgetting"], "paper") == "Forgetting average"


@pytest.mark.parametrize("count", [1, 3, 9, 14])
def test_legend_lines_fit_the_page(count: int) -> None:
    handles = [Line2D([], [], label=f"LoRA (r={2**i}), lora-r{2**i}-all") for i in range(count)]
    lines = style._legend_lines(handles, 9.4)
    assert [handle for line in lines for handle in line] == handles
    figure = Figure(figsize=(10, 3))
    renderer = FigureCanvasAgg(figure).get_renderer()
    for line in lines:
        legend = figure.legend(
            handles=line, ncols=len(line), fontsize=9.5, handletextpad=0.5, handlelength=2.4,
            columnspacing=style.COLUMN_GAP, frameon=False,
        )  # fmt: skip
        assert legend.get_window_extent(renderer).width <= 10 * figure.dpi


def test_wrapped_text_fits_the_page() -> None:
    text = "fingerprint 0123456789ab, drawn at commit 0123456-dirty; " * 8
    figure = Figure(figsize=(10, 3))
    renderer = FigureCanvasAgg(figure).get_renderer()
    lines = style._wrap(text, 7.5, 9.4)
    assert " ".join(lines) == text.strip()
    for line in lines:
        drawn = figure.text(0, 0, line, fontsize=7.5)
        assert drawn.get_window_extent(renderer).width <= 9.4 * figure.dpi
