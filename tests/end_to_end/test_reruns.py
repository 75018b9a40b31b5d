"""What did not change does not run: events that leave every model as it is, and a figure that is true to the study.

A figure is true when its CSV equals the one that a fresh checkout makes of the same study with nothing trained.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House
from tests.end_to_end.truth import FIG2, check_truth, condition_grain

pytestmark = pytest.mark.thorough


def test_every_file_touched(house: House) -> None:
    files = [path for path in house.root.rglob("*") if path.is_file() and ".snakemake" not in path.parts]
    random.Random(0).shuffle(files)
    for path in files:
        os.utime(path)
    assert house.plan() == {}


def test_keys_reordered_and_comments_added(house: House) -> None:
    def reverse(value: Any) -> Any:
        return {key: reverse(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    house.edit(lambda study: (reversed_ := reverse(dict(study)), study.clear(), study.update(reversed_)))
    house.study_file.write_text("# a comment\n" + house.study_file.read_text())
    assert house.plan() == {}


def test_fresh_clone_with_the_same_store(house: House, tmp_path: Path) -> None:
    clone = house.clone(tmp_path, keep_store=True)
    assert clone.plan() == {"collect": 1, "draw": 1}
    assert not clone.run()
    check_truth(clone, tmp_path)


def test_restyled_figure(house: House) -> None:
    before = (house.root / FIG2).read_bytes(), house.csv()
    style = house.root / "scripts/artifacts/style.py"
    text = style.read_text()
    assert text.count('"slateblue"') == 1  # of the only LoRA rank in this study
    style.write_text(text.replace('"slateblue"', '"seagreen"'))
    assert house.plan() == {"draw": 1}
    assert not house.run()
    assert (house.root / FIG2).read_bytes() != before[0]
    assert house.csv() == before[1]
    assert house.plan() == {}


def test_another_study_in_between(house: House, tmp_path: Path) -> None:
    other = house.root / "config/studies/other.yaml"
    shutil.copyfile(house.study_file, other)
    house.study = "other"
    house.edit(lambda study: study["settings"].pop("math-ift"))
    # the other study has the same conditions, less one setting: everything it needs is there
    assert house.plan() == {"card": 1, "collect": 1, "draw": 1}
    house.run()
    assert "other" in house.csv()
    house.study = "smoke"
    assert house.plan() == {"collect": 1, "draw": 1}
    assert not house.run()
    check_truth(house, tmp_path)


def test_environment_made_anew_elsewhere(house: House, tmp_path: Path) -> None:
    """Another virtual environment's interpreter, at another path, finds everything made."""
    elsewhere = tmp_path / "elsewhere"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(elsewhere)], check=True)
    library = next((elsewhere / "lib").glob("python*/site-packages"))
    (library / "packages.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    done = subprocess.run(
        [str(elsewhere / "bin" / "python"), *house.command(FIG2)[1:]],
        cwd=house.root,
        env=house.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr


def test_grain_switched(house: House, tmp_path: Path) -> None:
    before, steps = house.csv(), house.steps()
    house.edit(lambda study: study.update(grain="family"))
    assert house.plan() == {"train_family": 4, "evaluate_family": 5, "collect": 1, "draw": 1}
    evaluated = house.run()
    # the families find every trained model; what fig2 did not need is new: the learning tasks
    assert house.steps() == steps
    assert sorted(evaluated.values()) == [1] * len(evaluated)
    assert {name.split()[-1] for name in evaluated} == {"humaneval", "gsm8k"}
    assert house.csv() == before
    check_truth(house, tmp_path)
    house.edit(condition_grain)
    assert house.plan() == {"collect": 1, "draw": 1}
    assert not house.run()
    assert house.csv() == before


def launch(house: House) -> tuple[subprocess.Popen[str], list[str]]:
    """Starts the pipeline and returns when its head has planned and no job has started, with what it said."""
    process = subprocess.Popen(
        house.command(FIG2),
        cwd=house.root,
        env=house.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("Study smoke:"):
            break
    return process, said


def finish(process: subprocess.Popen[str], said: list[str]) -> str:
    """Waits for a launch and returns all that it said."""
    assert process.stdout is not None
    said += process.stdout.readlines()
    process.wait()
    return "".join(said)


@pytest.mark.parametrize("edit", ["changed", "deleted", "broken"])
def test_study_edited_between_launch_and_job(prepared: House, tmp_path: Path, edit: str) -> None:
    house = prepared.copy(tmp_path)
    original = house.study_file.read_text()
    process, said = launch(house)
    if edit == "changed":
        house.edit(lambda study: study["settings"]["code-cpt"]["learning_rates"].update(full=0.5))
    elif edit == "deleted":
        house.study_file.unlink()
    else:
        house.study_file.write_text("settings: : [\n")
    text = finish(process, said)
    assert process.returncode == 0, text
    rates = {
        (manifest["spec"].get("trunk") or manifest["spec"])["optimizer"]["learning_rate"]
        for manifest in house.manifests("runs").values()
    }
    assert rates == {4e-4, 2e-3}
    house.study_file.write_text(original)
    check_truth(house, tmp_path)


def test_code_changed_between_launch_and_job(prepared: House, tmp_path: Path) -> None:
    house = prepared.copy(tmp_path)
    module = house.root / "scripts/training/schedules.py"
    original = module.read_text()
    process, said = launch(house)
    module.write_text(original + "\nCHANGED = True\n")
    text = finish(process, said)
    assert process.returncode != 0
    assert "the code behind 'trainer' changed after this launch started" in text
    assert not house.manifests("runs")
    module.write_text(original)
    house.run()
    check_truth(house, tmp_path)


def test_a_condition_by_hand(prepared: House, tmp_path: Path) -> None:
    """The command line that a rule uses, typed by a person: by name, in order, one sentence when something lacks."""
    house = prepared.copy(tmp_path)
    train = ["-m", "scripts.training.train", "--study", "smoke"]
    said = house.python(*train, "code-cpt/full/2.56K-seed0", ok=False)
    assert said.startswith("error: ")
    assert "legs/code-cpt/full/2.048K" in said
    assert said.count("\n") == 1
    assert "code-cpt/full/9K" in house.python(*train, "code-cpt/full/9K-seed0", ok=False)
    house.python(*train, "legs/code-cpt/full/2.048K-seed0")
    house.python(*train, "code-cpt/full/2.56K-seed0")
    house.python(*train, "code-cpt/full/2.56K-seed0")
    lines = house.log.read_text().splitlines()
    assert len(lines) == 2
    # what was made by hand is what the pipeline would have made
    assert house.plan()["train_family"] == 4
    house.run()
    assert len({line.split()[1] for line in house.log.read_text().splitlines() if line.startswith("trained")}) == 12
    assert sum(line.startswith("trained") for line in house.log.read_text().splitlines()) == 12
