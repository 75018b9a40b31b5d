"""Several processes: their gradients are one process's, they stop and go on together, in any number, and end together.

Two processes are started as tasks of srun, four by torchrun, as if on two machines; each launch checks many things.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scripts.common.errors import UserError
from scripts.data.batches import Batches, write_cpt_rows, write_ift_rows
from scripts.training import checkpoints, execution, loop
from scripts.training.loop import fit
from scripts.training.parallel import ALONE, SAY_SECONDS, Group, launched, place
from tests.training import ranks

pytestmark = pytest.mark.arithmetic

ROOT = Path(__file__).resolve().parents[2]
LOSS_TOLERANCE = 1e-3  # nats, of any batch of the eight; without a sign that parts it is rounding, 1e-6


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A place with a base model and rows of 12 a batch, in groups of 6 with different numbers of targets."""
    directory = tmp_path_factory.mktemp("shared")
    (directory / "base").symlink_to(base)
    draw = np.random.default_rng(1)
    examples = []
    for _ in range(400):
        prompt = [int(t) for t in draw.integers(3, 64, draw.integers(1, 5))]
        examples.append((prompt, [prompt[-1]] * int(draw.integers(1, 4))))
    (directory / "rows").mkdir()
    sizes: dict[str, Any] = {"sequence_length": 16, "eos": 1, "pad": 2, "vocab_size": 64, "seed": 3}
    batch = {"batch_rows": 12, "group_rows": 6, "packing_ratio": 2.0, "max_epochs": 2}
    write_ift_rows(examples, directory / "rows", **sizes, **batch)
    (directory / "ten").mkdir()
    documents = [[int(t) for t in draw.integers(3, 64, 30)] for _ in range(30)]
    write_cpt_rows(documents, directory / "ten", **sizes, batch_rows=10, group_rows=5)
    batches = Batches(directory / "rows")
    counts = (batches.batch(0)[1] != -100).sum(axis=1)
    assert len(set(counts.tolist())) > 2
    return directory


def environment(**variables: object) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PYTEST_"))}
    ours = {"OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT, **variables}
    return kept | {name: str(value) for name, value in ours.items()}


def free_port() -> int:
    """A free one of those that jobs' numbers lead to."""
    while True:
        port = int(np.random.default_rng().integers(20000, 32000))
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def impatient(meeting: int, others: int) -> str:
    """The beginning of a program that says early that it waits, and gives up after so many seconds."""
    return f"""
import time
from datetime import timedelta
from scripts.training import parallel
parallel.SAY_SECONDS, parallel.MEETING_PATIENCE = 0.5, timedelta(seconds={meeting})
parallel.PATIENCE = timedelta(seconds={others})
"""


def task(rank: int, world: int, number: int, *arguments: str) -> "subprocess.Popen[str]":
    """Python as one of a step's `world` tasks, as srun starts it in the job of this `number`."""
    slurm = {"STEP_ID": 0, "STEP_NUM_NODES": 1, "STEP_NUM_TASKS": world, "PROCID": rank, "LOCALID": rank}
    variables = {f"SLURM_{name}": value for name, value in (slurm | {"JOB_ID": number}).items()}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(**variables, SLURM_LAUNCH_NODE_IPADDR="127.0.0.1"),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def launch_of_two(shared: Path) -> SimpleNamespace:
    number = free_port() - 20000
    processes = []
    for rank in range(2):
        processes.append(task(rank, 2, number, "-m", "tests.training.ranks", "2", str(shared)))
    said = [process.communicate(timeout=400)[1] for process in processes]
    return SimpleNamespace(said=said, status=[process.returncode for process in processes], found=found(shared, 2))


@pytest.fixture(scope="module")
def launch_of_four(shared: Path, launch_of_two: SimpleNamespace) -> SimpleNamespace:
    """torchrun on one machine; each process is told that there are two, with two processes each."""
    two_machines = "import os, runpy, sys; os.environ['LOCAL_WORLD_SIZE'] = '2'; "
    two_machines += "os.environ['LOCAL_RANK'] = str(int(os.environ['RANK']) % 2); "
    two_machines += "runpy.run_module('tests.training.ranks', run_name='__main__')"
    launcher = shared / "two_machines.py"
    launcher.write_text(two_machines)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"),
            *(str(launcher), "4", str(shared)),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(said=done.stderr, found=found(shared, 4))


def found(shared: Path, world: int) -> list[dict[str, Any]]:
    return [json.loads((shared / f"found-{world}-{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def one(shared: Path) -> dict[str, SimpleNamespace]:
    """The same jobs in one process."""
    runs = {}
    for kind in ranks.METHODS:
        job = ranks.job(shared, kind, "whole")
        metrics = fit(job, lambda _: None)
        runs[kind] = SimpleNamespace(out=job.out, losses=losses(metrics))
        assert runs[kind].losses[-1] < runs[kind].losses[0]
    return runs


def losses(metrics: dict[str, Any]) -> list[float]:
    return [loss for _, loss in metrics["loss_curve"]]


def files(out: Path) -> dict[str, bytes]:
    read = {path.name: path.read_bytes() for path in out.iterdir()}
    assert read
    return read


def check_close(out: Path, expected: SimpleNamespace) -> None:
    """The files, names, sizes and types of one process, and its weights but for single ones whose signs parted."""
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in expected.out.iterdir())
    for path in sorted(out.iterdir()):
        reference = expected.out / path.name
        if path.suffix == ".json":
            assert path.read_bytes() == reference.read_bytes()
            continue
        tensors, references = load_file(path), load_file(reference)
        assert list(tensors) == list(references)
        differences = []
        for name, tensor in tensors.items():
            assert (tensor.shape, tensor.dtype) == (references[name].shape, references[name].dtype)
            differences.append((tensor - references[name]).abs().flatten().double())
        assert torch.cat(differences).quantile(0.99) < 1e-5
        assert torch.cat(differences).max() < 2 * ranks.STOP * 2e-3


# the passes that 12, 6 and 3 rows are cut into
CUTS = [(1, 1), (1, 2), (1, 3), (1, 6), (2, 1), (2, 2), (2, 3), (2, 6), (4, 1), (4, 2), (4, 3)]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_first_gradients_are_those_of_one_process(
    shared: Path, launch_of_two: SimpleNamespace, launch_of_four: SimpleNamespace, kind: str
) -> None:
    """With a mean over groups, LoRA dropout, DDP, FSDP2 and HSDP, however the batch is cut into passes."""
    expected, expected_loss = ranks.gradients(shared, kind, ALONE, 12)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    told = {1: {}, 2: launch_of_two.found[0]["losses"], 4: launch_of_four.found[0]["losses"]}
    for world, rows in CUTS:
        name = f"{kind}-{world}-{rows}"
        if world == 1:
            gradients, told[1][name] = ranks.gradients(shared, kind, ALONE, rows)
        else:
            gradients = load_file(shared / f"gradient-{name}.safetensors")
        assert gradients.keys() == expected.keys()
        worst = max(float((gradients[each] - expected[each]).abs().max()) for each in expected)
        assert worst <= 1e-6 * largest, name
        assert told[world][name] == pytest.approx(expected_loss, rel=1e-6)


def test_bf16_is_computed_as_in_one_process(
    shared: Path, launch_of_two: SimpleNamespace, launch_of_four: SimpleNamespace
) -> None:
    """Norms are rounded to bf16 when layers are gathered, all else is rounded alike."""
    expected, loss = ranks.gradients(shared, "full", ALONE, 3, "bf16")
    exact, _ = ranks.gradients(shared, "full", ALONE, 3)
    joined = torch.cat([expected[name].flatten() for name in sorted(expected)])
    rounding = torch.cat([exact[name].flatten() for name in sorted(exact)]).sub(joined).norm() / joined.norm()
    assert 1e-4 < rounding < 0.05
    for world, launch in [(2, launch_of_two), (4, launch_of_four)]:
        gradients = load_file(shared / f"gradient-bf16-{world}.safetensors")
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
        difference = torch.cat([gradients[name].flatten() for name in sorted(gradients)]).sub(joined).norm()
        assert difference / joined.norm() < rounding
        assert launch.found[0]["losses"]["bf16"] == pytest.approx(loss, rel=2e-3)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_train_as_one(
    shared: Path, launch_of_two: SimpleNamespace, one: dict[str, SimpleNamespace], kind: str
) -> None:
    first, second = launch_of_two.found
    assert losses(first[f"{kind}-whole"]) == losses(second[f"{kind}-whole"])
    assert losses(first[f"{kind}-whole"]) == pytest.approx(one[kind].losses, abs=LOSS_TOLERANCE)
    check_close(shared / f"{kind}-two-whole" / "out", one[kind])


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_signal_to_one_stops_both_and_they_go_on_bit_for_bit(
    shared: Path, launch_of_two: SimpleNamespace, kind: str
) -> None:
    """From the checkpoint before, because one process's part of the newest is cut short."""
    for each in launch_of_two.found:
        assert each[f"{kind}-stopped"] == 75
        assert losses(each[f"{kind}-resumed"]) == losses(each[f"{kind}-whole"])
    said = launch_of_two.said[0]
    assert f"{kind}-two-cut/checkpoints/step-000004 cannot be read and is removed: shard-00002-" in said
    assert files(shared / f"{kind}-two-cut" / "out") == files(shared / f"{kind}-two-whole" / "out")
    assert said.count("stopped at step 4 of 8; the same call goes on from there") == 2
    assert "stopped" not in launch_of_two.said[1]


def test_two_write_their_own_parts(shared: Path, launch_of_two: SimpleNamespace) -> None:
    """Of weights and state that are spread over both, by the names of the model alone; and there is no pickle."""
    written = sorted((shared / "full-two-full-disk" / "checkpoints" / "step-000002").iterdir())
    assert [path.name for path in written] == [
        "shard-00001-model-00001-of-00001.safetensors",
        "shard-00002-model-00001-of-00001.safetensors",
        "state.json",
    ]
    parts = [load_file(path) for path in written[:2]]
    for name in ("weights.model.layers.0.mlp.up_proj.weight", "optimizer.model.layers.0.mlp.up_proj.weight"):
        assert [tuple(part[name].shape) for part in parts] == [(24, 32), (24, 32)]


def test_a_full_disk_of_one_ends_all_with_one_sentence(shared: Path, launch_of_two: SimpleNamespace) -> None:
    for each in launch_of_two.found:
        assert "step-000003 could not be written (No space left on device); earlier checkpoints" in each["full-disk"]
    kept = sorted(path.name for path in (shared / "full-two-full-disk" / "checkpoints").iterdir())
    assert kept == ["step-000001", "step-000002"]


def test_products_are_made_by_the_first_with_help_of_the_other(shared: Path, launch_of_two: SimpleNamespace) -> None:
    manifests = launch_of_two.found[0]["products"]
    assert [manifest["provenance"]["training"]["attempts"][0]["devices"] for manifest in manifests] == [2, 2]
    leg, run = (manifest["results"] for manifest in manifests)
    assert (leg["steps"], run["steps"]) == (3, ranks.STOP - 3)
    alone = ranks.job(
        shared,
        "full",
        "product",
        schedule={"name": "trapezoid", "warmup_batches": 2, "batches": ranks.STOP, "cooldown_batches": 2},
    )
    assert losses(fit(alone, lambda _: None)) == pytest.approx(losses(leg) + losses(run), abs=LOSS_TOLERANCE)


def test_when_one_is_killed_the_other_ends(launch_of_two: SimpleNamespace) -> None:
    assert launch_of_two.status == [1, -signal.SIGKILL]
    *_, last = launch_of_two.said[0].strip().splitlines()
    assert last.startswith("error: another process of this job has ended")
    assert "Traceback" not in launch_of_two.said[0]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_begin_four_go_on_and_one_ends(
    shared: Path,
    launch_of_four: SimpleNamespace,
    one: dict[str, SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    for each in launch_of_four.found:
        assert each[f"{kind}-stopped"] == 75
        assert losses(each[f"{kind}-finished"]) == pytest.approx(one[kind].losses, abs=LOSS_TOLERANCE)
    check_close(shared / f"{kind}-four" / "out", one[kind])
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    states: list[dict[str, Any]] = []
    metrics = fit(ranks.job(shared, kind, "one"), states.append)
    assert [(state["resumed_at"], state["step"]) for state in states] == [(7, 8)]
    assert losses(metrics) == pytest.approx(one[kind].losses, abs=LOSS_TOLERANCE)
    check_close(shared / f"{kind}-one" / "out", one[kind])


def test_parts_of_any_size_are_read_by_any_number(shared: Path, launch_of_four: SimpleNamespace) -> None:
    assert all(each["uneven"] for each in launch_of_four.found)
    read = {name: torch.zeros_like(tensor) for name, tensor in ranks.UNEVEN.items()}
    assert checkpoints.load(shared / "uneven", checkpoints.Owner("uneven", 12), read, {}, ALONE) is not None
    assert all(torch.equal(read[name], tensor) for name, tensor in ranks.UNEVEN.items())


def test_rows_that_cannot_be_divided_are_one_sentence(launch_of_four: SimpleNamespace) -> None:
    sentence = "a batch of 10 rows cannot be divided evenly among 4 processes; start a number of them that divides 10"
    assert [each["rows"] for each in launch_of_four.found] == [sentence] * 4


def test_places(launch_of_two: SimpleNamespace, launch_of_four: SimpleNamespace) -> None:
    assert [each["place"] for each in launch_of_two.found] == [[0, 2, 0, 2], [1, 2, 1, 2]]
    assert [each["place"] for each in launch_of_four.found] == [[rank, 4, rank % 2, 2] for rank in range(4)]


SLURM = {
    "SLURM_JOB_ID": "45007",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_NTASKS": "64",
    "SLURM_STEP_NUM_TASKS": "32",
    "SLURM_PROCID": "13",
    "SLURM_LOCALID": "5",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
}

INTERACTIVE = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "4294967290",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
}
"""In a shell of `salloc -n 4`: the step is the shell, with one task, in an allocation of four."""
TORCHRUN = {
    "RANK": "9",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
    "MASTER_ADDR": "10.0.0.9",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 0, 1, ":0", False)),
        ({"SLURM_JOB_ID": "45007", "SLURM_NTASKS": "8"}, (0, 1, 0, 1, ":0", False)),  # a batch script, not a step
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, (0, 1, 0, 1, ":0", False)),
        (INTERACTIVE, (0, 1, 0, 1, ":0", False)),
        (SLURM, (13, 32, 5, 8, "10.0.0.7:25007", False)),
        (SLURM | {"SLURM_STEP_NUM_NODES": "3"}, (13, 32, 5, 1, "10.0.0.7:25007", False)),  # not as many on each
        (
            SLURM | TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"},
            (9, 16, 1, 8, "10.0.0.9:29500", True),  # a task of srun that is torchrun
        ),
        (TORCHRUN, (9, 16, 1, 8, "10.0.0.9:29500", False)),
        (
            {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
            (0, 1, 0, 1, ":0", False),
        ),
    ],
)
def test_launchers_say_who_a_process_is(variables: dict[str, str], expected: tuple[Any, ...]) -> None:
    found = place(variables)
    where = f"{found.host}:{found.port}"
    assert (found.rank, found.world, found.local_rank, found.local_world, where, found.hosted) == expected


def test_in_a_shell_of_an_allocation_it_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in INTERACTIVE.items():
        monkeypatch.setenv(name, value)
    with launched() as group:
        assert group == ALONE


@pytest.mark.parametrize(
    ("here", "waiting", "missing"),
    [
        (0, "process 0 of 3 is waiting for processes 1, 2 to come to 127.0.0.1:", "processes 1, 2"),
        (2, "process 2 of 3 is waiting for process 0 to come to 127.0.0.1:", "process 0"),
    ],
)
def test_who_waits_for_others_to_start_says_for_whom_and_gives_up(here: int, waiting: str, missing: str) -> None:
    number = free_port() - 20000
    code = impatient(meeting=3, others=60) + "with parallel.launched(): pass"
    _, said = task(here, 3, number, "-c", code).communicate(timeout=200)
    assert waiting in said
    assert f"process {here} of 3 gives up: {missing} did not come to 127.0.0.1:{20000 + number}" in said
    assert SAY_SECONDS <= 15


def test_processes_of_a_machine_load_in_turn_and_fail_together(tmp_path: Path) -> None:
    """Who loads holds a lock that nobody waits for."""
    number = free_port() - 20000
    code = f"""
import fcntl, os, sys, time
from scripts.training import parallel

def load():
    with open({str(tmp_path / "lock")!r}, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.5)
    return os.getpid()

def fails():
    raise ValueError("of process 1" if group.rank else "of process 0")

with parallel.launched() as group:
    assert group.in_turn(load) == os.getpid()
    try:
        group.in_turn(fails)
    except ValueError as error:
        print("raised", error, file=sys.stderr)
"""
    processes = [task(rank, 2, number, "-c", code) for rank in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
        assert "raised of process 0" in said


def test_who_waits_for_others_that_run_says_so_and_gives_up() -> None:
    """Process 0 is busy with something else: with what it will tell, then for good."""
    number = free_port() - 20000
    code = (
        impatient(meeting=120, others=6)
        + """
with parallel.launched() as group:
    if group.is_first:
        time.sleep(3)
    assert group.told("a word" if group.is_first else None) == "a word"
    if group.is_first:
        time.sleep(30)
    group.any(False)
"""
    )
    processes = [task(rank, 2, number, "-c", code) for rank in range(2)]
    _, said = processes[1].communicate(timeout=200)
    processes[0].kill()
    processes[0].communicate()
    told, waiting, gave_up = (
        said.find(part)
        for part in (
            "process 1 of 2 is waiting for process 0\n",
            "process 1 of 2 is waiting for the other processes\n",
            "process 1 of 2 gives up: it has waited 0:00:06 for the others",
        )
    )
    assert 0 <= told < waiting < gave_up, said


@pytest.mark.parametrize("missing", ["SLURM_LOCALID", "SLURM_LAUNCH_NODE_IPADDR"])
def test_a_launcher_that_does_not_say_it_is_one_sentence(missing: str) -> None:
    with pytest.raises(UserError, match=f"does not say which process this is \\('{missing}'\\); start several"):
        place({name: value for name, value in SLURM.items() if name != missing})


def test_shares_are_all_rows_once() -> None:
    shares = [Group(rank, 4).share(12) for rank in range(4)]
    assert [row for share in shares for row in range(share.start, share.stop)] == list(range(12))
    with pytest.raises(UserError, match="a batch of 12 rows cannot be divided evenly among 5 processes"):
        Group(0, 5).share(12)


def test_a_frozen_base_in_bf16_leaves_the_adapter_alone(base: Path) -> None:
    from scripts.training.model import trainable_model

    model = trainable_model(base, ranks.METHODS["lora"], 0, None)
    execution.halve_frozen(model)
    kinds: dict[torch.dtype, set[str]] = {torch.float32: set(), torch.bfloat16: set()}
    for name, parameter in model.named_parameters():
        kinds[parameter.dtype].add(name.removesuffix(".weight").rpartition(".")[2])
    assert kinds[torch.bfloat16] == {"base_layer"}
    norms = {"input_layernorm", "post_attention_layernorm", "norm"}
    assert kinds[torch.float32] == {"default", "embed_tokens", *norms}, "of A and B; and the residual stream's"
