"""The process that submits is ended and started again."""

import re
import signal
from collections.abc import Callable
from typing import Any

from tests.slurm.conftest import Cluster, ClusterHouse, Head, trainers


def two_runs(study: dict[str, Any]) -> None:
    """Each of 60 steps after a leg of 60: with a slow loop they outlast a head and what is said to it."""
    study["settings"].pop("math-ift")
    study["settings"]["code-cpt"] |= {"durations": [30720], "first_leg": 15360, "cooldown": 0.5}
    study["resources"]["checkpoint_seconds"] = 1


def test_ended_heads_are_started_again(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster
) -> None:
    """One is interrupted, one told to end, one killed, each while two jobs of it train: nothing is lost or doubled."""
    house = settle("slow")
    house.edit(two_runs)
    runs = house.planned("runs/code-cpt")
    assert len(runs) == 2
    ended: dict[str, str] = {}

    def end(head: Head, number: signal.Signals) -> dict[str, str]:
        """Sends a head a signal when two jobs of its own train; returns them."""
        own: dict[str, str] = {}

        def train() -> bool:
            running = cluster.jobs(house.root, "RUNNING").items()
            own.update((job, comment) for job, comment in running if job not in ended)
            return len(own) == len(trainers(house.root)) == 2

        head.until(train, "two jobs to train")
        head.process.send_signal(number)
        head.process.wait(120)
        ended.update(own)
        return own

    interrupted = end(start(house, *runs), signal.SIGINT)  # which cancels what runs
    told = end(start(house, *runs), signal.SIGTERM)
    killed = end(start(house, *runs), signal.SIGKILL)
    assert "--unlock" in house.snakemake(*runs, ok=False)
    house.snakemake("--unlock")
    stopped = house.snakemake(*runs, "on_live_jobs=stop", ok=False)
    (error,) = [line for line in stopped.splitlines() if line.startswith("error:")]
    assert all(job in error for job in killed)
    assert re.search(r"`scancel [\d ]+`", error)
    assert "Waiting for SLURM job" in start(house, *runs).wait()
    done = cluster.jobs(house.root, "COMPLETED")
    assert done == told | killed  # two legs, two runs, and each of them once
    assert len(set(done.values())) == 4
    assert set(ended) == set(cluster.jobs(house.root))
    assert cluster.jobs(house.root, "CANCELLED", "FAILED").keys() <= interrupted.keys()
    assert "Nothing to be done" in house.snakemake(*runs)
