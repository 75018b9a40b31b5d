"""Figure 6 from made-up spectra, whose ranks are known."""

from pathlib import Path

import numpy
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb
from safetensors.numpy import save

from scripts.common.errors import UserError
from tests.artifacts import kinds
from tests.artifacts.conftest import assert_all_apart, data, footer, legend_entries

pytestmark = pytest.mark.arithmetic

SIZE, LAYERS = 20, 3
MODULES = {name: "self_attn" if name[0] in "qkvo" else "mlp" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
MODULES |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp")
DURATIONS = ["0.25B", "0.5B", "1B", "2B", "4B", "8B", "16B", "20B"]


def rank(duration: str, layer: int, module: str) -> int:
    """The rank that a matrix is made with: another one in each panel, layer and line."""
    return 1 + DURATIONS.index(duration) + layer + list(MODULES).index(module)


def equal_values(count: int) -> numpy.ndarray:
    """Singular values of which exactly `count` are needed for 90 %: all equal, then some that are nearly nothing."""
    return numpy.array([2.0] * count + [1e-6] * (SIZE - count))


def made(tmp_path: Path) -> Path:
    launch = kinds.launch(tmp_path)
    for condition in kinds.conditions("spectra"):
        if condition.method == "full":
            values = {
                f"delta.model.layers.{layer}.{place}.{module}": equal_values(rank(condition.duration, layer, module))
                for layer in range(LAYERS)
                for module, place in MODULES.items()
            }
            key = condition.evaluations["spectra"]
            kinds.put(launch.store, key, {}, spectra__safetensors=save(values))
    kinds.collected(launch, "fig6", tmp_path / "fig6.csv")
    return tmp_path / "fig6.csv"


def needed(count: int) -> int:
    """Of equal values so many make 90 %."""
    return int(numpy.ceil(0.9 * count - 1e-9))


def test_every_kind_of_matrix_has_a_panel_of_ranks_over_layers(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert len(kinds.rows(path)) == len(DURATIONS) * LAYERS * len(MODULES)
    drawn = kinds.figure(path, "fig6")
    assert [ax.get_label() for ax in drawn.axes] == list(MODULES)
    for ax in drawn.axes:
        lines = {str(found.get_gid()): found for found in ax.lines}
        assert set(lines) == {*DURATIONS, "full rank"}
        for duration in DURATIONS:
            ranks = [(layer, needed(rank(duration, layer, ax.get_label()))) for layer in range(LAYERS)]
            assert data(lines[duration]) == ranks
        assert list(lines["full rank"].get_ydata()) == [SIZE, SIZE]
        assert f"full rank {SIZE}" in [text.get_text() for text in ax.texts]
        brightness = [rgb_to_hsv(to_rgb(lines[duration].get_color()))[2] for duration in DURATIONS]
        assert brightness == sorted(brightness), "lighter is trained longer"
        assert len({lines[duration].get_color() for duration in DURATIONS}) == len(DURATIONS)
        assert ax.get_ylim() == drawn.axes[0].get_ylim()
        assert ax.get_ylim()[1] > SIZE
    assert legend_entries(drawn) == ["Training tokens:", *DURATIONS]
    assert "StarCoder-Python, full finetuning" in footer(drawn)
    assert_all_apart(drawn)


def test_what_is_missing_is_not_drawn_and_seeds_are_lines_of_their_own(tmp_path: Path) -> None:
    rows = kinds.rows(made(tmp_path))
    for row in rows:
        if row["duration"] == "2B" and row["layer"] == "1" and row["module"] == "q_proj":
            row["value"] = ""
    other = [{**row, "seed": 1, "condition": f"1{row['condition']}"} for row in rows if row["duration"] == "20B"]
    drawn = kinds.figure(kinds.write(tmp_path / "seeds.csv", [*rows, *other]), "fig6")
    query = drawn.axes[0]
    (short,) = [found for found in query.lines if found.get_gid() == "2B"]
    assert [x for x, _ in data(short)] == [0, 2]
    assert len([found for found in query.lines if found.get_gid() == "20B"]) == 2
    assert "Matrices that are not there yet: 1" in footer(drawn)
    assert "A line for each of 2 seeds" in footer(drawn)


def test_several_settings_are_too_many(tmp_path: Path) -> None:
    rows = kinds.rows(made(tmp_path))
    rows[0]["setting"] = "math-cpt"
    with pytest.raises(UserError, match="setting: has math-cpt, code-cpt, where one is allowed"):
        kinds.figure(kinds.write(tmp_path / "two.csv", rows), "fig6")
