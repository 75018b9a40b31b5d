"""A job's own error is tried once more and not again; what ended it from outside gets every retry of the profile."""

import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.planning.failures import Failures

ROOT = Path(__file__).resolve().parents[2]
# as the executor plugin (2.8.0) says it
OUTSIDE = ["TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED", "DEADLINE", "BOOT_FAIL"]
OWN = ["FAILED", "OUT_OF_MEMORY"]
# the end of the log of a SLURM job whose program asked to be called again
INTERRUPTED = """\
Command 'set -euo pipefail;  srun --overlap python -m scripts.training.train' returned non-zero exit status 75.
[Sat Nov 21 20:07:16 2026]
Error in rule train_run:
"""


@dataclass
class Job:
    """What of a Snakemake job is used."""

    jobid: int
    attempt: int = 1
    restart_times: int = 4


def _record(message: str | None, *logs: Path) -> logging.LogRecord:
    record = logging.LogRecord("snakemake", logging.ERROR, "", 0, "Error in rule run", None, None)
    event = SimpleNamespace(value="job_error")
    record.__dict__.update(event=event, jobid=3, rule_msg=message, log=[str(log) for log in logs])
    return record


def _ended(state: str) -> str:
    return f"SLURM-job '17' failed, SLURM status is: '{state}'. Detailed failure reason unavailable."


def _attempts(states: list[str], logger: logging.Logger) -> int:
    """How many attempts a job gets that would end so, under Snakemake's own rule for retries."""
    job, failures = Job(3), Failures()
    failures.start([job], logger, says_why=True)
    logger.removeHandler(failures)
    for count, state in enumerate(states, start=1):
        failures.emit(_record(_ended(state)))
        if not job.restart_times > job.attempt - 1:
            return count
        job.attempt += 1
    return len(states)


@given(st.lists(st.sampled_from([*OUTSIDE, *OWN]), min_size=5, max_size=8))
def test_a_job_has_failed_at_its_second_error_in_a_row(states: list[str]) -> None:
    letters = "".join("o" if state in OWN else "-" for state in states)
    second = letters.find("oo") + 2 if "oo" in letters else len(letters)
    assert _attempts(states, logging.getLogger("test-failures-silent")) == min(second, 5)


def test_a_job_that_asks_to_go_on_has_not_failed(tmp_path: Path) -> None:
    job, failures = Job(3), Failures()
    failures.start([job], logging.getLogger("test-failures-silent"), says_why=True)
    log, slurm_log = tmp_path / "run.log", tmp_path / "17.log"
    log.write_text("stopped at step 3 of 9; the same call goes on from there\n")
    slurm_log.write_text(INTERRUPTED)
    for _ in range(4):
        failures.emit(_record(_ended("FAILED"), log, slurm_log))
    assert job.attempt == 1
    slurm_log.write_text(INTERRUPTED.replace("75", "1"))
    for _ in range(2):
        failures.emit(_record(_ended("FAILED"), log, slurm_log))
    assert job.attempt == 5


def test_local_jobs_have_the_retries_that_were_typed() -> None:
    job, failures, logger = Job(3), Failures(), logging.getLogger("test-failures-silent")
    failures.start([job], logger, says_why=False)
    logger.removeHandler(failures)
    for _ in range(4):
        failures.emit(_record(None))
    assert job.attempt == 1


def test_the_end_of_the_log_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test-failures")
    failures = Failures()
    failures.start([Job(3)], logger, says_why=True)
    logger.removeHandler(failures)
    log, slurm_log = tmp_path / "run.log", tmp_path / "17.log"
    log.write_text("".join(f"line {number}\n" for number in range(5000)) + "error: no room\n")
    slurm_log.write_text(INTERRUPTED.replace("75", "1"))
    with caplog.at_level(logging.ERROR, logger.name):
        failures.emit(_record(_ended("TIMEOUT"), log, slurm_log))
        assert not caplog.messages
        failures.emit(_record(_ended("FAILED"), log, slurm_log))
    [said] = caplog.messages
    assert said.startswith(f"{log} ends:\n")
    assert said.endswith("    line 4999\n    error: no room")
    assert len(said.splitlines()) == 21


def test_the_log_of_an_earlier_attempt_is_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test-failures")
    failures = Failures()
    failures.start([Job(3)], logger, says_why=True)
    logger.removeHandler(failures)
    log, slurm_log = tmp_path / "run.log", tmp_path / "17.log"
    log.write_text("stopped at step 3 of 9; the same call goes on from there\n")
    slurm_log.write_text("/shared/.venv/bin/python3: No module named snakemake\n")
    with caplog.at_level(logging.ERROR, logger.name):
        failures.emit(_record(_ended("FAILED"), log, slurm_log))
    assert caplog.messages == [f"{slurm_log} ends:\n    /shared/.venv/bin/python3: No module named snakemake"]


SNAKEFILE = """
import sys
sys.path.insert(0, {root!r})
from snakemake.logging import logger
from scripts.planning.failures import Failures

rule run:
    output: "out-{{n}}.txt"
    log: "{{n}}.log"
    shell: "echo attempt >> attempts-{{wildcards.n}}; echo 'error: broken {{wildcards.n}}' > {{log}}; false"

onstart:
    Failures().start(list(workflow.dag.needrun_jobs()), logger, says_why=True)
"""


def test_snakemake_gives_up_where_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "out-1.txt", "out-2.txt", "--cores", "1", "--retries", "3", "--keep-going"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    for number in (1, 2):
        assert (tmp_path / f"attempts-{number}").read_text() == "attempt\n" * 2
        assert f"{number}.log ends:\n    error: broken {number}\n" in done.stderr
    assert done.stderr.count("failed by itself 2 times in a row; it is not tried again") == 2
