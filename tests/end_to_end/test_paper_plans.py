"""The plans of the paper's studies from a fresh checkout, without data, hub or GPU: how many jobs each artifact takes.

All jobs are compared with the table beside this file. What costs something is also counted here by hand, as the paper
has it, so that the table is not merely what the code said once.
"""

import csv
import difflib
from pathlib import Path

import pytest

from tests.conftest import ROOT, House, copy_checkout

HERE = Path(__file__).parent
GOLDEN = HERE / "paper_plans.csv"
COSTLY = ("train_leg", "train_run", "fetch_published", "evaluate", "spectra", "throughput")

# conditions of the main grid: methods x durations in each setting, in CPT from a trunk that is saved at 7 places
CPT, IFT, TRUNK = 4 * 8, 4 * 5, 7
# figures S1 and S2: 2 methods x 10 rates a dataset; the paper's own rate of full finetuning is a run of the main grid
SWEPT = 2 * 10
# the first version: full finetuning and 6 adapters; on math CPT it ends at 8.59B, with 6 durations and 6 places
CPT_V1, MATH_CPT_V1, IFT_V1 = 7 * 8, 7 * 6, 7 * 5
MAIN, MAIN_V1 = 2 * CPT + 2 * IFT, CPT_V1 + MATH_CPT_V1 + 2 * IFT_V1
LEGS, LEGS_V1 = 2 * 4 * TRUNK, 7 * TRUNK + 7 * 6

MAIN_RUNS = {"train_leg": LEGS, "train_run": MAIN}
MAIN_RUNS_V1 = {"train_leg": LEGS_V1, "train_run": MAIN_V1}
CODE_RUNS_V1 = {"train_leg": 7 * TRUNK, "train_run": CPT_V1}
CHAT_RUNS = {
    "train_leg": 4 * 2,
    "train_run": 4 * 3,
}  # a trunk of 6 epochs, saved after 2 and 4; 3 evaluated checkpoints
FULL_CODE = {"train_leg": TRUNK, "train_run": 8, "spectra": 8}
LONGEST_CODE = {"train_leg": TRUNK, "train_run": 1, "spectra": 1}
NO_MODEL: dict[str, int] = {}

# The base model is evaluated too: + 1 for each task. The forgetting average has three.
PAPER = {
    "fig1": {**MAIN_RUNS, "evaluate": MAIN + 2},
    "fig2": {**MAIN_RUNS, "evaluate": (MAIN + 1) * 3},
    "fig3": {**MAIN_RUNS, "evaluate": MAIN + 2 + (MAIN + 1) * 3},
    # full, LoRA of two ranks, and full with two weight decays and two attention dropouts
    "fig4": {"train_run": 7 * 5, "evaluate": (7 * 5 + 1) * 4},
    "fig5": {"train_run": 4, "evaluate": 4 + 1},
    "fig6": FULL_CODE,
    "fig7": {"train_run": 3 * 3 * 3, "evaluate": 3 * 3 * 3 + 1},
    "figS1": {"train_run": 2 * SWEPT, "evaluate": 2 * SWEPT + 2},
    # HumanEval and the four tasks of language understanding
    "figS2": {"train_run": 2 * SWEPT, "evaluate": (2 * SWEPT + 1) * 5},
    "figS3a": {"train_run": 3 * 5, "evaluate": 3 * 5 + 1},
    "figS3b": {"train_leg": 2 * TRUNK, "train_run": 2 * 8, "evaluate": 2 * 8 + 1},
    "figS4": {**CHAT_RUNS, "evaluate": 12 + 1},
    "figS5": {**CHAT_RUNS, "evaluate": (12 + 1) * 2},
    "figS6": {**CHAT_RUNS, "evaluate": (12 + 1) * 3},
    "figS7": LONGEST_CODE,
    "figS8": NO_MODEL,
    "figS9": {"train_run": 4, "evaluate": 4 + 1},
    "figS10": {"throughput": 5},
    "table1": NO_MODEL,
    "tableS1": {"train_leg": 4 * TRUNK, "train_run": CPT, "evaluate": CPT + 1},
    "tableS2": {"train_leg": 4 * TRUNK, "train_run": CPT, "evaluate": (CPT + 1) * 3},
    "tableS3": {"train_leg": 4 * TRUNK, "train_run": CPT, "evaluate": CPT + 1},
    "tableS4": {"train_leg": 4 * TRUNK, "train_run": CPT, "evaluate": (CPT + 1) * 3},
    "tableS5": {"train_run": IFT, "evaluate": IFT + 1},
    "tableS6": {"train_run": IFT, "evaluate": (IFT + 1) * 3},
    "tableS7": {"train_run": IFT, "evaluate": IFT + 1},
    "tableS8": {"train_run": IFT, "evaluate": (IFT + 1) * 3},
    "tableS9": {**CHAT_RUNS, "evaluate": (12 + 1) * 6},
    "tableS10": {**CHAT_RUNS, "evaluate": 12 + 1},
    "tableS11": {**CHAT_RUNS, "evaluate": 12 + 1},
    "tableS12": {**CHAT_RUNS, "evaluate": 12 + 1},
    "tableS13": {**CHAT_RUNS, "evaluate": (12 + 1) * 3},
    "tableS14": NO_MODEL,
    "tableS15": NO_MODEL,
    "tableS16": NO_MODEL,
    "all": {
        "train_leg": LEGS + TRUNK + 4 * 2,  # one more trunk for figure S3b
        # regularisers, modules, the sweep of two datasets less two runs of the main grid, AdamW, alpha less one run of
        # the main grid and with the branches of the other trunk, chat
        "train_run": MAIN + 20 + 18 + (2 * SWEPT - 2) + SWEPT + (15 - 1) + 8 + 12,
        "evaluate": 10  # the base model: five benchmarks, two more for language understanding, MMLU, MT-bench, pass@k
        + (MAIN + 20) * 4
        + 18
        + (2 * SWEPT - 2)
        + (SWEPT * 4 - 2)  # LionW's language understanding; of the main grid's run two of its tasks are there
        + SWEPT * 5
        + (15 - 1)
        + 8
        + 12 * 6
        + 4,  # pass@k
        "spectra": 8,
        "throughput": 5,
    },
}
PAPER_V1 = {
    "v1/table1": NO_MODEL,
    "v1/fig1": {**CODE_RUNS_V1, "evaluate": (CPT_V1 + 1) * 4},
    "v1/fig2": {**MAIN_RUNS_V1, "evaluate": MAIN_V1 + 2},
    "v1/fig3": {**MAIN_RUNS_V1, "evaluate": (MAIN_V1 + 1) * 3},
    "v1/fig4": {**MAIN_RUNS_V1, "evaluate": MAIN_V1 + 2 + (MAIN_V1 + 1) * 3},
    "v1/fig5": {"train_run": 7 * 5, "evaluate": (7 * 5 + 1) * 4},
    "v1/fig6": {"train_run": 3, "evaluate": 3 + 1},
    "v1/fig7": FULL_CODE,
    "v1/fig8": {"train_run": 2 * SWEPT, "evaluate": 2 * SWEPT + 2},
    "v1/fig9": {"train_run": 3 * 2 * 3, "evaluate": 3 * 2 * 3 + 1},
    "v1/figS1": {"train_run": 2 * SWEPT, "evaluate": (2 * SWEPT + 1) * 5},
    "v1/figS2": {**MAIN_RUNS_V1, "evaluate": MAIN_V1 + 2},
    "v1/figS3": {**CODE_RUNS_V1, "evaluate": (CPT_V1 + 1) * 4},
    "v1/figS4": {**MAIN_RUNS_V1, "evaluate": (MAIN_V1 + 1) * 3},
    "v1/figS5": {**MAIN_RUNS_V1, "evaluate": MAIN_V1 + 2 + (MAIN_V1 + 1) * 3},
    "v1/figS6": LONGEST_CODE,
    "v1/figS7": NO_MODEL,
    "v1/tableS1": NO_MODEL,
    "v1/tableS2": NO_MODEL,
    "all": {
        "train_leg": LEGS_V1,
        # regularisers, the sweep less two runs of the grid, AdamW; figures 6 and 9 show runs of the grid
        "train_run": MAIN_V1 + 20 + (2 * SWEPT - 2) + SWEPT,
        "evaluate": 7 + (MAIN_V1 + 20) * 4 + (2 * SWEPT - 2) + (SWEPT * 4 - 2) + SWEPT * 5,
        "spectra": 8,
    },
}
PAPER_V1_13B = {
    "v1/table1": NO_MODEL,
    "v1/fig1": PAPER_V1["v1/fig1"],
    "v1/figS3": PAPER_V1["v1/figS3"],
    "v1/figS7": NO_MODEL,
    "v1/tableS1": NO_MODEL,
    "v1/tableS2": NO_MODEL,
    "all": PAPER_V1["v1/fig1"],
}


def published(name: str) -> dict[str, int]:
    """An artifact's jobs where every run is a download instead."""
    jobs = {rule: count for rule, count in PAPER[name].items() if rule not in ("train_leg", "train_run")}
    if runs := PAPER[name].get("train_run"):
        jobs["fetch_published"] = runs
    return jobs


RELEASED = {
    name: published(name)
    for name in (
        *("fig1", "fig2", "fig3", "fig5", "fig6", "figS7", "figS8", "figS9", "table1"),
        *(f"tableS{number}" for number in range(1, 9)),
        *("tableS14", "tableS15", "tableS16"),
    )
} | {
    # rank 2048 beside the four others
    "released": {"fetch_published": 5 * 5, "evaluate": (5 * 5 + 1) * 4},
    # the base model's tasks are five and pass@k
    "all": {"fetch_published": MAIN + 5, "evaluate": 6 + (MAIN + 5) * 4 + 4, "spectra": 8},
}
EXPECTED = {"paper": PAPER, "paper-v1": PAPER_V1, "paper-v1-13b": PAPER_V1_13B, "released": RELEASED}


def golden() -> dict[str, dict[str, dict[str, int]]]:
    """Study to artifact to rule to jobs."""
    plans: dict[str, dict[str, dict[str, int]]] = {}
    with GOLDEN.open(newline="") as file:
        for row in csv.DictReader(file):
            plans.setdefault(row["study"], {}).setdefault(row["artifact"], {})[row["rule"]] = int(row["jobs"])
    return plans


@pytest.mark.parametrize("study", EXPECTED)
def test_costs_are_the_papers(study: str) -> None:
    costs = {}
    for name, jobs in golden()[study].items():
        # an evaluation is one job that asks a model; or one that judges what a model has written in another
        evaluations = {"evaluate": jobs.get("evaluate", 0) + jobs.get("judge", 0)}
        assert jobs.get("sample", 0) == jobs.get("judge", 0)
        costs[name] = {rule: count for rule, count in (jobs | evaluations).items() if rule in COSTLY and count}
    assert costs == EXPECTED[study]


def test_plans(tmp_path: Path) -> None:
    house = House(copy_checkout(ROOT, tmp_path / "house"), study="paper", standins="")
    made = tmp_path / "plans.csv"
    house.python(str(HERE / "plan_paper.py"), str(made))
    before, now = GOLDEN.read_text().splitlines(), made.read_text().splitlines()
    assert before == now, "\n".join(difflib.unified_diff(before, now, "paper_plans.csv", "now", lineterm="", n=0))
    # nothing was made or asked for on the way
    assert not house.store.exists()
    # and a person who asks for one artifact sees the same numbers
    assert house.plan("results/figures/figS3b.pdf") == golden()["paper"]["figS3b"]
