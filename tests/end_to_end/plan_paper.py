"""Plans everything that the paper's studies have, and writes the jobs by rule as CSV: study, artifact, rule, jobs.

Run in a checkout without results: `python tests/end_to_end/plan_paper.py tests/end_to_end/paper_plans.csv` makes the
golden table anew, for a person to read the difference.

A study is planned once, with all that it has; an artifact's plan is the part of it that the artifact's file is made
from.
"""

import csv
import logging
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.logging import logger
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings
from snakemake_interface_logger_plugins.common import LogEvent

sys.path.insert(0, os.getcwd())

from scripts.launch.launch import launch_by_hand
from scripts.plan.registry import REGISTRY, load_registry

STUDIES = ("paper", "paper-v1", "paper-v1-13b", "released")
STORE = "results/store"


@dataclass(frozen=True)
class Job:
    number: int
    rule: str
    inputs: tuple[str, ...]


class Announced(logging.Handler):
    """Keeps the jobs that a dry-run announces, by the files that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.makes: dict[str, Job] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == LogEvent.JOB_INFO:
            job = Job(record.jobid, record.rule_name, tuple(record.input))  # type: ignore[attr-defined]
            self.makes |= dict.fromkeys(record.output, job)  # type: ignore[attr-defined]

    def behind(self, file: str) -> Counter[str]:
        """Jobs by rule that a file needs, its own among them."""
        found: dict[int, Job] = {}
        files = [file]
        while files:
            job = self.makes.get(files.pop())
            if job and job.number not in found:
                found[job.number] = job
                files += job.inputs
        return Counter(job.rule for job in found.values())


def planned(study: str) -> Announced:
    """All jobs of a dry-run of everything that a study has."""
    os.environ.pop("FORGETTING_LAUNCH", None)  # of the study before
    announced = Announced()
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, dryrun=True)) as api:
        workflow = api.workflow(
            ResourceSettings(cores=1),
            config_settings=ConfigSettings(config={"study": study, "store": STORE}),
            snakefile=Path("Snakefile"),
        )
        dag = workflow.dag(DAGSettings(targets={"all"}))
        logger.addHandler(announced)
        dag.execute_workflow(executor="dryrun")
        logger.removeHandler(announced)
    return announced


def main(path: Path) -> None:
    rows: list[tuple[str, str, str, int]] = []
    for study in STUDIES:
        plan = planned(study)
        grid = launch_by_hand(study, STORE).grid
        asked = {
            artifact.name: artifact.files()[0]
            for artifact in load_registry(REGISTRY).values()
            if artifact.lack(grid) is None
        }
        jobs = {name: plan.behind(file) for name, file in asked.items()}
        jobs["all"] = Counter(job.rule for job in set(plan.makes.values()))
        rows += [(study, name, rule, count) for name in jobs for rule, count in sorted(jobs[name].items())]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["study", "artifact", "rule", "jobs"])
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
