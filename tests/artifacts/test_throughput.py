"""Figure S10 from made-up measurements: speed left, memory right, and the device by name."""

import math
from pathlib import Path

import pytest

from scripts.common.errors import UserError
from tests.artifacts import kinds
from tests.artifacts.conftest import assert_all_apart, data, footer, legend_entries, line, markers

BATCHES = [8, 16, 32, 64, 128, 256]
METHODS = ["full", "lora-r8", "lora-r32", "lora-r128", "lora-r512"]


def speed(method: str, batch: int) -> float:
    return 30_000.5 + 1000 * math.log2(batch) - 300 * METHODS.index(method)


def peak(method: str, batch: int) -> int:
    return 10**9 * (70 - METHODS.index(method)) + 10**7 * batch


def made(tmp_path: Path) -> Path:
    """The CSV; full finetuning does not fit from 128 rows on."""
    launch = kinds.launch(tmp_path)
    assert sorted(launch.grid.throughput) == sorted(METHODS)
    for method, key in launch.grid.throughput.items():
        points = [
            {"batch_rows": b, "pass_rows": 8, "tokens_per_second": speed(method, b), "peak_bytes": peak(method, b)}
            if method != "full" or b < 128
            else {"batch_rows": b, "pass_rows": 8, "tokens_per_second": None, "peak_bytes": None}
            for b in BATCHES
        ]
        results = {"device": "Some GPU 24GB", "devices": 1, "memory": "a statistic", "points": points}
        kinds.put(launch.store, key, results)
    kinds.collected(launch, "figS10", tmp_path / "figS10.csv")
    return tmp_path / "figS10.csv"


def test_speed_and_memory_of_every_method_over_the_batch(tmp_path: Path) -> None:
    drawn = kinds.figure(made(tmp_path), "figS10")
    left, right = drawn.axes
    assert left.get_position().x1 < right.get_position().x0
    for method in METHODS:
        fit = [batch for batch in BATCHES if method != "full" or batch < 128]
        assert data(line(left, method)) == [(batch, speed(method, batch)) for batch in fit]
        assert data(line(right, method)) == [(batch, pytest.approx(peak(method, batch) / 1e9)) for batch in fit]
    for ax in drawn.axes:
        assert len(markers(ax)) == 4 * 6 + 4
        assert ax.get_xscale() == "log"
        assert [label.get_text() for label in ax.get_xticklabels()] == [str(batch) for batch in BATCHES]
        low, high = ax.get_ylim()
        assert all(low < y < high for found in markers(ax) for _, y in data(found))
    assert "GB" in right.get_ylabel()
    assert legend_entries(drawn) == [f"LoRA (r={rank})" for rank in (8, 32, 128, 512)] + ["full finetuning"]
    for part in (
        "Measured on Some GPU 24GB, 1 device; the paper measured on 8 H100", "Rows of 4096 tokens, bf16",
        "at most 8 in one",
        "Peak memory: a statistic", "Out of memory: full finetuning (batch 128, 256)",
    ):  # fmt: skip
        assert part in footer(drawn)
    assert_all_apart(drawn)


def test_a_method_that_never_fits_is_not_drawn(tmp_path: Path) -> None:
    rows = kinds.rows(made(tmp_path))
    for row in rows:
        if row["method"] == "full":
            row["value"] = row["peak_bytes"] = ""
    drawn = kinds.figure(kinds.write(tmp_path / "never.csv", rows), "figS10")
    assert all(len(markers(ax)) == 24 for ax in drawn.axes)
    assert "Out of memory: full finetuning (batch 8, 16, 32, 64, 128, 256)" in footer(drawn)
    assert "not there yet" not in footer(drawn)
    with pytest.raises(UserError, match="method full, batch_rows 8, where"):
        kinds.figure(kinds.write(tmp_path / "twice.csv", [*rows, rows[0]]), "figS10")
