"""What is launched is what is made, whatever becomes of the files while jobs wait."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import Cluster, ClusterHouse, Head, files

pytestmark = pytest.mark.thorough


def test_a_launch_is_frozen(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster, tmp_path: Path
) -> None:
    """While its jobs wait, a study is changed, cut down and broken: what is made is what was launched."""
    house = settle("loop")
    study = house.study_file.read_text()
    plain = house.locally().copy(tmp_path / "plain")
    targets = [target for target in house.planned("runs") if "/math-ift/" in target]
    plain.snakemake(*targets)

    def change(content: dict[str, Any]) -> None:
        content["settings"]["math-ift"]["learning_rates"] = {"full": 0.0001, "lora-r2": 0.0001}

    def cut_down(content: dict[str, Any]) -> None:
        content["settings"].pop("math-ift")

    edits: list[Callable[[], object]] = [
        lambda: house.edit(change),
        lambda: house.edit(cut_down),
        lambda: house.study_file.write_text("settings: [what"),
        house.study_file.unlink,
    ]
    cluster("scontrol", "update", "nodename=c1,c2", "state=drain", "reason=test")
    try:
        head = start(house, *targets)
        head.until(lambda: len(cluster.jobs(house.root, "PENDING")) == len(targets) == len(edits), "all jobs to wait")
        for number in (jobs := cluster.jobs(house.root, "PENDING")):
            cluster("scontrol", "hold", number)
    finally:
        cluster("scontrol", "update", "nodename=c1,c2", "state=resume")
    for number, edit in zip(jobs, edits, strict=True):
        edit()
        cluster("scontrol", "release", number)
        head.until(lambda number=number: number in cluster.jobs(house.root, "COMPLETED"), f"job {number} to end")
    head.wait()
    assert len(files(house)) == len(edits)
    assert files(house) == files(plain)
    house.study_file.write_text(study)
    assert "Nothing to be done" in house.snakemake(*targets, "-n")


def test_other_code_than_the_launch_had_is_not_run(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster
) -> None:
    house = settle("loop")
    target = house.planned("runs/math-ift")[0]
    cluster("scontrol", "update", "nodename=c1,c2", "state=drain", "reason=test")
    try:
        head = start(house, target, "--retries", "0")
        head.until(lambda: cluster.jobs(house.root, "PENDING"), "a job to wait")
        with (house.root / "scripts" / "training" / "schedules.py").open("a") as file:
            file.write("\n_EDITED = True\n")
    finally:
        cluster("scontrol", "update", "nodename=c1,c2", "state=resume")
    said = head.wait(status=1)
    changed = "the code behind 'trainer' changed after this launch started (scripts/training/schedules.py)"
    assert f"{changed}; nothing was made, start Snakemake again" in said
    assert not house.manifests("legs") | house.manifests("runs")
    assert "Traceback" not in said
