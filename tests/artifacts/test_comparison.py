"""The paper's scores beside hand-made ones: the rule, its errors, what has no counterpart, page, CSV and picture."""

import csv
import math
import re
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy
import pytest
from matplotlib.figure import Figure

from scripts.artifacts import comparison, counterparts, printed
from scripts.artifacts.counterparts import Agreement, Compared, Score
from scripts.artifacts.published import PublishedValue, load_published
from scripts.evaluation.scores import mean_and_stderr
from scripts.launch.launch import Launch, launch_by_hand
from tests.artifacts.conftest import assert_all_apart, legend_entries, markers, take_from_outside, texts

pytestmark = pytest.mark.arithmetic

AGREES, DIFFERS, NOT_RUN = Agreement
VALUES = load_published()
SCORES = [value for value in VALUES if value.metric != "memory_gb"]
TASKS = ("hellaswag", "arc_challenge", "winogrande")
SOURCE = comparison.ComparedStudy(
    study="main", title="The main grid", model="Llama-2-7B", scale="paper", incomparable="", fingerprint="0123456789ab",
    commit="abc1234",
)  # fmt: skip


def printed_score(artifact: str, method: str, duration: str | None = None, metric: str = "") -> PublishedValue:
    (found,) = [
        value
        for value in SCORES
        if (value.artifact, value.method, value.duration) == (artifact, method, duration)
        and metric in ("", value.metric)
    ]
    return found


FULL_20B = printed_score("tableS1", "full", "20B")


# -- the rule -------------------------------------------------------------------------------------


def test_the_errors_by_hand() -> None:
    """Full finetuning on code at 20B: HumanEval .263 of 164 problems, forgetting average .545."""
    assert FULL_20B.value == Decimal("0.263")
    one = Compared(FULL_20B, Score(0.300, 0.04, 164))
    assert one.published_stderr == pytest.approx(math.sqrt(0.263 * 0.737 / 164))
    assert one.difference == pytest.approx(0.037)
    assert one.stderr == pytest.approx(math.sqrt(0.263 * 0.737 / 164 + 0.04**2))
    average = Compared(printed_score("tableS2", "full", "20B"), Score(0.5, 0.003, 12_481))
    assert average.value == 0.545
    thirds = sum(0.545 * 0.455 / items for items in (10_042, 1_172, 1_267))
    assert average.published_stderr == pytest.approx(math.sqrt(thirds) / 3)
    assert average.verdict is DIFFERS


def test_the_items_of_the_average_are_those_that_are_printed_elsewhere() -> None:
    assert sum(counterparts.FORGETTING_ITEMS.values()) == printed.ITEMS["forgetting"]


@pytest.mark.parametrize("sign", [1, -1])
def test_two_standard_errors_are_the_border(sign: int) -> None:
    assert counterparts.judged(sign * 0.25, 0.125) is AGREES
    assert counterparts.judged(sign * math.nextafter(0.25, 1), 0.125) is DIFFERS
    assert counterparts.judged(0.0, 0.0) is AGREES
    # a printed score and ours, 1e-9 on either side of the border
    stderr = math.hypot(math.sqrt(0.263 * 0.737 / 164), 0.03)
    for beyond, verdict in ((-1e-9, AGREES), (1e-9, DIFFERS)):
        assert Compared(FULL_20B, Score(0.263 + sign * (2 * stderr + beyond), 0.03, 164)).verdict is verdict


def test_where_the_papers_items_are_not_known_its_error_is_ours() -> None:
    one = Compared(printed_score("tableS10", "full", "2"), Score(5.0, 0.2, 160))
    assert one.published_stderr == 0.2
    assert one.stderr == pytest.approx(0.2 * math.sqrt(2))
    assert one.verdict is DIFFERS
    assert Compared(one.published, None).published_stderr is None


@pytest.mark.parametrize(("items", "truth"), [(164, 0.263), (164, 0.47), (1319, 0.155), (1319, 0.624)])
def test_one_truth_seldom_differs(items: int, truth: float) -> None:
    """Both are drawn from one p: about one in twenty differs."""
    metric = {164: "humaneval", 1319: "gsm8k"}[items]
    generator = numpy.random.default_rng(items)
    differ = 0
    for passed, ours in generator.binomial(items, truth, (4000, 2)):
        value = PublishedValue(
            artifact="tableS1", model="Llama-2-7B", setting="code-cpt", method="full", duration="20B", metric=metric,
            value=str(round(passed / items, 3)), read_from="table",
        )  # fmt: skip
        mean = ours / items
        # the sample standard deviation of zeros and ones, as an evaluation's manifest has it
        score = Score(mean, math.sqrt(mean * (1 - mean) / (items - 1)), items)
        differ += Compared(value, score).verdict is DIFFERS
    assert 0.03 < differ / 4000 < 0.065


def test_the_short_form_of_a_manifests_error() -> None:
    """What the simulations compute instead of calling `mean_and_stderr` on every item."""
    mean, stderr = mean_and_stderr([1.0] * 43 + [0.0] * 121)
    assert stderr == pytest.approx(math.sqrt(mean * (1 - mean) / 163))


def test_one_average_seldom_differs() -> None:
    """Three tasks as unlike as HellaSwag, ARC and WinoGrande are, of which only the mean is printed."""
    generator = numpy.random.default_rng(1)
    items, truth = numpy.array([10_042, 1_172, 1_267]), numpy.array([0.76, 0.46, 0.69])
    shares = generator.binomial(items, truth, (4000, 2, 3)) / items
    published, ours = shares[:, 0].mean(axis=1), shares[:, 1]
    errors = numpy.sqrt((ours * (1 - ours) / (items - 1)).sum(axis=1)) / 3
    differ = sum(
        counterparts.judged(mine - theirs, math.hypot(counterparts.implied_stderr("forgetting", theirs) or 0, error))
        is DIFFERS
        for theirs, mine, error in zip(published, ours.mean(axis=1), errors, strict=True)
    )
    assert 0.03 < differ / 4000 < 0.065


# -- from the store -------------------------------------------------------------------------------


def llama(root: Path, **changes: Any) -> Launch:
    """The smoke study under the names of the paper: durations, ranks and epochs that it has too."""
    launch = launch_by_hand("smoke", str(root / "store"))
    study = deepcopy(launch.study)
    study |= {"scale": "paper", "seeds": [0], "sweep": None}
    take_from_outside(study)
    study["model"]["label"] = "meta-llama/Llama-2-7b-hf"
    study["model"]["architecture"] |= {"hidden_size": 512, "intermediate_size": 512}
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    study["methods"] = {
        "full": {"kind": "full"},
        "lora-r16": {"kind": "lora", "rank": 16, "alpha": 32.0, "modules": every},
    }
    rates = {"full": 1e-5, "lora-r16": 2e-4}
    study["settings"]["code-cpt"] |= {
        "durations": ["0.25B", "20B"], "first_leg": "0.2B", "learning_rates": {**rates}, "sweep": None,
    }  # fmt: skip
    study["settings"]["math-ift"] |= {"learning_rates": {**rates}, "sweep": None}
    return replace(launch, study=study | changes)


def evaluate(launch: Launch, key: str, value: float, stderr: float = 0.01, items: int = 100) -> None:
    results = {"metric": "acc", "value": value, "stderr": stderr, "items": items}
    launch.store.make(launch.grid.products[key], lambda out: results, {})


def of(launch: Launch, setting: str, method: str, duration: str, seed: int = 0) -> dict[str, str]:
    """A condition's evaluations."""
    blocks = launch.grid.blocks
    (found,) = [
        condition
        for condition in [*blocks["base"], *blocks["grid"]]
        if (condition.setting, condition.method, condition.duration, condition.seed)
        == (setting, method, duration, seed)
    ]
    return dict(found.evaluations)


def compared_with(launch: Launch, value: PublishedValue) -> Compared:
    (one,) = counterparts.compare(launch, [value])
    return one


def test_a_score_is_found_by_setting_method_duration_and_metric(tmp_path: Path) -> None:
    launch = llama(tmp_path)
    evaluate(launch, of(launch, "code-cpt", "full", "20B")["humaneval"], 0.25, 0.034, 164)
    evaluate(launch, of(launch, "code-cpt", "lora-r16", "20B")["humaneval"], 0.162, 0.03, 164)
    evaluate(launch, of(launch, "math-ift", "full", "2")["gsm8k"], 0.5, 0.014, 1319)
    evaluate(launch, of(launch, "", "base", "")["gsm8k"], 0.145, 0.01, 1319)
    found = {
        (one.published.artifact, one.published.method, one.published.duration): one
        for one in counterparts.compare(launch, VALUES)
        if one.ours
    }
    verdicts = {key: one.verdict for key, one in found.items()}
    # what the first edition prints of the same models is compared too
    assert verdicts == {
        ("tableS1", "full", "20B"): AGREES,
        ("v1/fig2", "full", "20B"): AGREES,
        ("tableS1", "lora-r16", "20B"): AGREES,
        ("tableS7", "full", "2"): DIFFERS,
        ("v1/fig2", "full", "2"): DIFFERS,
        ("fig1", "base", None): AGREES,
        ("v1/fig2", "base", None): AGREES,
    }
    one = found["tableS1", "full", "20B"]
    assert one.ours is not None
    assert (one.ours.value, one.ours.stderr, one.ours.items, one.ours.seeds) == (0.25, 0.034, 164, 1)
    assert of(launch, "code-cpt", "full", "20B")["humaneval"].split("/")[3][-12:] == one.ours.conditions[0]


def test_the_forgetting_average_is_the_mean_of_three_tasks(tmp_path: Path) -> None:
    launch = llama(tmp_path)
    own = of(launch, "code-cpt", "full", "0.25B")
    published = printed_score("tableS2", "full", "0.25B")
    for task, value, stderr in zip(TASKS, (0.7, 0.4, 0.75), (0.03, 0.04, 0.12), strict=True):
        assert compared_with(launch, published).reason == "not evaluated yet"
        evaluate(launch, own[task], value, stderr, items=10)
    ours = compared_with(launch, published).ours
    assert ours is not None
    assert (ours.value, ours.stderr, ours.items) == (pytest.approx(1.85 / 3), pytest.approx(0.13 / 3), 30)
    study = deepcopy(launch.study)
    study["evaluation"]["forgetting"] = ["hellaswag", "winogrande"]
    other = compared_with(replace(launch, study=study), published)
    assert (other.verdict, other.reason) == (NOT_RUN, "the study's forgetting average is of hellaswag, winogrande")


def test_seeds_are_one_mean_with_both_parts_of_its_error(tmp_path: Path) -> None:
    launch = llama(tmp_path, seeds=[0, 1, 2])
    evaluate(launch, of(launch, "code-cpt", "full", "20B", 2)["humaneval"], 0.2, 0.03)
    single = compared_with(launch, FULL_20B).ours
    assert single is not None
    assert (single.value, single.stderr, single.seeds) == (0.2, pytest.approx(0.03), 1)
    evaluate(launch, of(launch, "code-cpt", "full", "20B", 0)["humaneval"], 0.3, 0.04)
    both = compared_with(launch, FULL_20B).ours
    assert both is not None
    spread = numpy.var([0.2, 0.3], ddof=1) / 2
    assert both.stderr == pytest.approx(math.sqrt((0.03**2 + 0.04**2) / 2 + spread))
    assert (both.value, both.seeds, len(set(both.conditions))) == (pytest.approx(0.25), 2, 2)


def test_why_something_was_not_run(tmp_path: Path) -> None:
    launch = llama(tmp_path)
    reasons = {
        FULL_20B: "not evaluated yet",
        printed_score("tableS1", "full", "8B"): "the study has no such model",
        printed_score("tableS1", "lora-r64", "20B"): "the study has no such model",
        printed_score("tableS3", "full", "20B"): "the study has no such model",
        printed_score("tableS10", "full", "2"): "the study has no such model",
        printed_score("figS4", "base"): "the study does not measure it",
        printed_score("v1/fig3", "lora", "16B"): "the paper does not say which rank",
    }
    for value, reason in reasons.items():
        one = compared_with(launch, value)
        assert (one.verdict, one.reason, one.difference, one.stderr) == (NOT_RUN, reason, None, None)
    everything = counterparts.compare(launch, VALUES)
    assert len(everything) == len(SCORES) == 279
    assert {one.verdict for one in everything} == {NOT_RUN}


def test_other_blocks_count_where_they_do_what_the_setting_says(tmp_path: Path) -> None:
    """A setting that the main grid leaves out: not the runs with weight decay, nor those at another rate."""
    launch = llama(tmp_path)
    study = deepcopy(launch.study)
    cell = {"setting": "code-cpt", "methods": ["full"]}
    study["main"] = {"settings": ["math-ift"]}
    study["blocks"] = {
        "decayed": {"cells": [cell | {"weight_decay": 1e-4}, cell | {"learning_rates": [1e-3]}]},
        "plain": {"measures": ["learning"], "cells": [cell]},
        "kept": {"measures": ["forgetting"], "cells": [cell]},
    }
    launch = replace(launch, study=study)
    for name, learned in (("decayed", 0.9), ("plain", 0.25)):
        for condition in launch.grid.blocks[name]:
            evaluate(launch, condition.evaluations["humaneval"], learned)
    for condition in launch.grid.blocks["kept"]:
        for task in TASKS:
            evaluate(launch, condition.evaluations[task], 0.55)
    found = [compared_with(launch, printed_score(f"table{name}", "full", "20B")).ours for name in ("S1", "S2")]
    assert [ours and (round(ours.value, 9), ours.seeds) for ours in found] == [(0.25, 1), (0.55, 1)]


def test_the_authors_checkpoints_are_told_from_what_was_trained_here(tmp_path: Path) -> None:
    launch = llama(tmp_path)
    study = deepcopy(launch.study)
    study["settings"]["code-cpt"]["published"] = {"full": "LoRA-TMLR-2024/starcoder-full-finetuning"}
    launch = replace(launch, study=study)
    for method in ("full", "lora-r16"):
        evaluate(launch, of(launch, "code-cpt", method, "20B")["humaneval"], 0.2)
    sources = [compared_with(launch, printed_score("tableS1", m, "20B")).ours for m in ("full", "lora-r16")]
    assert [ours and ours.source for ours in sources] == ["published", "trained"]


@pytest.mark.parametrize(
    ("change", "is_the_same"),
    [
        ({}, True),
        ({"alpha": 16.0}, False),
        ({"rank": 32}, False),
        ({"modules": ["q_proj", "v_proj"]}, False),
        ({"decomposed": True}, False),
        ({"learning_rate_ratio_b": 1.0, "scaling": "alpha_over_rank"}, True),
    ],
    ids=["the same", "alpha", "rank", "modules", "variant", "defaults"],
)
def test_a_method_is_what_it_does_and_not_its_name(tmp_path: Path, change: dict[str, Any], is_the_same: bool) -> None:
    launch = llama(tmp_path)
    study = deepcopy(launch.study)
    study["methods"]["adapter"] = study["methods"].pop("lora-r16") | change
    for setting in study["settings"].values():
        setting["learning_rates"]["adapter"] = setting["learning_rates"].pop("lora-r16")
    launch = replace(launch, study=study)
    evaluate(launch, of(launch, "code-cpt", "adapter", "20B")["humaneval"], 0.162)
    one = compared_with(launch, printed_score("tableS1", "lora-r16", "20B"))
    assert (one.verdict, one.reason) == ((AGREES, "") if is_the_same else (NOT_RUN, "the study has no such model"))


def test_of_two_methods_that_fit_it_is_the_one_that_is_called_so(tmp_path: Path) -> None:
    """The first edition does not say which alpha its adapters have."""
    value = printed_score("v1/fig2", "lora-r256", "4", "gsm8k")
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]

    def study(*names: str) -> Launch:
        launch = llama(tmp_path)
        study = deepcopy(launch.study)
        study["settings"]["math-ift"]["durations"] = [1, 4]
        for name, alpha in zip(names, (32.0, 512.0), strict=True):
            study["methods"][name] = {"kind": "lora", "rank": 256, "alpha": alpha, "modules": modules}
            for setting in study["settings"].values():
                setting["learning_rates"][name] = 1e-3
        return replace(launch, study=study)

    launch = study("twin", "lora-r256")
    evaluate(launch, of(launch, "math-ift", "twin", "4")["gsm8k"], 0.9)
    evaluate(launch, of(launch, "math-ift", "lora-r256", "4")["gsm8k"], 0.622)
    assert compared_with(launch, value).verdict is AGREES
    one = compared_with(study("twin", "another"), value)
    assert (one.verdict, one.reason) == (NOT_RUN, "several of the study's methods are it: twin, another")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": "demo"}, "A demo's numbers are of meta-llama/Llama-2-7b-hf"),
        ({"model": "EleutherAI/pythia-1b"}, "The numbers are of EleutherAI/pythia-1b, and those of the paper of Llama"),
    ],
)
def test_what_is_not_comparable_is_not_compared(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    launch = llama(tmp_path)
    evaluate(launch, of(launch, "code-cpt", "full", "20B")["humaneval"], 0.263)
    study = deepcopy(launch.study) | {key: value for key, value in changes.items() if key != "model"}
    study["model"]["label"] = changes.get("model", study["model"]["label"])
    launch = replace(launch, study=study)
    compared = counterparts.compare(launch, VALUES)
    assert {one.verdict for one in compared} == {NOT_RUN}
    (sentence,) = {one.reason for one in compared}
    assert sentence.startswith(said)
    page = comparison.page(compared, comparison.source_of(launch, compared))
    assert page.splitlines()[2] == f"> **{sentence}.**"
    assert "0 agree, 0 differ, 279 are not run" in page


# -- the page, the CSV, the picture ---------------------------------------------------------------


def some() -> list[Compared]:
    """Of table S1 the first agrees, the second differs, the third is from a checkpoint; the others are not run."""
    first, second, third, *others = [value for value in SCORES if value.artifact == "tableS1"]
    return [
        Compared(first, Score(0.145, 0.03, 164, conditions=("a" * 12,))),
        Compared(second, Score(0.400, 0.03, 164, conditions=("b" * 12,))),
        Compared(third, Score(0.139, 0.02, 164, source="published", conditions=("c" * 12,))),
        *(Compared(value, None, "not evaluated yet") for value in others),
    ]


def test_the_page_has_counts_rule_and_every_number() -> None:
    elsewhere = [Compared(value, None, "not evaluated yet") for value in SCORES if value.artifact == "tableS10"]
    page = comparison.page([*some(), *elsewhere], SOURCE)
    assert "**Of the 44 scores that the paper prints 2 agree, 1 differs, 41 are not run.**" in page
    assert "By the chance of the items alone up to 0.1 of the 3 compared would differ." in page
    assert "1 is of the authors' own checkpoints, evaluated here." in page
    assert "| HumanEval, pass@1 | 2 | 1 | 29 |" in page
    assert "- Not run, 41: not evaluated yet." in page
    assert "no more than 2 standard errors of their difference apart" in page
    assert re.findall("^## (.*)$", page, re.MULTILINE) == ["The rule", "tableS1", "tableS10"]
    lines = [line for line in page.splitlines() if line.startswith("| HumanEval, pass@1 | code-cpt |")]
    assert len(lines) == 32
    stderr = math.hypot(math.sqrt(0.144 * 0.856 / 164), 0.03)
    assert lines[1] == (
        f"| HumanEval, pass@1 | code-cpt | lora-r16 | 0.5B | 0.144 | 0.400 | +0.256 ± {stderr:.3f} | **differs** |"
    )
    assert "| 0.141 | 0.139 | \N{MINUS SIGN}0.002 ± " in lines[2]
    assert lines[3] == "| HumanEval, pass@1 | code-cpt | lora-r16 | 2B | 0.141 | — | — | not run |"
    assert "0123456789ab" in page
    assert "abc1234" in page


def test_every_printed_score_has_a_row() -> None:
    rows = comparison.rows(some(), SOURCE)
    assert Counter(row["verdict"] for row in rows) == {"agrees": 2, "differs": 1, "not run": 29}
    assert all(set(row) <= set(comparison.COLUMNS) for row in rows)
    assert rows[1]["difference"] == repr(0.400 - 0.144)
    assert float(rows[1]["stderr"]) == pytest.approx(math.hypot(float(rows[1]["published_stderr"]), 0.03))
    assert (rows[1]["published"], rows[1]["published_items"], rows[1]["conditions"]) == (
        Decimal("0.144"),
        164,
        "b" * 12,
    )
    assert (rows[2]["source"], rows[2]["seeds"]) == ("published", 1)
    assert "ours" not in rows[3]


def test_the_picture_has_every_score_at_its_place() -> None:
    figure = comparison.drawn(some(), SOURCE)
    (ax,) = figure.axes
    at = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in markers(ax)]
    assert at == [(0.143, 0.145), (0.144, 0.400), (0.141, 0.139)]
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_gid() == "differs"]
    assert rings == [(0.144, 0.400)]
    (band,) = [band for band in ax.collections if band.get_gid() == "band"]
    corners = band.get_paths()[0].vertices
    middle = corners[numpy.abs(corners[:, 0] - 0.2).argsort()[:2]]
    ours = math.sqrt((0.03**2 + 0.03**2 + 0.02**2) / 3)
    half = 2 * math.hypot(math.sqrt(0.2 * 0.8 / 164), ours)
    assert sorted(middle[:, 1]) == pytest.approx([0.2 - half, 0.2 + half], abs=0.003)
    assert ax.get_xlim() == ax.get_ylim()
    assert [line.get_markerfacecolor() for line in markers(ax)][2] == "white"
    assert "2 agree, 1 differs, 29 are not run" in texts(figure)
    assert_all_apart(figure)


def test_a_method_has_the_papers_colour_whatever_else_was_run() -> None:
    """Plum, slateblue and darkblue for ranks 16, 64 and 256, black for full finetuning."""
    values = [value for value in SCORES if value.artifact == "tableS1"]
    colours = {"lora-r16": "#dda0dd", "lora-r64": "#6a5acd", "lora-r256": "#00008b", "full": "#000000"}
    for method, colour in colours.items():
        made = [Compared(value, Score(0.2, 0.03, 164) if value.method == method else None) for value in values]
        figure = comparison.drawn(made, SOURCE)
        assert {line.get_markerfacecolor() for line in markers(figure.axes[0])} == {colour}
        assert len(legend_entries(figure)) == 1 + 3


def every_panel() -> Figure:
    """All that the paper prints, each with a score of ours near it."""
    generator = numpy.random.default_rng(2)
    made = []
    for value in SCORES:
        if value.method == "lora":  # has no counterpart
            continue
        stderr = counterparts.implied_stderr(value.metric, float(value.value)) or {"mmlu": 0.01}.get(value.metric, 0.1)
        made.append(Compared(value, Score(float(value.value) + 1.3 * stderr * generator.normal(), stderr, 100)))
    return comparison.drawn(made, SOURCE)


def test_all_five_metrics_fit_on_a_page() -> None:
    figure = every_panel()
    assert [ax.get_label() for ax in figure.axes] == ["gsm8k", "humaneval", "forgetting", "mmlu", "mt_bench"]
    assert_all_apart(figure)


def test_a_page_without_a_score_says_why() -> None:
    nothing = [Compared(value, None, "not evaluated yet") for value in SCORES]
    figure = comparison.drawn(nothing, SOURCE)
    assert figure.axes == []
    assert "Nothing to draw" in texts(figure)
    assert "None of the models that the paper has scores of has been evaluated yet." in texts(figure)
    assert_all_apart(figure)
    demo = comparison.drawn(nothing, replace(SOURCE, scale="demo", incomparable="A demo is not comparable"))
    assert "A demo is not comparable." in texts(demo)
    assert "DEMO STUDY" in texts(demo)
    assert_all_apart(demo)


def test_the_command_on_a_demo(tmp_path: Path) -> None:
    files = {form: tmp_path / "results" / f"comparison.{form}" for form in ("csv", "md", "pdf")}
    command = [
        sys.executable,
        "-m",
        "scripts.artifacts.comparison",
        "--study",
        "smoke",
        "--store",
        str(tmp_path / "no"),
    ]
    subprocess.run([*command, *(f"--{form}={path}" for form, path in files.items())], check=True)
    made = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert made == ["comparison.collected.json", *(path.name for path in files.values())]
    with files["csv"].open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == comparison.COLUMNS
    assert Counter(row["verdict"] for row in rows) == {"not run": 279}
    assert "and not comparable with the paper's.**" in files["md"].read_text(encoding="utf-8")
    assert files["pdf"].read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in files["pdf"].read_bytes()
