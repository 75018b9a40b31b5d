"""The process that submits: many jobs at a time; and when it is ended and started again, none is lost or doubled."""

import re
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.slurm.conftest import Cluster, ClusterHouse, Head


def test_sixty_jobs_none_lost_none_twice(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster
) -> None:
    house = settle("loop,harness")
    house.edit(lambda study: study.update(seeds=[0, 1]))
    grid_figures = ["results/figures/fig1.pdf", "results/figures/fig2.pdf"]
    house.locally().snakemake(*grid_figures)
    evaluations = house.manifests("evaluations")
    for key in evaluations:
        (house.store / f"{key}.json").unlink()
    house.log.write_text("")
    head = start(house, *grid_figures)
    head.wait()
    assert len(evaluations) >= 60
    comments = list(cluster.jobs(house.root).values())
    assert len(comments) == len(set(comments)) == len(evaluations)
    assert len(house.log.read_text().splitlines()) == len(evaluations)
    again = house.manifests("evaluations")
    assert {k: m["results"] for k, m in again.items()} == {k: m["results"] for k, m in evaluations.items()}


def two_runs(study: dict[str, Any]) -> None:
    """Each after a leg of 80 steps; what a slow loop makes of them outlasts a head and what is said to it."""
    study["settings"].pop("math-ift")
    study["settings"]["code-cpt"] |= {"durations": [25600], "first_leg": 20480}
    study["resources"]["checkpoint_seconds"] = 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_ended_head_is_started_again(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster, number: signal.Signals
) -> None:
    house = settle("slow,harness")
    house.edit(two_runs)
    said = house.snakemake("-n")
    runs = sorted(set(re.findall(rf"{house.store_root}/runs/\S+/25\.6K-seed0-[0-9a-f]{{12}}\.json", said)))
    assert len(runs) == 2
    head = start(house, *runs)
    head.until(lambda: len({step.parent for step in house.store.rglob("step-*")}) == 2, "two legs to train")
    live = cluster.jobs(house.root, "RUNNING")
    assert len(live) == 2
    head.process.send_signal(number)
    head.process.wait(120)
    if number == signal.SIGKILL:
        locked = house.snakemake(*runs, ok=False)
        assert "--unlock" in locked
        house.snakemake("--unlock")
        stopped = house.snakemake(*runs, "on_live_jobs=stop", ok=False)
        (error,) = [line for line in stopped.splitlines() if line.startswith("error:")]
        assert all(job in error for job in live)
        assert re.search(r"`scancel [\d ]+`", error)
    again = start(house, *runs)
    said = again.wait()
    if number == signal.SIGKILL:
        assert "Waiting for SLURM job" in said
    done = Counter(cluster.jobs(house.root, "COMPLETED").values())
    assert len(done) == 4  # two legs, two runs
    assert set(done.values()) == {1}
    if number != signal.SIGINT:  # which cancels what runs
        assert not cluster.jobs(house.root, "CANCELLED", "FAILED")
    assert "Nothing to be done" in house.snakemake(*runs)
