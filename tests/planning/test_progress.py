"""Progress lines say what is done, what runs and what is left."""

import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from scripts.plan.grid import Grid
from scripts.planning.estimate import Estimate
from scripts.planning.progress import ProgressLines
from scripts.store.store import Store
from scripts.study.load import load_study


@pytest.fixture
def grid() -> Grid:
    return Grid(load_study("smoke"), "smoke", {"data": 1, "pretrainer": 1, "trainer": 1, "evaluation": 1}, {})


@dataclass
class Job:
    jobid: int
    rule: SimpleNamespace
    wildcards: SimpleNamespace


def test_lines(grid: Grid, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test-progress")
    progress = ProgressLines(Estimate(grid, Store(tmp_path)), {"train_family": "families/trained"})
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
