"""Checkpoints appear whole, the newest two are kept, and a damaged one costs no more than the way back to its elder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scripts.training import checkpoints
from scripts.training.checkpoints import Progress


def write(directory: Path, *steps: int) -> None:
    for step in steps:
        progress = Progress(step, tokens=8 * step, loss_tokens=7 * step, seconds=0.1, losses=[1 / 3, 2e-17])
        weights = {"w": torch.full((3, 2), step, dtype=torch.float32).requires_grad_()}
        checkpoints.save(directory, progress, weights, {"w": torch.full((3, 2), -step, dtype=torch.float32)})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_none_to_begin_with(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path / "absent") is None


def test_newest_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 8, 9, 10, 1_000_000)
    assert names(tmp_path) == ["step-000010", "step-1000000"]
    found = checkpoints.load(tmp_path)
    assert found is not None
    assert found.progress == Progress(1_000_000, 8_000_000, 7_000_000, 0.1, [1 / 3, 2e-17])
    assert torch.equal(found.weights["w"], torch.full((3, 2), 1e6))
    assert torch.equal(found.optimizer["w"], torch.full((3, 2), -1e6))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: truncate(path / "weights.safetensors"),
        lambda path: truncate(path / "optimizer.safetensors"),
        lambda path: truncate(path / "state.json"),
        lambda path: (path / "state.json").write_text('{"steps": 3}'),
        lambda path: (path / "weights.safetensors").write_bytes(b""),
        lambda path: (path / "optimizer.safetensors").unlink(),
        lambda path: [file.unlink() for file in path.iterdir()],
    ],
)
def test_damaged_newest_falls_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    write(tmp_path, 5, 10)
    damage(tmp_path / "step-000010")
    found = checkpoints.load(tmp_path)
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
        truncate(path / "weights.safetensors")
    assert checkpoints.load(tmp_path) is None


def test_half_written_one_is_ignored_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 5)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_sync", die)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 6)
    assert len(names(tmp_path)) == 2
    found = checkpoints.load(tmp_path)
    assert found is not None
    assert found.progress.step == 5
    write(tmp_path, 7)
    assert names(tmp_path) == ["step-000005", "step-000007"]
