"""What goes wrong on a cluster: the runs end as if nothing had happened, and without a person."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House
from tests.slurm.conftest import Cluster, ClusterHouse, Head

Settle = Callable[[str], ClusterHouse]
Start = Callable[..., Head]
LOSS_TOLERANCE = 1e-3
"""Nats, between processes that share a batch and one that does not; as the tests of parallel training have it."""


def short(study: dict[str, Any]) -> None:
    """Few steps, checkpoints every second; at half a second a step, the longest runs take more than one attempt."""
    study["settings"]["code-cpt"] |= {"durations": [12800], "first_leg": 5120}
    study["settings"]["math-ift"] |= {"durations": [4]}
    study["resources"] |= {"checkpoint_seconds": 1, "startup_seconds": 20, "jobs": {"training": {"minutes": 2}}}


def files(house: House) -> dict[str, Any]:
    """Of each leg and run, the hashes of its weights."""
    return {key: manifest["files"] for place in ("legs", "runs") for key, manifest in house.manifests(place).items()}


@pytest.fixture(scope="module")
def undisturbed(prepared: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    house = prepared.copy(tmp_path_factory.mktemp("undisturbed"))
    house.standins = "harness"
    house.edit(short)
    variables = pytest.MonkeyPatch()
    variables.setenv("OMP_NUM_THREADS", "1")
    house.snakemake()
    variables.undo()
    return house


def trainers(root: Path) -> dict[int, str]:
    """Process ids of the trainers that work in a directory, to the name of their parent's program."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"scripts.training.train" in words and words[0].endswith(b"python") and _in(entry, root):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                found[int(entry.name)] = Path(f"/proc/{parent}/comm").read_text().strip()
        except OSError:
            continue
    return found


def _in(entry: Path, root: Path) -> bool:
    return Path(os.readlink(entry / "cwd")) == root


def test_jobs_that_are_ended_from_outside_go_on(
    undisturbed: House, settle: Settle, start: Start, cluster: Cluster
) -> None:
    """One is cancelled, one requeued, one loses its node, one meets its time limit: the weights are those of none."""
    house = settle("slow,harness")
    house.edit(short)
    head = start(house)

    def cancel(number: str) -> None:
        cluster("scancel", number)

    def requeue(number: str) -> None:
        cluster("scontrol", "requeue", number)

    def lose_node(number: str) -> None:
        node = cluster("squeue", "--noheader", f"--jobs={number}", "--format=%N").strip()
        cluster("scontrol", "update", f"nodename={node}", "state=down", "reason=test")  # it comes back by itself

    faults = {"full/5.12K": cancel, "lora-r2/5.12K": requeue, "lora-r2/10.24K": lose_node}
    disturbed: dict[str, str] = {}
    parents: set[str] = set()

    def disturb() -> bool:
        parents.update(trainers(house.root).values())
        running = cluster.jobs(house.root, "RUNNING")
        for step in house.store.glob("legs/code-cpt/*/*.unfinished/step-*"):
            key = str(step.parent.relative_to(house.store)).removesuffix(".unfinished")
            name = next((name for name in faults if f"code-cpt/{name}-seed0" in key), "")
            numbers = [number for number, comment in running.items() if comment.endswith(key[-12:])]
            if name and name not in disturbed and numbers:
                disturbed[name] = key
                faults[name](numbers[0])
        return len(disturbed) == len(faults)

    head.until(disturb, "three jobs to disturb")
    end = time.monotonic() + 400
    while head.process.poll() is None and time.monotonic() < end:
        cluster.repair()
        time.sleep(1)
    head.wait(seconds=1)
    assert files(house) == files(undisturbed)
    assert house.csv() == undisturbed.csv()
    assert parents == {"slurmstepd"}  # signals of SLURM reach no other process than its children
    trained = house.manifests("legs") | house.manifests("runs")
    attempts = {key: len(manifest["provenance"]["training"]["attempts"]) for key, manifest in trained.items()}
    assert all(attempts[key] > 1 for key in disturbed.values())
    # 132 steps of half a second do not fit into an attempt that ends when it is 80 seconds old
    assert all(count > 1 for key, count in attempts.items() if key.startswith("runs/math-ift"))
    assert not list(house.store.rglob("*.unfinished"))


def test_two_nodes_train_one_model(undisturbed: House, settle: Settle, start: Start, cluster: Cluster) -> None:
    house = settle("harness")
    house.edit(short)
    house.edit(lambda study: study["resources"].update(jobs={"training": {"nodes": 2}}))
    legs = [key for key in files(undisturbed) if "/5.12K" in key]
    head = start(house, *(f"{house.store_root}/{key}.json" for key in legs))
    seen: dict[int, str] = {}
    head.until(lambda: seen.update(trainers(house.root)) or len(seen) >= 2, "two processes of a job")
    head.wait()
    assert set(seen.values()) == {"slurmstepd"}
    ours, theirs = house.manifests("legs"), undisturbed.manifests("legs")
    for key in legs:
        assert ours[key]["provenance"]["training"]["attempts"][-1]["devices"] == 2
        for (step, loss), (same_step, expected) in zip(
            ours[key]["results"]["loss_curve"], theirs[key]["results"]["loss_curve"], strict=True
        ):
            assert step == same_step
            assert loss == pytest.approx(expected, abs=LOSS_TOLERANCE)


def test_a_launch_is_frozen(settle: Settle, start: Start, cluster: Cluster, tmp_path: Path) -> None:
    """While its jobs wait, a study is changed, cut down and broken: what is made is what was launched."""
    house = settle("loop,harness")
    study = house.study_file.read_text()
    plain = house.copy(tmp_path / "plain")
    plain.snakemake()
    runs = [key for key in files(plain) if key.startswith("runs/math-ift/")]
    targets = [f"{house.store_root}/{key}.json" for key in runs]

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
        head.until(lambda: len(cluster.jobs(house.root, "PENDING")) == len(runs) == len(edits), "all jobs to wait")
        for number in (jobs := cluster.jobs(house.root, "PENDING")):
            cluster("scontrol", "hold", number)
    finally:
        cluster("scontrol", "update", "nodename=c1,c2", "state=resume")
    for number, edit in zip(jobs, edits, strict=True):
        edit()
        cluster("scontrol", "release", number)
        head.until(lambda number=number: number in cluster.jobs(house.root, "COMPLETED"), f"job {number} to end")
    head.wait()
    made = house.manifests("runs")
    assert {key: made[key]["files"] for key in runs} == {key: files(plain)[key] for key in runs}
    house.study_file.write_text(study)
    assert "Nothing to be done" in house.snakemake(*targets, "-n")


def test_other_code_than_the_launch_had_is_not_run(settle: Settle, start: Start, cluster: Cluster) -> None:
    house = settle("loop,harness")
    cluster("scontrol", "update", "nodename=c1,c2", "state=drain", "reason=test")
    try:
        head = start(house, "--retries", "0")
        head.until(lambda: cluster.jobs(house.root, "PENDING"), "a job to wait")
        with (house.root / "scripts" / "training" / "schedules.py").open("a") as file:
            file.write("\n_EDITED = True\n")
    finally:
        cluster("scontrol", "update", "nodename=c1,c2", "state=resume")
    said = head.wait(status=1)
    assert (
        "the code behind 'trainer' changed after this launch started; nothing was made, start Snakemake again" in said
    )
    assert not house.manifests("legs") | house.manifests("runs")
    assert "Traceback" not in said
