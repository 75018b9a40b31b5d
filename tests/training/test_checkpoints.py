"""Checkpoints appear whole, the newest two are kept, and a damaged one costs no more than the way back to its elder."""

import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from scripts.common.errors import UserError
from scripts.training import checkpoints
from scripts.training.checkpoints import Owner, Progress, Writer
from scripts.training.parallel import ALONE

OWNER = Owner("runs/it-0123456789ab", batch_rows=4)
TENSORS = "shard-00001-model-00001-of-00001.safetensors"


@dataclass
class Found:
    """A checkpoint that was read."""

    progress: Progress
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def state(step: int, size: int = 6) -> tuple[Progress, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    progress = Progress(step, tokens=8 * step, loss_tokens=7 * step, seconds=0.1, losses=[1 / 3, 2e-17])
    weights = {"w": torch.full((size // 2, 2), step, dtype=torch.float32).requires_grad_()}
    # AdamW's number of steps has no dimension
    return progress, weights, {"w": torch.full((size // 2, 2), -step, dtype=torch.float32), "step": torch.tensor(step)}


def write(directory: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.save(directory, OWNER, *state(step), ALONE)


def load(directory: Path, owner: Owner = OWNER, size: int = 6) -> Found | None:
    _, weights, optimizer = state(0, size)
    progress = checkpoints.load(directory, owner, weights, optimizer, ALONE)
    return None if progress is None else Found(progress, weights, optimizer)


def change(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_none_to_begin_with(tmp_path: Path) -> None:
    assert load(tmp_path / "absent") is None


def test_newest_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 8, 9, 10, 1_000_000)
    assert names(tmp_path) == ["step-000010", "step-1000000"]
    found = load(tmp_path)
    assert found is not None
    assert found.progress == Progress(1_000_000, 8_000_000, 7_000_000, 0.1, [1 / 3, 2e-17])
    assert torch.equal(found.weights["w"], torch.full((3, 2), 1e6))
    assert torch.equal(found.optimizer["w"], torch.full((3, 2), -1e6))
    assert found.optimizer["step"] == 1_000_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: truncate(path / TENSORS),
        lambda path: truncate(path / "state.json"),
        lambda path: (path / "state.json").write_text('{"steps": 3}'),
        lambda path: change(path / TENSORS, -1),
        lambda path: change(path / TENSORS, 30),  # in its header
        lambda path: (path / "state.json").write_text(
            (path / "state.json").read_text().replace('"tokens": 8', '"tokens": 9')
        ),
        lambda path: (path / TENSORS).write_bytes(b""),
        lambda path: (path / TENSORS).unlink(),
        lambda path: [file.unlink() for file in path.iterdir()],
    ],
)
def test_damaged_newest_falls_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    write(tmp_path, 5, 10)
    damage(tmp_path / "step-000010")
    found = load(tmp_path)
    assert found is not None
    assert found.progress.step == 5
    assert names(tmp_path) == ["step-000005"]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "step-000010 cannot be read" in output.err


def test_all_damaged(tmp_path: Path) -> None:
    write(tmp_path, 5, 10)
    for path in tmp_path.iterdir():
        truncate(path / TENSORS)
    assert load(tmp_path) is None


def test_killed_at_any_moment_of_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was the last thing it did, one of the two newest is there, whole, and the next write finds its way."""
    calls = [
        (safetensors.torch, "save"),
        (os, "fsync"),
        (checkpoints, "_sync"),
        (checkpoints, "file_sha256"),
        (Path, "write_text"),
        (Path, "rename"),
        (Path, "mkdir"),
        (shutil, "rmtree"),
    ]
    moments, done = 0, False
    while not done:
        directory = tmp_path / str(moments)
        write(directory, 5, 10, 11)
        left = moments
        with monkeypatch.context() as patch:

            def die_at_last(call: Callable[..., Any]) -> Callable[..., Any]:
                def wrapped(*arguments: Any, **options: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise KeyboardInterrupt
                    return call(*arguments, **options)

                return wrapped

            for place, name in calls:
                patch.setattr(place, name, die_at_last(getattr(place, name)))
            try:
                write(directory, 11 if moments % 2 else 12)
                done = moments % 2 == 0
            except KeyboardInterrupt:
                pass
        found = load(directory)
        assert found is not None
        assert found.progress.step in (10, 11, 12)
        assert torch.equal(found.weights["w"], state(found.progress.step)[1]["w"])
        write(directory, 13)
        names_now = names(directory)
        assert len(names_now) == 2
        assert names_now[1] == "step-000013"
        moments += 1
    assert moments > 10


@pytest.fixture
def small_files() -> Any:
    """No file can have more than 64 KiB: a write fails half-way, as it does on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, small_files: None) -> None:
    write(tmp_path, 5)
    progress, _, optimizer = state(6)
    with pytest.raises(UserError) as told:
        checkpoints.save(tmp_path, OWNER, progress, {"w": torch.zeros(2**15)}, optimizer, ALONE)
    sentence = str(told.value)
    assert sentence.startswith(f"{tmp_path / 'step-000006'} could not be written (")
    assert "earlier checkpoints are kept" in sentence
    assert "\n" not in sentence
    assert names(tmp_path) == ["step-000005"]  # nor does the half take room
    assert load(tmp_path) is not None


@pytest.mark.parametrize("call", ["_sync", "file_sha256"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write(tmp_path, 5)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, call, full)
    with pytest.raises(UserError, match=r"step-000006 could not be written \(No space left on device\)"):
        write(tmp_path, 6)
    assert names(tmp_path) == ["step-000005"]


def test_another_products_checkpoint_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 5)
    sentence = rf"step-000005 is a checkpoint of {OWNER.product}, not of runs/it-ba9876543210; delete"
    with pytest.raises(UserError, match=sentence):
        load(tmp_path, Owner("runs/it-ba9876543210", batch_rows=4))
    assert names(tmp_path) == ["step-000005"]


def test_another_batch_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 5)
    with pytest.raises(UserError, match="step-000005 was trained on batches of 4 rows, and they have 8 now; delete"):
        load(tmp_path, Owner(OWNER.product, batch_rows=8))
    assert names(tmp_path) == ["step-000005"]


def test_tensors_of_many_bytes_lie_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file is in memory twice while it is written."""
    monkeypatch.setattr(checkpoints, "FILE_BYTES", 50)
    weights = {name: torch.full((5,), float(number)) for number, name in enumerate("abcdefghi")}
    checkpoints.save(tmp_path, OWNER, Progress(5), weights, {}, ALONE)
    files = list((tmp_path / "step-000005").glob("*.safetensors"))
    held = [safetensors.torch.load_file(file) for file in files]
    assert sorted(len(each) for each in held) == [2, 2, 2, 3]
    found = {name: torch.zeros(5) for name in weights}
    assert checkpoints.load(tmp_path, OWNER, found, {}, ALONE) == Progress(5)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    files[0].unlink()
    assert checkpoints.load(tmp_path, OWNER, found, {}, ALONE) is None


def test_losses_that_are_no_numbers_come_back(tmp_path: Path) -> None:
    _, weights, optimizer = state(5)
    losses = [1.5, float("inf"), float("nan")]
    checkpoints.save(tmp_path, OWNER, Progress(5, losses=losses), weights, optimizer, ALONE)
    found = load(tmp_path)
    assert found is not None
    assert json.dumps(found.progress.losses) == "[1.5, Infinity, NaN]"


def test_what_is_written_is_the_moment_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on while a thread writes; the next call waits for it."""
    go_on = threading.Event()
    written = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *arguments: (go_on.wait(60), written(*arguments)))
    progress, weights, optimizer = state(5)
    with Writer(tmp_path, OWNER, weights, ALONE) as writer:
        assert writer.seconds == 3 * 24 / checkpoints.ASSUMED_SPEED
        writer.save(progress, weights, optimizer)
        assert writer.seconds == 2 * 3 * 24 / checkpoints.ASSUMED_SPEED  # that one, and another
        assert not writer.failed
        with torch.no_grad():
            weights["w"] += 1
        optimizer["w"] += 1
        progress.step += 1
        progress.losses.append(1.0)
        assert not tmp_path.joinpath("step-000005").exists()
        go_on.set()
        writer.save(progress, weights, optimizer)
        found = load(tmp_path)
        assert found is not None
        assert found.progress.step in (5, 6)
    assert names(tmp_path) == ["step-000005", "step-000006"]
    newest = load(tmp_path)
    shutil.rmtree(tmp_path / "step-000006")
    elder = load(tmp_path)
    for found, expected in [(newest, (progress, weights, optimizer)), (elder, state(5))]:
        assert found is not None
        assert found.progress == expected[0]
        assert torch.equal(found.weights["w"], expected[1]["w"])
        assert torch.equal(found.optimizer["w"], expected[2]["w"])


@pytest.mark.parametrize("asked", ["save", "wait", "end"])
def test_a_failed_write_is_told_when_training_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def fail(*_: object) -> None:
        raise UserError("no room")

    monkeypatch.setattr(checkpoints, "save", fail)

    def train() -> None:
        with Writer(tmp_path, OWNER, {}, ALONE) as writer:
            writer.save(*state(5))
            if asked == "save":
                writer.save(*state(6))
            if asked == "wait":
                while not writer.failed:
                    time.sleep(0.01)
                writer.wait()

    with pytest.raises(UserError, match="no room"):
        train()


def test_the_end_waits_for_what_is_being_written(tmp_path: Path) -> None:
    """Also where training ends with an exception, which is the one that is told."""

    def train() -> None:
        with Writer(tmp_path, OWNER, {}, ALONE) as writer:
            writer.save(*state(5, size=2**20))
            raise RuntimeError("power failure")

    with pytest.raises(RuntimeError, match="power failure"):
        train()
    assert names(tmp_path) == ["step-000005"]
    assert load(tmp_path, size=2**20) is not None
