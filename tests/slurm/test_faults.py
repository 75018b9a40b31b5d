"""What goes wrong on a cluster: the runs end as if nothing had happened, and without a person."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import load_file

from tests.conftest import House
from tests.slurm.conftest import Cluster, ClusterHouse, Head, files, held, trainers

pytestmark = pytest.mark.thorough

LOSS_TOLERANCE = 1e-3
"""Nats, between processes that share a batch and one that does not; as the tests of parallel training have it."""


def short(study: dict[str, Any]) -> None:
    """Few steps, checkpoints every second; at half a second a step, the longest runs take more than one attempt.

    One ends before it is 60 seconds old: of two minutes twice 25 seconds are not its own, and ten are for its end.
    """
    study["settings"]["code-cpt"] |= {"durations": [12800], "first_leg": 5120}
    study["settings"]["math-ift"] |= {"durations": [4]}
    study["resources"] |= {"checkpoint_seconds": 1, "startup_seconds": 25, "jobs": {"training": {"minutes": 2}}}


def wanted(manifests: list[str]) -> list[str]:
    """All but one: one long run is enough to meet a time limit."""
    return [manifest for manifest in manifests if "/math-ift/full" not in manifest]


def undisturbed(house: ClusterHouse, where: Path) -> House:
    """The same house, to be trained by Snakemake itself, at full speed."""
    plain = house.locally().copy(where / "plain")
    plain.standins = ""
    return plain


def test_jobs_that_are_ended_from_outside_go_on(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster, tmp_path: Path
) -> None:
    """One is cancelled, one requeued, one loses its node, one meets its time limit: the weights are those of none."""
    house = settle("slow")
    house.edit(short)
    plain = undisturbed(house, tmp_path)
    legs = [manifest.removeprefix(f"{house.store_root}/")[:-5] for manifest in house.planned("legs")]
    house.hold()
    head = start(house, *wanted(house.planned("runs")))

    def cancel(number: str) -> None:
        cluster("scancel", number)

    def requeue(number: str) -> None:
        cluster("scontrol", "requeue", number)

    def lose_node(number: str) -> None:
        node = cluster("squeue", "--noheader", f"--jobs={number}", "--format=%N").strip()
        cluster.lose(node)

    faults = {"full/5.12K": cancel, "lora-r2/5.12K": requeue, "lora-r2/10.24K": lose_node}
    names = {key[-12:]: name for name in faults for key in legs if f"code-cpt/{name}-seed0" in key}
    assert sorted(names.values()) == sorted(faults)
    disturbed: dict[str, Path] = {}
    parents: set[str] = set()

    def disturb() -> bool:
        """All that train wait for this: the three, until they have a checkpoint, for what ends them."""
        parents.update(trainers(house.root).values())
        running = {comment[-12:]: number for number, comment in cluster.jobs(house.root, "RUNNING").items()}
        saved = {step.parent.name for step in house.store.glob("legs/code-cpt/*/*.unfinished/step-*")}
        waiting = held(house.root)
        for path, fingerprint in waiting.items():
            name = names.get(fingerprint)
            if name in (None, *disturbed):
                if path not in disturbed.values():
                    path.unlink(missing_ok=True)
            elif fingerprint in running and any(fingerprint in unfinished for unfinished in saved):
                faults[name](running[fingerprint])
                disturbed[name] = path
        return len(disturbed) == len(faults) and not waiting.keys() & disturbed.values()

    head.until(disturb, "three jobs to be disturbed")
    house.release()
    plain.snakemake(*wanted(plain.planned("families/trained")))
    head.wait()
    assert files(house) == files(plain)
    assert parents == {"slurmstepd"}  # signals of SLURM reach no other process than its children
    trained = house.manifests("legs") | house.manifests("runs")
    attempts = {key: len(manifest["provenance"]["training"]["attempts"]) for key, manifest in trained.items()}
    assert all(attempts[key] > 1 for key in attempts if key[-12:] in names)
    # 132 steps of half a second do not fit into an attempt that ends before it is 60 seconds old
    assert all(count > 1 for key, count in attempts.items() if key.startswith("runs/math-ift"))
    assert not list(house.store.rglob("*.unfinished"))


def two_nodes(study: dict[str, Any]) -> None:
    """A leg of one step, and a run of 19 more, of full finetuning."""
    study["settings"].pop("math-ift")
    study["methods"].pop("lora-r2")
    for rates in (study["settings"]["code-cpt"], study["settings"]["code-cpt"]["sweep"]):
        rates["learning_rates"].pop("lora-r2")
    study["settings"]["code-cpt"] |= {"durations": [5120], "first_leg": 256, "cooldown": 0.95}
    study["resources"]["devices"] = {"kind": "cpu", "nodes": 2}


def test_two_nodes_train_one_model(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster, tmp_path: Path
) -> None:
    house = settle("")
    house.edit(two_nodes)
    plain = undisturbed(house, tmp_path)
    head = start(house, *house.planned("runs"))
    seen: dict[int, str] = {}
    head.until(lambda: seen.update(trainers(house.root)) or len(seen) >= 2, "two processes of a job")
    plain.snakemake(*plain.planned("families/trained"))
    head.wait()
    assert set(seen.values()) == {"slurmstepd"}
    ours, theirs = (made.manifests("legs") | made.manifests("runs") for made in (house, plain))
    assert len(ours) == len(theirs) == 2
    for key, manifest in ours.items():
        assert [attempt["devices"] for attempt in manifest["provenance"]["training"]["attempts"]] == [2]
        for (step, loss), (same_step, expected) in zip(
            manifest["results"]["loss_curve"], theirs[key]["results"]["loss_curve"], strict=True
        ):
            assert step == same_step
            assert loss == pytest.approx(expected, abs=LOSS_TOLERANCE)
    for key in house.manifests("legs"):
        # after one step LionW's moments are its gradient, clipped, times 1 - 0.95
        found, expected = (load_file(made.store / key / "optimizer.safetensors") for made in (house, plain))
        assert found.keys() == expected.keys()
        largest = max(float(abs(moment).max()) for moment in expected.values())
        assert largest > 0
        for name, moment in expected.items():
            numpy.testing.assert_allclose(found[name], moment, rtol=0, atol=1e-6 * largest, err_msg=f"{key} {name}")


def test_a_command_that_leaves_no_product(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with 0 all the same: the job does not hold its GPU for as long as the head waits for a file system."""
    monkeypatch.setenv("FORGETTING_CONTAINER", "true")
    house = settle("loop")
    run = next(target for target in house.planned("runs") if "/math-ift/" in target)
    said = start(house, run, "--retries", "0").wait(status=1)
    assert "SLURM status is: 'FAILED'" in said
    (log,) = (house.root / "results" / "logs" / "slurm").rglob("*.log")
    assert re.findall(r"Waiting at most (\d+) seconds for missing files", log.read_text()) == ["20"]
