"""A controller that goes away, and limits on the jobs in the queue: a launch waits, and goes on."""

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.slurm.conftest import Cluster, ClusterHouse, Head, held, trainers
from tests.slurm.test_heads import two_runs


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "seconds"), [("controller", 12), ("controller", 180), ("squeue", 45)])
def test_an_outage_in_the_middle_of_a_launch(
    settle: Callable[[str], ClusterHouse],
    start: Callable[..., Head],
    cluster: Cluster,
    tmp_path: Path,
    fault: str,
    seconds: float,
) -> None:
    """Two launches of twelve evaluations each in two checkouts; both go on, and nothing fails or is made twice."""
    house, away = settle("loop,harness"), tmp_path / "away"
    house.locally().snakemake(*house.locally().planned("families/trained"))
    house.log.write_text("")
    programs = tmp_path / "programs"
    programs.mkdir()
    squeue = programs / "squeue"
    squeue.write_text(f'#!/bin/sh\n[ ! -e {away} ] || exit 1\nexec {cluster.root}/bin/squeue "$@"\n')
    squeue.chmod(0o755)
    roots = [house.root, house.copy(tmp_path / "two").root]
    houses = [replace(house, root=root, programs=programs) for root in roots]
    heads = [start(one, *one.planned("evaluations")[:12]) for one in houses]
    for head in heads:
        head.until(lambda head=head: "submitted with SLURM jobid" in head.said, "a job to be submitted")
    cluster.stop() if fault == "controller" else away.touch()
    time.sleep(seconds)
    cluster.go_on() if fault == "controller" else away.unlink()
    for head in heads:
        said = head.wait(seconds=1200)
        assert "Error in rule" not in said
        assert len(head.house.log.read_text().splitlines()) == len(head.house.manifests("evaluations")) == 12


@pytest.mark.thorough
def test_an_outage_while_jobs_train(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster
) -> None:
    """Jobs that end meanwhile and those that do not are found again, and all can be cancelled afterwards."""
    house = settle("slow")
    house.edit(two_runs)
    legs = house.planned("legs")[:2]
    house.hold()
    head = start(house, *legs)
    head.until(lambda: len(trainers(house.root)) == len(held(house.root)) == 2, "two jobs to train")
    cluster.stop()
    try:
        head.until(lambda: "SLURM has not answered since" in head.said, "it to be noticed")
        next(iter(held(house.root))).unlink()
        head.until(lambda: len(trainers(house.root)) == 1, "a job to end meanwhile")
    finally:
        cluster.go_on()
    head.until(lambda: "SLURM answers again" in head.said and "Finished jobid" in head.said, "it to be over")
    assert len(house.manifests("legs")) == 1
    head.process.send_signal(signal.SIGINT)
    head.process.wait(400)
    assert not cluster.jobs(house.root, "RUNNING", "PENDING")
    house.release()
    said = start(house, *legs).wait()
    assert len(house.manifests("legs")) == 2
    assert "failed" not in said


@pytest.mark.thorough
def test_a_controller_that_goes_away_as_a_job_starts(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster
) -> None:
    """`srun` in the job would give up after ten seconds, and the only attempt would have failed."""
    house = settle("loop")
    run = next(target for target in house.planned("runs") if "/math-ift/" in target)
    head = start(house, run, "--retries", "0")
    head.until(lambda: cluster.jobs(house.root, "RUNNING"), "a job to start")
    (number,) = cluster.jobs(house.root, "RUNNING")
    cluster.stop()
    log = house.root / "results" / "logs" / "slurm"
    try:
        waits = "SLURM's controller does not answer; waiting for it"
        head.until(lambda: any(waits in path.read_text() for path in log.rglob(f"{number}.log")), "the job to wait")
        time.sleep(12)
    finally:
        cluster.go_on()
    said = head.wait()
    assert "Error in rule" not in said
    assert list(cluster.jobs(house.root, "COMPLETED")) == [number]


@pytest.mark.thorough
def test_a_limit_on_jobs_in_the_queue(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster, tmp_path: Path
) -> None:
    """Three at a time, where Snakemake would submit all: SLURM's refusals are no failures of the jobs."""
    house = settle("loop,harness")
    house.locally().snakemake(*house.locally().planned("families/trained"))
    house.log.write_text("")
    evaluations = house.planned("evaluations")[:5]
    house.programs = tmp_path / "programs"
    house.programs.mkdir()
    sbatch = house.programs / "sbatch"
    sbatch.write_text(
        f"""#!/bin/bash
if (( $({cluster.root}/bin/squeue --noheader --states=PENDING,RUNNING | wc -l) >= 3 )); then
    echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" \
        "(job submit limit, user's size and/or time limits)" >&2
    exit 1
fi
exec {cluster.root}/bin/sbatch "$@"
"""
    )
    sbatch.chmod(0o755)
    said = start(house, *evaluations).wait()
    assert "SLURM takes no more jobs for now (AssocMaxSubmitJobLimit)" in said
    assert "SLURM takes jobs again." in said
    assert {f"{house.store_root}/{key}.json" for key in house.manifests("evaluations")} == set(evaluations)
    assert len(cluster.jobs(house.root)) == len(house.log.read_text().splitlines()) == len(evaluations)


@pytest.mark.thorough
def test_a_held_job(
    settle: Callable[[str], ClusterHouse],
    start: Callable[..., Head],
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is named with the command that releases it. The site allows one job in the queue, so it has that to itself."""
    monkeypatch.setenv("FORGETTING_MAX_JOBS", "1")
    house = settle("loop,harness")
    house.locally().snakemake(*house.locally().planned("families/trained"))
    evaluations = house.planned("evaluations")[:2]
    cluster("scontrol", "update", "nodename=c1,c2", "state=drain", "reason=test")
    try:
        head = start(house, *evaluations)
        head.until(lambda: cluster.jobs(house.root, "PENDING"), "a job to wait")
        (number,) = cluster.jobs(house.root, "PENDING")
        cluster("scontrol", "hold", number)
        release = f"waits until somebody types `scontrol release {number}`"
        head.until(lambda: release in head.said, "it to be named")
        assert list(cluster.jobs(house.root)) == [number]
        cluster("scontrol", "release", number)
    finally:
        cluster("scontrol", "update", "nodename=c1,c2", "state=resume")
    head.wait()
    assert len(house.manifests("evaluations")) == 2
