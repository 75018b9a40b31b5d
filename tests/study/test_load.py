"""How a study's file is read together with the study that it extends and the rates that its sweep chose."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.common.errors import UserError
from scripts.study.load import accepted_path, load_study

SMOKE = yaml.safe_load(Path("config/studies/smoke.yaml").read_text())


def write(directory: Path, name: str, content: dict[str, Any]) -> None:
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(content))


def without_rates() -> dict[str, Any]:
    study = copy.deepcopy(SMOKE)
    for setting in study["settings"].values():
        del setting["learning_rates"]
    return study


def choices(**rates: float) -> dict[str, Any]:
    return {
        "study": "mine",
        "settings": {
            setting: {name.replace("_", "-"): {"learning_rate": rate, "curve": []} for name, rate in rates.items()}
            for setting in SMOKE["settings"]
        },
    }


def test_an_extending_study_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "smoke", SMOKE)
    over = {"extends": "smoke", "title": "Mine", "seeds": [3], "settings": {"math-ift": {"durations": [4]}}}
    write(tmp_path, "mine", over)
    expected = copy.deepcopy(SMOKE)
    expected |= {"title": "Mine", "seeds": [3]}
    expected["settings"]["math-ift"]["durations"] = [4]
    write(tmp_path, "by-hand", expected)
    assert load_study("mine", tmp_path) == load_study("by-hand", tmp_path)
    assert load_study("smoke", tmp_path).seeds == [0]


def test_a_chain_of_studies(tmp_path: Path) -> None:
    write(tmp_path, "one", {**SMOKE, "extends": "two"})
    write(tmp_path, "two", {"extends": "three", "title": "two"})
    write(tmp_path, "three", {"extends": "one"})
    with pytest.raises(UserError, match="one extends two extends three extends one"):
        load_study("one", tmp_path)
    write(tmp_path, "three", SMOKE)
    assert load_study("two", tmp_path).title == "two"


def test_accepted_rates_are_the_studys_rates_and_are_inherited(tmp_path: Path) -> None:
    write(tmp_path, "mine", without_rates())
    assert load_study("mine", tmp_path).settings["code-cpt"].learning_rates == {}
    accepted_path("mine", tmp_path).write_text(yaml.safe_dump(choices(full=2e-4, lora_r2=4e-3)))
    write(tmp_path, "heir", {"extends": "mine", "seeds": [1, 2]})
    for name in ("mine", "heir"):
        for setting in load_study(name, tmp_path).settings.values():
            assert setting.learning_rates == {"full": 2e-4, "lora-r2": 4e-3}
    with pytest.raises(UserError, match=r"known studies are heir, mine$"):
        load_study("mine.learning_rates", tmp_path)


@pytest.mark.parametrize(
    ("study", "accepted", "expected"),
    [
        (SMOKE, choices(full=2e-4), r"settings.code-cpt.learning_rates.full stands in the study too"),
        (without_rates(), {"settings": {"chat": {}}}, "no setting 'chat'"),
        (without_rates(), {"settings": {"code-cpt": {"full": 1e-4}}}, "learning_rate and curve"),
        (without_rates(), {"rates": {}}, "learning_rate and curve"),
        (without_rates(), ["full"], "learning_rate and curve"),
        (without_rates(), choices(full=2.0), r"settings.code-cpt.learning_rates.full: .*less than 1"),
        (without_rates(), choices(lora_r9=1e-3), r"unknown method lora-r9"),
    ],
)
def test_accepted_rates_that_do_not_fit(study: dict[str, Any], accepted: Any, expected: str, tmp_path: Path) -> None:
    write(tmp_path, "mine", study)
    accepted_path("mine", tmp_path).write_text(yaml.safe_dump(accepted))
    with pytest.raises(UserError, match=expected) as raised:
        load_study("mine", tmp_path)
    assert "\n" not in str(raised.value)
