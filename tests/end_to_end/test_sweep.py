"""A sweep over learning rates from its plan to the rates of the study, with quick models and everything else real."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import House

pytestmark = pytest.mark.thorough

RATES = "results/learning_rates.yaml"
ACCEPT = ["-m", "scripts.artifacts.accept_rates", "--study", "smoke"]
FIG2 = "results/figures/fig2.pdf"


def no_rates(study: dict[str, Any]) -> None:
    study["grain"] = "condition"
    for setting in study["settings"].values():
        del setting["learning_rates"]


@pytest.fixture(scope="module")
def swept(prepared: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    """A study without rates of its own whose sweep has been run."""
    house = prepared.copy(tmp_path_factory.mktemp("swept"))
    house.edit(no_rates)
    # 2 settings x 2 methods x 2 rates at one duration, validation items only; one leg for each trunk of the CPT setting
    assert house.plan(RATES) == {"train_leg": 4, "train_run": 8, "sample": 8, "judge": 8, "learning_rates": 1}
    asked = house.run(RATES)
    assert {name.split()[-1] for name in asked if name.startswith("evaluated")} == {"humaneval", "gsm8k"}
    assert house.plan(RATES) == {}
    return house


@pytest.fixture
def house(swept: House, tmp_path: Path) -> House:
    return swept.copy(tmp_path)


@pytest.fixture
def accepted(house: House) -> House:
    house.python(*ACCEPT)
    return house


def at_family_grain(house: House) -> None:
    """Half a second a job adds up; what a job does is the same."""
    house.edit(lambda study: study.update(grain="family"))


def choices(house: House, path: str = RATES) -> Any:
    return yaml.safe_load((house.root / path).read_text())


def test_the_choice_is_the_highest_score_in_the_store(house: House) -> None:
    scores: dict[tuple[str, str], dict[float, float]] = {}
    runs = house.manifests("runs")
    for key, evaluation in house.manifests("evaluations").items():
        _, setting, method, run, _ = key.split("/")
        spec = runs[f"runs/{setting}/{method}/{run}"]["spec"]
        rate = spec.get("trunk", spec)["optimizer"]["learning_rate"]
        scores.setdefault((setting, method), {})[rate] = evaluation["results"]["value"]
    chosen = {
        (setting, method): choice["learning_rate"]
        for setting, methods in choices(house)["settings"].items()
        for method, choice in methods.items()
    }
    assert chosen == {cell: max(curve, key=lambda rate: curve[rate]) for cell, curve in scores.items()}
    for (setting, method), curve in scores.items():
        points = choices(house)["settings"][setting][method]["curve"]
        assert {point["learning_rate"]: point["score"] for point in points} == curve


def test_figures_want_the_rates_first(house: House) -> None:
    said = house.snakemake(FIG2, ok=False)
    (error,) = (line for line in said.splitlines() if line.startswith("error:"))
    assert "no learning rate for full, lora-r2" in error
    assert f"snakemake {RATES}" in error
    assert "scripts.artifacts.accept_rates" in error


def test_accepted_rates_become_the_studys(house: House) -> None:
    before = {path: path.read_bytes() for path in (house.root / "config").rglob("*") if path.is_file()}
    said = house.python(*ACCEPT)
    after = {path: path.read_bytes() for path in (house.root / "config").rglob("*") if path.is_file()}
    (new,) = after.keys() - before.keys()
    assert new.name == "smoke.learning_rates.yaml"
    assert all(after[path] == content for path, content in before.items())
    assert "code-cpt full: " in said
    # what the sweep trained at the chosen rates is found: CPT 2,560 tokens with its leg, IFT 1 epoch
    plan = house.plan()
    assert (plan["train_leg"], plan["train_run"]) == (4 - 2, 8 - 4)
    at_family_grain(house)
    house.run()
    rates = {
        (key.split("/")[1], key.split("/")[2]): row["spec"].get("trunk", row["spec"])["optimizer"]["learning_rate"]
        for key, row in house.manifests("runs").items()
        if "/2-seed0" in key or "/5.12K-seed0" in key
    }
    settings = choices(house)["settings"]
    assert rates == {(s, m): settings[s][m]["learning_rate"] for s in settings for m in settings[s]}
    # and the sweep, asked again at its own grain, is what it was
    house.edit(lambda study: study.update(grain="condition"))
    assert house.plan(RATES) == {}


def test_the_check_says_when_rates_no_longer_follow(accepted: House) -> None:
    assert "follows from the sweep" in accepted.python(*ACCEPT, "--check")
    path = accepted.root / "config/studies/smoke.learning_rates.yaml"
    original = path.read_text()

    file = yaml.safe_load(original)
    cell = file["settings"]["code-cpt"]["full"]
    cell["learning_rate"] = next(
        p["learning_rate"] for p in cell["curve"] if p["learning_rate"] != cell["learning_rate"]
    )
    path.write_text(yaml.safe_dump(file))
    said = accepted.python(*ACCEPT, "--check", ok=False)
    assert "settings.code-cpt.full" in said
    assert "the rule takes" in said
    assert said.count("\n") == 1

    path.write_text(original)
    accepted.edit(lambda study: study["settings"]["code-cpt"]["sweep"]["learning_rates"].update(full=[2e-4, 8e-4]))
    said = accepted.python(*ACCEPT, "--check", ok=False)
    assert "settings.code-cpt.full: comes from another sweep" in said
    # one new rate is one more run with its leg; a launch goes on with the committed rates, and says so
    assert accepted.plan(RATES) == {"train_leg": 1, "train_run": 1, "sample": 1, "judge": 1, "learning_rates": 1}
    assert "Note: config/studies/smoke.learning_rates.yaml: settings.code-cpt.full" in accepted.snakemake(RATES)


def test_a_result_that_does_not_follow_is_not_accepted(house: House) -> None:
    path = house.root / RATES
    original = path.read_text()
    path.unlink()
    assert f"snakemake {RATES} --config study=smoke` makes it" in house.python(*ACCEPT, ok=False)
    path.write_text(original.replace("study: smoke", "study: demo"))
    assert "study 'demo', not of 'smoke'" in house.python(*ACCEPT, ok=False)
    path.write_text(original)
    house.edit(lambda study: study.update(data_seed=1))
    assert "comes from another sweep" in house.python(*ACCEPT, ok=False)
    assert not (house.root / "config/studies/smoke.learning_rates.yaml").exists()


def test_a_study_without_a_sweep(house: House) -> None:
    def strip(study: dict[str, Any]) -> None:
        del study["sweep"]
        for setting in study["settings"].values():
            del setting["sweep"]
            setting["learning_rates"] = {"full": 4e-4, "lora-r2": 2e-3}

    house.edit(strip)
    for target in (RATES, "results/figures/frontier.pdf"):
        said = house.snakemake(target, ok=False)
        assert "error: study 'smoke' has no sweep over learning rates" in said


def test_the_frontier_adds_only_the_test_items(accepted: House) -> None:
    plan = accepted.plan("results/figures/frontier.pdf")
    # 8 models of the sweep and the base model (which has both learning tasks), 3 tasks of forgetting
    assert plan == {"evaluate": 9 * 3, "sample": 8 + 2, "judge": 8 + 2, "collect": 1, "draw": 1}
    at_family_grain(accepted)
    accepted.run("results/figures/frontier.pdf")
    rows = list(csv.DictReader(accepted.csv("frontier").splitlines()))
    points = {
        (row["setting"], row["method"], float(row["learning_rate"]), row["chosen"]) for row in rows if row["setting"]
    }
    settings = choices(accepted)["settings"]
    assert points == {
        (setting, method, point["learning_rate"], "yes" if point["learning_rate"] == choice["learning_rate"] else "no")
        for setting, methods in settings.items()
        for method, choice in methods.items()
        for point in choice["curve"]
    }
    assert sorted({row["metric"] for row in rows}) == (
        ["arc_challenge", "forgetting", "gsm8k", "hellaswag", "humaneval", "winogrande"]
    )


def test_by_held_out_losses_the_lowest_is_taken(house: House) -> None:
    def by_losses(study: dict[str, Any]) -> None:
        study["sweep"] = {"rule": "lowest_held_out_loss", "seeds": [0]}

    house.python(*ACCEPT)
    house.edit(by_losses)
    # what was chosen by scores does not follow any more; the same models are asked the losses, and nothing is written
    assert "rule: the rates were chosen by highest_validation_score" in house.python(*ACCEPT, "--check", ok=False)
    (house.root / "config/studies/smoke.learning_rates.yaml").unlink()
    assert house.plan(RATES) == {"evaluate": 8, "learning_rates": 1}
    at_family_grain(house)
    assert house.plan(RATES) == {"evaluate_family": 4, "learning_rates": 1}
    asked = house.run(RATES)
    assert {name.split()[-1] for name in asked if name.startswith("evaluated")} == {"target_loss"}
    losses: dict[tuple[str, str], dict[float, float]] = {}
    runs = house.manifests("runs")
    for key, evaluation in house.manifests("evaluations").items():
        _, setting, method, run, task = key.split("/")
        if task.startswith("target_loss-"):
            spec = runs[f"runs/{setting}/{method}/{run}"]["spec"]
            rate = spec.get("trunk", spec)["optimizer"]["learning_rate"]
            losses.setdefault((setting, method), {})[rate] = evaluation["results"]["value"]
    settings = choices(house)["settings"]
    for (setting, method), curve in losses.items():
        choice = settings[setting][method]
        assert choice["learning_rate"] == min(curve, key=lambda rate: curve[rate])
        assert {point["learning_rate"]: point["loss"] for point in choice["curve"]} == curve
    assert len(losses) == 4
    house.python(*ACCEPT)
    assert "follows from the sweep" in house.python(*ACCEPT, "--check")
    # the figure has the same losses, and the base model's
    assert house.plan("results/figures/sweep.pdf") == {"evaluate_family": 1, "collect": 1, "draw": 1}
    house.run("results/figures/sweep.pdf")
    rows = list(csv.DictReader(house.csv("sweep").splitlines()))
    assert {row["metric"] for row in rows} == {"target_loss"}
    for row in rows:
        if row["method"] == "base":
            continue
        rate, cell = float(row["learning_rate"]), settings[row["setting"]][row["method"]]
        assert float(row["value"]) == losses[row["setting"], row["method"]][rate]
        assert row["chosen"] == ("yes" if rate == cell["learning_rate"] else "no")
    assert len(rows) == 8 + 2
    assert house.plan(RATES) == {}
