"""The figures that draw all LoRA configurations as one: lowest, mean and highest of each duration."""

from pathlib import Path
from typing import Any

import numpy
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from tests.artifacts.blocks import artifact, drawn, full, lora, row
from tests.artifacts.conftest import (
    LABELS,
    SETTINGS,
    Row,
    assert_all_apart,
    bars,
    base_row,
    data,
    footer,
    learning_task,
    legend_entries,
    line,
    markers,
    pick,
)

pytestmark = pytest.mark.arithmetic

SETS = ("attention", "mlp without gate", "all without gate")
CONFIGURATIONS = [lora(rank, 32, chosen) for rank in (16, 256) for chosen in SETS]
ALL = (full(), *CONFIGURATIONS)
BASE = {"humaneval": 0.13, "gsm8k": 0.15, "forgetting": 0.6}
ARTIFACTS = {need: artifact("bands", need, name=f"v1/fig{2 + i}", edition="v1") for i, need in
             enumerate(("learning", "forgetting"))}  # fmt: skip


def durations(setting: str) -> tuple[str, ...]:
    return ("64K", "128K", "256K") if setting.endswith("cpt") else ("1", "2", "4")


def study(names: tuple[str, ...] = SETTINGS, methods: Any = ALL, **more: Any) -> list[Row]:
    return [base_row(metric, value) for metric, value in BASE.items()] + [
        row(method, name, duration, metric, **more)
        for name in names
        for method in methods
        for duration in durations(name)
        for metric in (learning_task(name), "forgetting")
    ]


def band(ax: Axes) -> list[tuple[float, float, float]]:
    """Place, lower and upper end of the filled band, off its outline."""
    (filled,) = [found for found in ax.collections if isinstance(found, PolyCollection) and found.get_gid() == "LoRA"]
    corners = filled.get_paths()[0].vertices
    places = sorted({float(x) for x, _ in corners})
    return [(at, min(y for x, y in corners if x == at), max(y for x, y in corners if x == at)) for at in places]


@pytest.mark.parametrize("need", ARTIFACTS)
def test_a_band_is_the_lowest_mean_and_highest_of_the_configurations(tmp_path: Path, need: str) -> None:
    rows = study()
    made = drawn(tmp_path, ARTIFACTS[need], rows[::-1])
    assert [ax.get_label() for ax in made.axes] == list(SETTINGS)
    for ax in made.axes:
        setting = ax.get_label()
        metric = learning_task(setting) if need == "learning" else need
        found = [
            numpy.array([
                pick(rows, setting=setting, metric=metric, method=method["method"], duration=duration)
                for method in CONFIGURATIONS
            ])
            for duration in durations(setting)
        ]  # fmt: skip
        places = [LABELS[duration] for duration in durations(setting)]
        mean = data(line(ax, "LoRA"))
        assert [x for x, _ in mean] == places
        assert [y for _, y in mean] == pytest.approx([values.mean() for values in found])
        assert data(line(ax, "LoRA, lowest")) == [(x, v.min()) for x, v in zip(places, found, strict=True)]
        assert data(line(ax, "LoRA, highest")) == [(x, v.max()) for x, v in zip(places, found, strict=True)]
        assert band(ax) == [(x, v.min(), v.max()) for x, v in zip(places, found, strict=True)]
        whole = [
            (LABELS[d], pick(rows, setting=setting, metric=metric, method="full", duration=d))
            for d in durations(setting)
        ]
        assert data(line(ax, "full")) == whole
        assert to_hex(line(ax, "full").get_color()) == "#000000"
        assert not line(ax, "full").is_dashed()
        assert len(markers(ax)) == 6
        assert len(bars(ax)) == 3, "only full finetuning has bars"
        assert list(line(ax, "base model").get_ydata()) == [BASE[metric]] * 2
        low, high = ax.get_ylim()
        assert all(low < y < high for _, *ends in band(ax) for y in ends)
    assert legend_entries(made) == ["LoRA, mean", "LoRA, lowest to highest", "full finetuning", "base model"]
    assert "LoRA at one duration: 6 configurations, of LoRA (r=16, attention), LoRA (r=16, MLP" in footer(made)
    assert_all_apart(made)


def test_a_configuration_that_is_missing_is_left_out(tmp_path: Path) -> None:
    rows = study(("code-ift",))
    values = sorted((r["value"], r["method"]) for r in rows if r.get("duration") == "2" and r["metric"] == "humaneval"
                    and r["kind"] == "lora")  # fmt: skip
    gone = {"method": values[0][1], "duration": "2", "metric": "humaneval"}
    rows = [{**found, "value": ""} if gone.items() <= found.items() else found for found in rows]
    made = drawn(tmp_path, ARTIFACTS["learning"], rows)
    (ax,) = made.axes
    assert band(ax)[1] == (2.0, values[1][0], values[-1][0])
    assert data(line(ax, "LoRA"))[1][1] == pytest.approx(numpy.mean([value for value, _ in values[1:]]))
    assert "5 to 6 configurations" in footer(made)
    assert "1 more not there yet" in footer(made)


def test_one_duration_still_shows_its_ends(tmp_path: Path) -> None:
    rows = [found for found in study(("code-ift",), CONFIGURATIONS) if found.get("duration") in (None, "2")]
    made = drawn(tmp_path, ARTIFACTS["learning"], rows)
    values = [found["value"] for found in rows if found["kind"] == "lora" and found["metric"] == "humaneval"]
    assert [data(found) for found in bars(made.axes[0])] == [[(2.0, min(values)), (2.0, max(values))]]
    assert legend_entries(made) == ["LoRA, mean", "LoRA, lowest to highest", "base model"]


def test_without_lora_there_is_no_band(tmp_path: Path) -> None:
    made = drawn(tmp_path, ARTIFACTS["forgetting"], study(methods=(full(),)))
    assert not any(ax.collections for ax in made.axes)
    assert legend_entries(made) == ["full finetuning", "base model"]
    assert "LoRA" not in footer(made)


def test_a_mean_of_models_from_elsewhere_is_hollow(tmp_path: Path) -> None:
    rows = study(("code-ift",))
    for found in rows:
        if found["kind"] == "lora" and found["rank"] == 16:
            found["source"] = "published"
    (ax,) = drawn(tmp_path, ARTIFACTS["learning"], rows).axes
    hollow = {data(found)[0] for found in markers(ax) if found.get_markerfacecolor() == "white"}
    assert hollow == set(data(line(ax, "LoRA")))
