"""A product that another head makes while a job of this one waits for it: made once, and never lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import Cluster, ClusterHouse, Head, held

pytestmark = pytest.mark.thorough


def one_run(study: dict[str, Any]) -> None:
    """Of 20 steps after a leg of 20, and a checkpoint every second."""
    study["grain"] = "condition"
    study["settings"].pop("math-ift")
    study["settings"]["code-cpt"] |= {"durations": [10240], "first_leg": 5120, "cooldown": 0.5}
    study["main"] = {"methods": ["full"]}
    study["resources"]["checkpoint_seconds"] = 1


def test_another_head_makes_what_a_requeued_job_was_making(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster, tmp_path: Path
) -> None:
    """The job's own Snakemake deletes the manifest before it starts, and the job puts it back without training."""
    house = settle("slow,harness")
    house.edit(one_run)
    (leg,), (run,) = house.planned("legs/code-cpt"), house.planned("runs/code-cpt")
    house.locally().snakemake(leg)
    house.hold()
    head = start(house, run)
    head.until(lambda: held(house.root), "the job to train")
    (job,) = cluster.jobs(house.root, "RUNNING")
    cluster("scontrol", "requeuehold", job)
    head.until(lambda: job in cluster.jobs(house.root, "PENDING") and not held(house.root), "the job to be requeued")
    house.release()

    other = house.locally().clone(tmp_path / "other", keep_store=True)
    other.standins = "loop,harness"
    other.snakemake(str(house.root / run))
    made = other.manifests("runs")
    cluster("scontrol", "release", job)
    head.wait()
    assert other.manifests("runs") == made
    assert cluster.jobs(house.root, "COMPLETED").keys() == {job}
    assert "Nothing to be done" in house.snakemake(run)
