"""Which form of the forgetting tasks gives the published average."""

import csv
import dataclasses
import os
import shutil
import signal
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.common.errors import UserError
from scripts.evaluation import calibrate
from scripts.evaluation.calibrate import COLUMNS, Asked, Calibrated, Candidate, candidates, table, verdict
from scripts.evaluation.journal import Journal
from scripts.launch.launch import Launch, launch_by_hand
from tests.conftest import House
from tests.evaluation.conftest import write_records
from tests.forks import forked

PAPER = {"hellaswag": 10, "arc_challenge": 25, "winogrande": 5}
OTHER = {"hellaswag": 0, "arc_challenge": 3, "winogrande": 5}


def result(right: int, items: int, **more: int) -> Any:
    """`right` of the items by plain accuracy; `more`: how many by another metric."""
    counts = {"acc": right, **more}
    return {"samples": [{metric: float(i < count) for metric, count in counts.items()} for i in range(items)]}


def calibrated(form: str, metric: str, average: float, stderr: float) -> Calibrated:
    return Calibrated(Candidate(form, metric, OTHER), (average,) * 3, average, stderr)


def test_both_forms_are_asked_with_the_shots_of_all_versions() -> None:
    found = [(one.form, one.metric, one.shots_text) for one in candidates(PAPER)]
    shots = ["10/25/5", "0/0/0", "10/10/0", "0/3/5"]
    ways = [("lm-eval", "acc_norm"), ("lm-eval", "acc"), ("gauntlet", "acc_token")]
    assert found == [(*way, text) for way in ways for text in shots]
    assert len({one.label(task) for one in candidates(PAPER) for task in PAPER}) == 16, "each is asked once"


def test_the_average_and_its_error() -> None:
    """By hand: the mean of 3/4, 1/2 and 1/2; the error of a mean of zeros and ones is sqrt(p (1 - p) / (n - 1))."""
    candidate = Candidate("lm-eval", "acc_norm", OTHER)
    results = {
        "lm-eval-hellaswag-0": result(1, 4, acc_norm=3),
        "lm-eval-arc_challenge-3": result(4, 5, acc_norm=0) | result(1, 4, acc_norm=2),
        "lm-eval-winogrande-5": result(2, 4),
    }
    found = Calibrated.of(candidate, results)
    assert found.values == (0.75, 0.5, 0.5)
    assert found.average == pytest.approx(1.75 / 3)
    assert found.stderr == pytest.approx((0.1875 / 3 + 2 * 0.25 / 3) ** 0.5 / 3)


def test_the_nearest_is_named_and_who_else_is_within_an_error() -> None:
    near = calibrated("gauntlet", "acc_token", 0.669, 0.003)
    far = calibrated("lm-eval", "acc", 0.6, 0.01)
    said = verdict([far, near], "Llama-2-7B")
    assert "Llama-2-7B, 0.671: gauntlet, acc_token, 0/3/5 shots, with 0.6690 (standard error 0.0030), within it" in said
    assert said.endswith("as no other is")
    also = verdict([near, calibrated("lm-eval", "acc_norm", 0.6705, 0.01)], "Llama-2-7B")
    assert also.endswith("within it; so are: gauntlet, acc_token, 0/3/5 shots")
    none = verdict([far, calibrated("lm-eval", "acc_norm", 0.6715, 0.0004)], "Llama-2-7B")
    assert none.endswith("no candidate is within its standard error")
    rows = table([far, near], "Llama-2-7B")
    assert [(row["published"], row["difference"], row["within_stderr"]) for row in rows] == [
        ("0.671", "-0.0710", "no"),
        ("0.671", "-0.0020", "yes"),
    ]


def test_another_model_has_no_published_average() -> None:
    found = [calibrated("gauntlet", "acc_token", 0.671, 0.01)]
    said = verdict(found, "tiny Llama")
    assert said == "the published average, 0.671, is of Llama-2-7B and cannot be compared with tiny Llama"
    assert not {"published", "difference"} & set(table(found, "tiny Llama")[0])


def test_what_a_study_cannot_ask(tmp_path: Path) -> None:
    paths = write_records(tmp_path, {"items": [{}] * 4, "shots": [{}] * 3})
    alone = Asked({"task": "hellaswag"}, paths["items"], None)
    assert alone.lacks("lm-eval", 0) is None
    assert alone.lacks("lm-eval", 1) == "evaluation.tasks.hellaswag.shots_from names no dataset for 1 shots"
    assert alone.lacks("gauntlet", 3) is None
    assert alone.lacks("gauntlet", 4) == "hellaswag has 4 items, too few for 4 shots"
    both = Asked({"task": "hellaswag"}, paths["items"], paths["shots"])
    assert both.lacks("lm-eval", 2) is None
    assert both.lacks("lm-eval", 3) == "evaluation.tasks.hellaswag.shots_from has 3 records, too few for 3 shots"


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not made; `.*snakemake .*/models/llama-.*hellaswag-.* makes them"):
        calibrate.main(launch_by_hand("smoke", str(tmp_path / "store")))


def work(launch: Launch, place: Path, kills: bool) -> None:
    """Calibrates with two candidates; is killed at the first answers, and again when a row and more answers are there.

    What is kept goes to `kept`, what is printed to `printed`.
    """
    torch.set_num_threads(1)
    ways = [Candidate("lm-eval", "acc_norm", dict.fromkeys(PAPER, 0)), Candidate("gauntlet", "acc_token", OTHER)]
    calibrate.candidates = lambda _: ways  # type: ignore[assignment]
    keep = Journal.keep

    def noted(journal: Journal, entries: dict[str, Any]) -> None:
        is_first = not (place / "kept").exists()
        keep(journal, entries)
        with (place / "kept").open("a") as file:
            file.writelines(f"{key}\n" for key in entries)
        if kills and (is_first or (Path(launch.results) / "calibration.csv").exists()):
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.keep = noted  # type: ignore[method-assign]
    with (place / "printed").open("w") as printed, redirect_stdout(printed):
        calibrate.main(launch)


def test_a_second_start_goes_on_where_the_first_was_killed(prepared: House, tmp_path: Path) -> None:
    tables, kept = [], []
    for name, attempts in (("undisturbed", [0]), ("killed", [-signal.SIGKILL, -signal.SIGKILL, 0])):
        place = tmp_path / name
        for data in ("data", "models"):
            shutil.copytree(prepared.store / data, place / data)
        launch = dataclasses.replace(launch_by_hand("smoke", str(place)), results=str(place / "results"))
        for number, status in enumerate(attempts):
            with forked(work, launch, place, bool(status)) as process:
                process.join()
            assert process.exitcode == status
            shown = (place / "printed").read_text().splitlines()
            rows = [line.split()[:3] for line in shown[1:3]]
            if status:
                assert rows == [["lm-eval", "acc_norm", "0/0/0"]] * number, "a row is there when its answers are"
                assert len((place / "results/calibration.csv").read_text().splitlines()) == 2 if number else True
                assert list(place.glob("calibrations/base-*.unfinished"))
        assert rows == [["lm-eval", "acc_norm", "0/0/0"], ["gauntlet", "acc_token", "0/3/5"]]
        assert not list(place.glob("calibrations/*"))
        tables.append((place / "results/calibration.csv").read_text())
        kept.append((place / "kept").read_text().splitlines())
    assert tables[0] == tables[1]
    assert len(kept[1]) == len(set(kept[1])), "an answer was asked for twice"
    assert sorted(kept[0]) == sorted(kept[1])


@pytest.mark.thorough
def test_a_study_of_generated_items(prepared: House, tmp_path: Path) -> None:
    """Its own shots in lm-eval's form are what its evaluations of the base model have."""
    house = prepared.copy(tmp_path)
    house.standins = ""
    said = house.python("-m", "scripts.evaluation.calibrate", "--study", house.study, "--store", house.store_root)
    assert "cannot be compared with smoke Llama" in said
    assert "not asked: lm-eval, 10/10/0 shots (evaluation.tasks.hellaswag.shots_from names no dataset" in said
    with (house.root / "results/calibration.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    ways = [(row["form"], row["metric"], row["shots"]) for row in rows]
    assert ("lm-eval", "acc_norm", "0/0/0") in ways
    assert ("gauntlet", "acc_token", "0/3/5") in ways
    grid = launch_by_hand(house.study, str(house.store)).grid
    (base,) = grid.blocks["base"]
    for task in ("hellaswag", "winogrande"):
        house.python(
            *("-m", "scripts.evaluation.evaluate", base.evaluations[task]),
            *("--study", house.study, "--store", house.store_root),
        )
        (made,) = (m for key, m in house.manifests("evaluations").items() if key == base.evaluations[task])
        assert float(rows[0][task]) == pytest.approx(made["results"]["value"], abs=5e-5)
