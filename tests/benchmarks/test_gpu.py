"""The run for a GPU, on the CPU: every part does its work, and none takes the others with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import runner, speed
from benchmarks.gpu.models import LLAMA_2_7B
from benchmarks.gpu.runner import PARTS, Part, lacking, limits, missing, run_parts, told
from scripts.common.files import ROOT


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    called = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(called, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def records(directory: Path) -> dict[str, dict[str, Any]]:
    lines = (directory / "gpu.jsonl").read_text().splitlines()
    return {record["part"]: record for record in map(json.loads, lines)}


@pytest.mark.thorough
def test_every_part_runs_on_the_cpu(tmp_path: Path) -> None:
    """The same code as on a GPU, but for what only a GPU executes."""
    done = command("--device", "cpu", "--tiny", "--minutes", "10", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(tmp_path)
    assert list(found) == [part.name for part in PARTS]
    for name, record in found.items():
        assert (record["status"], record["error"], record["tiny"]) == ("done", None, True), name
        assert f"{name}: done after" in done.stdout
        assert record["device"]
        assert record["versions"]["torch"]
        assert record["code"] == runner.code()
    correct = found["correct"]["figures"]
    assert all(figure["holds"] for figure in correct.values() if "holds" in figure)
    assert {"lora-r16-dropout-0.05, within, fp32, checkpointed", "full, across, fp32, compiled"} <= correct.keys()
    assert "greedy text and likelihoods" in correct
    undisturbed = {"status after SIGTERM": 75, "saved": True, "went on from": 3, "files that differ": []}
    assert [correct[f"{method}, resume"] for method in ("lora-r16-dropout-0.05", "full")] == [undisturbed] * 2
    for method in ("lora-r16-dropout-0.05", "lora-r16", "full, 4 layers by 2 and 1"):
        assert found["speed"]["figures"][method]["tokens/s"] > 0
    assert len(found["speed"]["figures"]["lora-r16, longest kernels of one pass"]) == speed.KERNELS
    assert found["peer"]["figures"]["lora-r16, dropout 0.05, ours over peft"]["speed"] > 0
    assert found["evaluate"]["figures"]["the harness's device"] == {"device": "cpu"}
    assert found["evaluate"]["figures"]["programs"]["tokens/s"] > 0
    assert found["spectra"]["figures"]["Gram matrix, error over the largest value"]["holds"]
    assert found["tests"]["figures"]["tests"]["failed"] == 0
    assert found["tests"]["figures"]["tests"]["skipped"] > 5


@pytest.mark.thorough
def test_a_part_that_ends_badly_is_a_result_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "LEAST_SECONDS", 1.0)
    names = ("lasts", "raises", "errs", "lacks", "tells")
    parts = [
        Part(name, 15 if name == "lasts" else 60, ("torch",), "", package="tests.benchmarks.parts") for name in names
    ]
    parts.insert(0, Part("asks", 60, ("torch", "no-such-package", "nor-this"), ""))
    # the one that lasts has its own 15 seconds and no more: the others may take what is left
    good = run_parts(parts, sum(part.seconds for part in parts[1:]) / 60, "cpu", True, tmp_path / "gpu.jsonl")
    assert not good
    found = records(tmp_path)
    assert list(found) == ["asks", *names]
    assert {name: record["status"] for name, record in found.items()} == {
        "asks": "skipped", "lasts": "cut off", "raises": "failed", "errs": "failed", "lacks": "skipped",
        "tells": "done",
    }  # fmt: skip
    errors = {name: record["error"] for name, record in found.items()}
    assert errors == {
        "asks": "needs no-such-package and nor-this, which are not installed",
        "lasts": "took more than 15 s, in main (tests/benchmarks/parts/lasts.py, line 10)",
        "raises": "ValueError: the reason",
        "errs": "first: RuntimeError: no such kernel; second: loss is nan, above 1",
        "lacks": "needs no_such_package, which is not installed",
        "tells": None,
    }
    figures = {name: record["figures"] for name, record in found.items()}
    assert figures["lasts"] == figures["raises"] == {"before": 1}
    assert figures["errs"]["third"] == {"tokens/s": 1.0}
    assert figures["tells"] == {"speed": {"tokens/s": 12345.6, "steps": [1, 2]}, "error": {"holds": True, "loss": 1e-6}}
    assert found["tells"]["notes"] == ["a remark"]
    said = capsys.readouterr().out
    assert "  tells, speed: tokens/s 12,346, steps 1; 2\n" in said
    assert "raises: failed after" in said


def test_nothing_is_begun_that_cannot_end(tmp_path: Path) -> None:
    part = Part("tells", 60, (), "", package="tests.benchmarks.parts")
    assert not run_parts([part], 0.1, "cpu", True, tmp_path / "gpu.jsonl")
    record = records(tmp_path)["tells"]
    assert (record["status"], record["error"]) == ("cut off", "6 s of 0.1 minutes were left")


def test_a_part_may_take_what_the_later_ones_leave() -> None:
    parts = [Part(name, 50, (), "") for name in "abc"]
    assert [round(limit) for _, limit in limits(parts, 5)] == [200, 250, 300]  # none has taken any time yet
    assert [round(limit) for _, limit in limits(parts, 2)] == [50, 70, 120]
    assert [round(limit) for _, limit in limits(parts, 0.5)] == [30, 30, 30]


def test_missing_packages_are_one_sentence() -> None:
    assert missing(("torch", "torch-optimi", "lm-eval")) == []
    assert missing(("torch", "no-such-package")) == ["no-such-package"]
    assert lacking(["a"]) == "needs a, which is not installed"


def test_figures_are_printed_in_a_line() -> None:
    figure = {"tokens/s": 11361.2, "MFU": 0.53812, "reached": False, "layers": 32, "error": 2.5e-9, "files": []}
    assert told(figure) == "tokens/s 11,361, MFU 0.5381, reached False, layers 32, error 2.5e-09, files "


def test_the_code_is_known_where_there_is_no_git(tmp_path: Path) -> None:
    for folder in ("scripts", "benchmarks/gpu", "tests/gpu"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scripts" / "a.py").write_text("1\n")
    before = runner.code(tmp_path)
    (tmp_path / "scripts" / "a.txt").write_text("no code")
    assert runner.code(tmp_path) == before
    (tmp_path / "benchmarks" / "gpu" / "b.py").write_text("2\n")
    assert runner.code(tmp_path) != before


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    for arguments, said in (
        (("--device", "cpu"), "--device cpu: takes --tiny as well"),
        (("--minutes", "0"), "--minutes: must be above 0, not 0"),
    ):
        done = command(*arguments, "--out", str(tmp_path))
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {said}")
    assert not list(tmp_path.iterdir())


def test_parts_are_listed_without_running_any() -> None:
    done = command("--list")
    assert done.returncode == 0
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        [part.name, str(part.seconds), "s"] for part in PARTS
    ]


@pytest.mark.parametrize(("gigabytes", "layers"), [(85.0, 16), (150.0, 32), (40.0, 8)])
def test_as_many_layers_are_trained_fully_as_leave_room(gigabytes: float, layers: int) -> None:
    """Of an H100, an H200 and less; 32 layers have 12 bytes for each of 6.74e9 parameters."""
    assert LLAMA_2_7B.parameters(32) == 6_738_415_616
    assert speed.layers_that_fit(LLAMA_2_7B, int(gigabytes * 1e9)) == layers


def test_the_time_of_all_layers_is_that_of_two_numbers_of_them() -> None:
    assert speed.extrapolated({8: 1.0, 16: 1.5}, 32) == pytest.approx(2.5)
    assert speed.extrapolated({16: 1.5, 8: 1.6}, 32) == 1.5, "no fewer than were measured"


def test_gaps_are_what_no_kernel_covers() -> None:
    """The second begins before the first has ended; the third follows after a pause, the last one at once."""
    found = speed.gaps([(0.0, 2.0), (1.0, 3.0), (4.0, 5.0), (5.0, 10.0)])
    assert found == {"share of the time": 0.1, "longest, seconds": 1.0, "longer than 10 us": 1, "kernels": 4}
