"""Plans every artifact of the paper in one process, and prints the jobs by rule as CSV: study, artifact, rule, jobs.

Run in a checkout without results: `python tests/end_to_end/plan_paper.py > tests/end_to_end/paper_plans.csv` makes the
golden table anew, for a person to read the difference.
"""

import csv
import logging
import os
import sys
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.logging import logger
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    Quietness,
    RerunTrigger,
    ResourceSettings,
)

sys.path.insert(0, os.getcwd())

from scripts.study.launch import launch_by_hand
from scripts.study.registry import REGISTRY, load_registry

STUDIES = ("paper", "paper-v1", "paper-v1-13b", "released")


class Stats(logging.Handler):
    """Keeps what a run says of its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if str(getattr(getattr(record, "event", None), "value", "")) == "run_info":
            self.jobs = {rule: count for rule, count in record.stats.items() if rule != "total"}  # type: ignore[attr-defined]


def plan(study: str, targets: set[str]) -> dict[str, int]:
    """Jobs by rule of a dry-run."""
    stats = Stats()
    # a rule that a plan of another target leaves out must not be left over from it
    os.environ.pop("FORGETTING_LAUNCH", None)
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, dryrun=True)) as api:
        config: dict[str, Any] = {"study": study, "store": "results/store"}
        workflow = api.workflow(
            ResourceSettings(cores=1), config_settings=ConfigSettings(config=config), snakefile=Path("Snakefile")
        )
        triggers = frozenset({RerunTrigger.MTIME, RerunTrigger.INPUT})
        dag = workflow.dag(DAGSettings(targets=targets, rerun_triggers=triggers))
        logger.addHandler(stats)
        dag.execute_workflow(executor="dryrun")
        logger.removeHandler(stats)
    return stats.jobs


def main() -> None:
    # Snakemake prints its plans to both streams; the table goes where the standard output was
    table = os.fdopen(os.dup(1), "w", newline="")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["study", "artifact", "rule", "jobs"])
    for study in STUDIES:
        grid = launch_by_hand(study, "results/store").grid
        for artifact in load_registry(REGISTRY).values():
            if artifact.lack(grid) is None:
                for rule, jobs in sorted(plan(study, {artifact.files[0]}).items()):
                    writer.writerow([study, artifact.name, rule, jobs])
    table.close()


if __name__ == "__main__":
    main()
