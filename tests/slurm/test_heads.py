"""The process that submits is ended and started again."""

import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.slurm.conftest import Cluster, ClusterHouse, Head, held, trainers

pytestmark = pytest.mark.thorough


def two_runs(study: dict[str, Any]) -> None:
    """Each of 20 steps after a leg of 20, and a checkpoint every second."""
    study["settings"].pop("math-ift")
    study["settings"]["code-cpt"] |= {"durations": [10240], "first_leg": 5120, "cooldown": 0.5}
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

    def train(head: Head) -> dict[str, str]:
        """Waits until two jobs of a head's own train, which do not end before they are released; returns them."""
        own: dict[str, str] = {}

        def both() -> bool:
            running = cluster.jobs(house.root, "RUNNING").items()
            own.update((job, comment) for job, comment in running if job not in ended)
            return len(own) == len(trainers(house.root)) == len(held(house.root)) == 2

        head.until(both, "two jobs to train")
        ended.update(own)
        return own

    house.hold()
    head = start(house, *runs)
    interrupted = train(head)
    head.process.send_signal(signal.SIGINT)  # which cancels what runs
    head.process.wait(400)
    # also where it was asking after them: held, they would run for ever
    assert not interrupted.keys() & cluster.jobs(house.root, "RUNNING", "PENDING").keys()

    head = start(house, *runs)
    told = train(head)
    head.process.send_signal(signal.SIGTERM)  # which lets it end
    head.until(lambda: "Will exit after finishing currently running jobs" in head.said, "it to be told")
    house.release()
    head.process.wait(400)

    house.hold()
    head = start(house, *runs)
    killed = train(head)
    head.process.kill()
    head.process.wait(400)
    assert "--unlock" in house.snakemake(*runs, ok=False)
    house.snakemake("--unlock")
    stopped = house.snakemake(*runs, "on_live_jobs=stop", ok=False)
    (error,) = [line for line in stopped.splitlines() if line.startswith("error:")]
    assert all(job in error for job in killed)
    assert re.search(r"`scancel [\d ]+`", error)
    before = head.said
    head = start(house, *runs)
    head.until(
        lambda: "Waiting for SLURM job" in head.said.removeprefix(before), "it to wait for the jobs of the one before"
    )
    house.release()
    head.wait()
    done = cluster.jobs(house.root, "COMPLETED")
    assert done == told | killed  # two legs, two runs, and each of them once
    assert len(set(done.values())) == 4
    assert set(ended) == set(cluster.jobs(house.root))
    assert cluster.jobs(house.root, "CANCELLED", "FAILED").keys() <= interrupted.keys()
    assert "Nothing to be done" in house.snakemake(*runs)


def test_a_head_in_a_job_of_its_own(settle: Callable[[str], ClusterHouse], cluster: Cluster) -> None:
    """Which asked for memory in another way than its own jobs do: they inherit none of that."""
    house = settle("loop")
    run = next(target for target in house.planned("runs") if "/math-ift/" in target)
    asked = ["--mem-per-cpu=1000", "--cpus-per-task=1", f"--output={house.root / 'head.log'}"]
    head = ["sbatch", "--wait", *asked, "--wrap", shlex.join(house.command(run, "--retries", "0"))]
    done = subprocess.run(head, cwd=house.root, env=house.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + (house.root / "head.log").read_text()
    assert len(house.manifests("runs")) == 1
    assert len(cluster.jobs(house.root, "COMPLETED")) == 2
