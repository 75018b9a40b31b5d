"""Checkpoints of an unfinished run: `step-000123/` directories that appear whole or not at all.

One holds state.json (the counters and losses so far), weights.safetensors (the trained parameters only) and
optimizer.safetensors, both by parameter name. Schedule and data order are functions of the step, so nothing else
is needed to go on bit for bit.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

KEEP = 2


@dataclass
class Progress:
    """What a run has done up to `step` (batches, counted from the start of the trunk or run)."""

    step: int
    tokens: int = 0
    loss_tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    progress: Progress
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save(directory: Path, progress: Progress, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
    """Write a checkpoint durably under its final name, then drop all but the newest `KEEP`."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(".writing-*"):  # of an attempt that was killed here; a run has one writer
        shutil.rmtree(leftover)
    writing = directory / f".writing-step-{progress.step:06d}"
    writing.mkdir()
    (writing / "state.json").write_text(json.dumps(asdict(progress)))
    save_file({name: tensor.detach() for name, tensor in weights.items()}, writing / "weights.safetensors")
    save_file(dict(optimizer), writing / "optimizer.safetensors")
    for path in (*writing.iterdir(), writing):
        _sync(path)
    final = directory / f"step-{progress.step:06d}"
    if final.exists():
        shutil.rmtree(final)
    writing.rename(final)
    _sync(directory)
    for old in _newest_first(directory)[KEEP:]:
        shutil.rmtree(old)


def load(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read, on the CPU; None where there is none.

    One that cannot be read (truncated, a lost file) is removed with one line on stderr: were it kept, it would
    count as the newest for ever.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in _newest_first(directory):
        try:
            return Checkpoint(
                Progress(**json.loads((path / "state.json").read_text())),
                load_file(path / "weights.safetensors"),
                load_file(path / "optimizer.safetensors"),
            )
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            print(f"The checkpoint {path} cannot be read and is removed: {error}", file=sys.stderr)
            shutil.rmtree(path)
    return None


def _newest_first(directory: Path) -> list[Path]:
    steps = {int(path.name.removeprefix("step-")): path for path in directory.glob("step-*")}
    return [steps[step] for step in sorted(steps, reverse=True)]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
