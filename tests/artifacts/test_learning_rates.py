"""The rule that chooses rates, and whether committed rates still follow from the sweep."""

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.artifacts.accept_rates import check
from scripts.artifacts.learning_rates import choose, edge, main, outdated, swept
from scripts.common.errors import UserError
from scripts.launch.launch import Launch, launch_by_hand
from scripts.store.codelock import read_code_lock
from scripts.study.load import ACCEPTED, STUDIES, load_study, read_accepted
from scripts.study.schema import Study

SCORE, LOSS = "highest_validation_score", "lowest_held_out_loss"
POINTS = st.lists(
    st.tuples(st.floats(1e-6, 0.5), st.integers(0, 5)), min_size=2, max_size=8, unique_by=lambda point: point[0]
)


def curve(points: list[tuple[float, float]]) -> list[dict[str, float]]:
    return [{"learning_rate": rate, "score": score} for rate, score in points]


@given(POINTS, st.randoms())
def test_the_highest_score_and_of_a_tie_the_lowest_rate(points: list[tuple[float, float]], dice: object) -> None:
    rates, scores = (numpy.array(column, dtype=float) for column in zip(*sorted(points), strict=True))
    expected = rates[scores.argmax()]  # argmax takes the first of equals, and rates rise
    dice.shuffle(points)  # type: ignore[attr-defined]
    assert choose(curve(points), SCORE) == expected
    ends = {rates[0]: "lowest", rates[-1]: "highest"}
    assert edge(curve(points), SCORE) == ends.get(expected)
    losses = [{"learning_rate": rate, "loss": 1 - score} for rate, score in points]
    assert choose(losses, LOSS) == expected
    assert edge(losses, LOSS) == ends.get(expected)


def test_an_interior_choice() -> None:
    points = curve([(1e-4, 0.1), (2e-4, 0.6), (4e-4, 0.6), (8e-4, 0.3)])
    assert choose(points, SCORE) == 2e-4
    assert edge(points, SCORE) is None


def test_committed_rates_follow_from_their_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    check(None)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(list(STUDIES.glob(f"*{ACCEPTED}"))) > 0
    assert all("follows from the sweep" in line for line in said)


def test_demo_seeds_has_the_rates_of_demo_and_more_items() -> None:
    demo, seeds = (launch_by_hand(name, str(Path("nowhere"))).grid.study for name in ("demo", "demo-seeds"))
    assert len(demo.seeds) == 1
    assert len(seeds.seeds) == 3
    for name, setting in demo.settings.items():
        assert seeds.settings[name].learning_rates == setting.learning_rates
    for task, settings in demo.evaluation.tasks:
        if settings is None:
            continue
        few, many = demo.datasets[settings.dataset], seeds.datasets[getattr(seeds.evaluation.tasks, task).dataset]
        assert many.records >= 2 * few.records  # type: ignore[union-attr]


DIVERGED = {"score": None, "stderr": None, "items": 0, "diverged": True}


@given(POINTS, st.data())
def test_a_rate_that_diverged_is_never_chosen(points: list[tuple[float, float]], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.sampled_from([rate for rate, _ in points]), max_size=len(points) - 1))
    known = [point | (DIVERGED if point["learning_rate"] in gone else {}) for point in curve(points)]
    assert choose(known, SCORE) == choose(curve([point for point in points if point[0] not in gone]), SCORE)


def test_where_every_rate_diverged_there_is_none_to_choose() -> None:
    known = [point | DIVERGED for point in curve([(1e-4, 0), (2e-4, 0)])]
    with pytest.raises(
        UserError, match=r"diverged at every learning rate tried \(0.0001, 0.0002\); the sweep needs lower"
    ):
        choose(known, SCORE)


def test_a_sweep_with_divergence_is_chosen_written_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Full finetuning at its highest rate, which would have been an edge."""
    launch = launch_by_hand("demo", str(tmp_path / "store"))
    sweeps = swept(launch.grid)
    for (_, method), rates in sweeps.items():
        for rate, (condition,) in rates.items():
            key = condition.evaluations["validation"]
            results = {"metric": "m", "value": rate, "stderr": 0.01, "items": 10}
            if method == "full" and rate == max(rates):
                results = {"metric": "m", "value": None, "stderr": None, "items": 0, "diverged": 7}
            launch.store.make(launch.grid.products[key], lambda out, results=results: results, {})
    path = tmp_path / "rates.yaml"
    main(launch, path)
    assert outdated(launch.grid, path) is None
    for (setting, method), rates in sweeps.items():
        choice = read_accepted(path)[setting][method]
        *others, last = sorted(rates)
        if method == "full":
            assert (choice["learning_rate"], choice["edge"]) == (others[-1], None)
            assert {key: choice["curve"][-1][key] for key in DIVERGED} == DIVERGED
            assert all("diverged" not in point for point in choice["curve"][:-1])
        else:
            assert (choice["learning_rate"], choice["edge"]) == (last, "highest")
    said = capsys.readouterr().out
    assert re.search(r"^code-cpt full: 0.0008 of .* 0.0008:0.001 0.0016:diverged$", said, re.MULTILINE)
    text = path.read_text()
    path.write_text(re.sub(r"(?m)^  evaluation: \d+$", "  evaluation: old", text))
    with pytest.raises(UserError, match="code_versions must be positive integers by name"):
        outdated(launch.grid, path)
    path.write_text(text)
    assert "diverged: true" in text
    raised = launch.grid.under({"evaluation": launch.grid.versions["evaluation"] + 1})
    assert swept(raised)["code-cpt", "full"] != sweeps["code-cpt", "full"], "its sweep has other evaluations"
    assert outdated(raised, path) is None, "and what was accepted stays so"
    path.write_text(text.replace("learning_rate: 0.0008\n", "learning_rate: 0.0016\n", 1))
    assert "says 0.0016, and the rule takes 0.0008" in str(outdated(launch.grid, path))


# by hand, for two seeds: code CPT has a tie and a seed that diverged, math IFT a loss that is no number
LOSSES: dict[tuple[str, str], dict[float, tuple[float | None, float | None]]] = {
    ("code-cpt", "full"): {1e-4: (1.5, 1.25), 2e-4: (1.0, 1.25), 4e-4: (1.125, 1.125), 8e-4: (1.0, 2.0)},
    ("code-cpt", "lora-r2"): {1e-3: (2.0, 2.0), 2e-3: (0.5, None), 4e-3: (1.5, 2.25)},
    ("math-ift", "full"): {2e-4: (math.nan, 1.0), 4e-4: (3.0, 3.5), 8e-4: (3.0, 2.5)},
    ("math-ift", "lora-r2"): {1e-3: (0.5, 0.75), 2e-3: (1.0, 1.0)},
}
TAKEN = {
    ("code-cpt", "full"): (2e-4, None),
    ("code-cpt", "lora-r2"): (4e-3, "highest"),
    ("math-ift", "full"): (8e-4, "highest"),
    ("math-ift", "lora-r2"): (1e-3, "lowest"),
}


def by_losses(tmp_path: Path, **sweep: Any) -> Launch:
    """The smoke study, which tries the rates of `LOSSES` and chooses by them."""
    study = load_study("smoke").model_dump(mode="json", exclude_unset=True)
    study["sweep"] = {"rule": LOSS, "seeds": [0, 1], **sweep}
    for (setting, method), rates in LOSSES.items():
        study["settings"][setting]["sweep"]["learning_rates"][method] = list(rates)
    whole = Study.model_validate(study).model_dump(mode="json")
    return Launch("smoke", whole, read_code_lock(), {}, str(tmp_path / "store"), os.getpid())


def test_by_losses_the_lowest_mean_and_of_a_tie_the_lowest_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = by_losses(tmp_path)
    records = {
        name: launch.grid.records(setting.held_out or "").fingerprint
        for name, setting in launch.grid.study.settings.items()
    }
    for cell, rates in swept(launch.grid).items():
        for rate, conditions in rates.items():
            for condition, value, error in zip(conditions, LOSSES[cell][rate], (0.03, 0.04), strict=True):
                product = launch.grid.products[condition.evaluations["validation"]]
                assert (product.spec["task"], product.spec["records"]) == ("target_loss", records[cell[0]])
                results = {"metric": "bits_per_byte", "value": value, "stderr": error, "items": 4}
                if value is None:
                    results |= {"stderr": None, "items": 0, "diverged": 7}
                launch.store.make(product, lambda out, results=results: results, {})
    path = tmp_path / "rates.yaml"
    main(launch, path)
    assert re.search(r"^code-cpt lora-r2: 0.004 of .* 0.002:diverged 0.004:1.875$", capsys.readouterr().out, re.M)
    text = path.read_text()
    assert "# the loss on held-out records, in bits per byte, at every rate" in text
    assert "score" not in text
    assert f"rule: {LOSS}\nseeds:\n- 0\n- 1\n" in text
    chosen = read_accepted(path)
    for cell, (rate, end) in TAKEN.items():
        choice = chosen[cell[0]][cell[1]]
        assert (choice["learning_rate"], choice["edge"]) == (rate, end)
    curve = {point["learning_rate"]: point for point in chosen["code-cpt"]["full"]["curve"]}
    assert [point["loss"] for point in curve.values()] == [1.375, 1.125, 1.125, 1.5]
    assert curve[1e-4]["stderr"] == pytest.approx(0.025)  # of two means: half the root of .03^2 + .04^2
    assert [len(point["asked"]) for point in curve.values()] == [2] * 4
    for cell, rate in ((("code-cpt", "lora-r2"), 2e-3), (("math-ift", "full"), 2e-4)):
        (gone,) = [point for point in chosen[cell[0]][cell[1]]["curve"] if point["learning_rate"] == rate]
        assert gone.items() >= {"loss": None, "stderr": None, "items": 0, "diverged": True}.items()

    assert outdated(launch.grid, path) is None
    path.write_text(text.replace("learning_rate: 0.0002\n    ", "learning_rate: 0.0008\n    ", 1))
    assert "settings.code-cpt.full: says 0.0008, and the rule takes 0.0002" in str(outdated(launch.grid, path))
    path.write_text(text.replace(LOSS, SCORE))
    assert f"rule: the rates were chosen by {SCORE}, and the study's sweep chooses by {LOSS}" in str(
        outdated(launch.grid, path)
    )
    path.write_text(text)
    smoke = load_study("smoke").sweep
    assert smoke is not None
    other = by_losses(tmp_path, rule=SCORE, validation=smoke.validation)
    assert f"chosen by {LOSS}, and the study's sweep chooses by {SCORE}" in str(outdated(other.grid, path))
