"""Estimates follow from the study's own numbers; progress lines say what is done, what runs and what is left."""

import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from scripts.plan.grid import Grid
from scripts.planning.estimate import seconds
from scripts.planning.progress import ProgressLines
from scripts.store.store import Store
from scripts.study.load import load_study


@pytest.fixture
def grid() -> Grid:
    return Grid(load_study("smoke"), "smoke", {"data": 1, "pretrainer": 1, "trainer": 1, "evaluation": 1}, {})


def test_a_branch_costs_what_it_trains_itself(grid: Grid) -> None:
    # smoke: 4 rows of 64 tokens; 20 batches, of which 16 lie before its leg's end; 20,000 tokens/s, 5 s of imports
    run = grid.find("code-cpt/full/5.12K-seed0")
    assert seconds(grid, run, set()) == pytest.approx(5 + 4 * 4 * 64 / 20_000)


def test_a_family_costs_its_missing_members(grid: Grid) -> None:
    # legs end at 8 and 16 batches, branches go 8 to 10 and 16 to 20: 22 batches in all
    family = grid.find("families/trained/code-cpt/full-seed0")
    assert seconds(grid, family, set()) == pytest.approx(5 + 22 * 256 / 20_000)
    legs = {key for key in family.members if key.startswith("legs/")}
    assert seconds(grid, family, legs) == pytest.approx(5 + 6 * 256 / 20_000)


def test_instruction_finetuning_counts_packed_rows(grid: Grid) -> None:
    # 200 examples, 1.5 in a row of 96 tokens, 2 epochs
    run = grid.find("math-ift/full/2-seed0")
    assert seconds(grid, run, set()) == pytest.approx(5 + 2 * 200 / 1.5 * 96 / 20_000)


@dataclass
class Job:
    jobid: int
    rule: SimpleNamespace
    wildcards: SimpleNamespace


def test_lines(grid: Grid, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test-progress")
    progress = ProgressLines(grid, Store(tmp_path), {"train_family": "families/trained"})
    key = next(product.key for product in grid if product.kind == "trained")
    jobs = [
        Job(1, SimpleNamespace(name="train_family"), SimpleNamespace(key=key.removeprefix("families/trained/"))),
        Job(2, SimpleNamespace(name="draw"), SimpleNamespace(name="fig2")),
    ]
    with caplog.at_level(logging.INFO, "test-progress"):
        progress.start(jobs, 2, logger)
        assert "2 jobs" in caplog.messages[0]
        assert "2 cores" in caplog.messages[0]
        for job in jobs:
            logger.info("started", extra={"event": LogEvent.JOB_INFO, "jobid": job.jobid})
        logger.info("done", extra={"event": LogEvent.JOB_FINISHED, "job_id": 1})
        (line,) = (message for message in caplog.messages if message.startswith("Progress: 1 of 2 jobs"))
        assert "left" in line
        assert "draw fig2" in line
        assert "train_family" not in line
        logger.info("done", extra={"event": LogEvent.JOB_FINISHED, "job_id": 2})
        (line,) = (message for message in caplog.messages if message.startswith("Progress: 2 of 2 jobs"))
        assert "all done" in line
    logger.removeHandler(progress)
