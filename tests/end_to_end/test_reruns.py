"""Launches: edited under way, from another environment, by hand. What runs again after what: see test_identity_*."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import House
from tests.end_to_end.test_identity_at_random import rename_method
from tests.end_to_end.truth import FIG2, check_truth

pytestmark = pytest.mark.thorough


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
    check_truth(house, prepared, tmp_path)


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
    check_truth(house, prepared, tmp_path)


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


def test_family_grain_trains_only_what_is_new(prepared: House, tmp_path: Path) -> None:
    house = prepared.copy(tmp_path)
    house.run()
    # code-cpt, each method: legs to 8 and 16 batches, branches 8->10 and 16->20; math-ift: epochs 1 and 2
    steps = house.steps()
    house.edit(lambda study: study["settings"]["code-cpt"].update(durations=[2560, 3840, 5120]))
    assert house.plan() == {"train_family": 2, "evaluate_family": 2, "collect": 1, "draw": 1}
    done = house.run()
    # 3840 tokens are 15 batches: from the leg end at 8 (the cooldown starts at 12), so 7 steps for each method
    assert house.steps() - steps == 2 * 7
    assert sum(name.startswith("evaluated") for name in done) == 2 * 4
    assert house.plan() == {}


def test_a_method_renamed(house: House) -> None:
    """Nothing is trained or evaluated, and all behind the figure has its new name: models that nobody asks for, too."""

    def numbers() -> list[tuple[str, str, str]]:
        rows = csv.DictReader(house.csv().splitlines())
        return sorted((row["evaluations"], row["value"], row["tokens"]) for row in rows)

    before = numbers()
    house.edit(rename_method)
    assert house.plan() == {"collect": 1, "draw": 1}
    assert not house.run()
    assert numbers() == before
    assert {key.split("/")[2] for key in house.manifests("runs/code-cpt")} == {"full", "lora-r2", "adapter"}
    assert "are whole" in house.python("-m", "scripts.planning.verify", "--study", house.study)
