"""Checkpoints of an unfinished run: `step-000123/` directories that appear whole or not at all.

One holds weights.safetensors (the trained parameters only) and optimizer.safetensors, both by parameter name, and
state.json: the counters and losses so far, whose checkpoint it is, and hashes of all of this. Schedule and data order
are functions of the step, so nothing else is needed to go on bit for bit.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from scripts.study.errors import UserError
from scripts.study.fingerprint import file_sha256, fingerprint

KEEP = 2
ASSUMED_SPEED = 200e6
"""Bytes per second that a disk is trusted to write until it was measured."""
_WEIGHTS, _OPTIMIZER = "weights.safetensors", "optimizer.safetensors"


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


class Writer:
    """Writes a job's checkpoints in a thread of its own while training goes on, one at a time.

    To be used in a `with`, whose end waits for what is being written. Needs memory on the CPU for a copy of weights and
    optimizer state. `product` is whose checkpoints they are: its key.
    """

    def __init__(self, directory: Path, product: str, weights: Mapping[str, Tensor]) -> None:
        self._directory, self._product = directory, product
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[float] | None = None
        # the optimizers have one or two tensors of a weight's size
        self._assumed = 3 * sum(tensor.nbytes for tensor in weights.values()) / ASSUMED_SPEED
        self._longest: float | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._thread.shutdown()

    def save(self, progress: Progress, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Take a copy and begin to write it. Raises UserError where an earlier one could not be written."""
        self.wait()
        began = time.monotonic()
        copies = Progress(**asdict(progress)), _copied(weights), _copied(optimizer)

        def write() -> float:
            save(self._directory, self._product, *copies)
            return time.monotonic() - began

        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raise UserError where a checkpoint could not be written; do not wait for one that is being written."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written. Raises UserError where it could not be."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._longest = max(self._longest or 0.0, writing.result())

    @property
    def seconds(self) -> float:
        """How long it may take from now until another checkpoint is written: as long as the longest so far."""
        longest = self._assumed if self._longest is None else self._longest
        return longest * (1 if self._writing is None else 2)


def save(
    directory: Path, product: str, progress: Progress, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]
) -> None:
    """Write a checkpoint durably under its final name, then drop all but the newest `KEEP`.

    Raises UserError where that is not possible, as on a full disk; what was there before is still there then.
    """
    from safetensors.torch import save_file

    final = directory / f"step-{progress.step:06d}"
    writing = directory / f".writing-{final.name}"
    with writable(final):
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(".writing-*"):  # of an attempt that was killed here; a run has one writer
            shutil.rmtree(leftover)
        try:
            writing.mkdir()
            save_file({name: tensor.detach() for name, tensor in weights.items()}, writing / _WEIGHTS)
            save_file(dict(optimizer), writing / _OPTIMIZER)
            files = {name: file_sha256(writing / name) for name in (_WEIGHTS, _OPTIMIZER)}
            state = {"product": product, "progress": asdict(progress), "files": files}
            (writing / "state.json").write_text(json.dumps(state | {"hash": fingerprint(json.dumps(state))}))
            for path in (*writing.iterdir(), writing):
                _sync(path)
        except Exception:
            shutil.rmtree(writing, ignore_errors=True)  # the room is needed
            raise
        if final.exists():
            shutil.rmtree(final)
        writing.rename(final)
        _sync(directory)
        for old in _newest_first(directory)[KEEP:]:
            shutil.rmtree(old)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """A disk that is full, or whatever else keeps `path` from being written inside, becomes a UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"{path} could not be written ({reason}); earlier checkpoints are kept, "
            "and the same command goes on from them once this is put right"
        ) from error


def load(directory: Path, product: str) -> Checkpoint | None:
    """The newest checkpoint that is as it was written, on the CPU; None where there is none.

    One that is not (truncated, changed, a lost file) is removed with one line on stderr: were it kept, it would count
    as the newest for ever. Raises UserError where one is another product's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in _newest_first(directory):
        try:
            state = _state(path)
            if state["product"] != product:
                raise UserError(
                    f"{path} is a checkpoint of {state['product']}, not of {product}; "
                    f"delete {directory}, and {product} starts anew"
                )
            return Checkpoint(Progress(**state["progress"]), load_file(path / _WEIGHTS), load_file(path / _OPTIMIZER))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            print(f"The checkpoint {path} cannot be read and is removed: {error}", file=sys.stderr)
            shutil.rmtree(path)
    return None


def _state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises ValueError or OSError where a file is not what was written."""
    state = json.loads((path / "state.json").read_text())
    if not isinstance(state, dict) or state.pop("hash", None) != fingerprint(json.dumps(state)):
        raise ValueError("state.json is not as it was written")
    for name, sha256 in state["files"].items():
        if file_sha256(path / name) != sha256:
            raise ValueError(f"{name} is not as it was written")
    return state


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which training does not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _newest_first(directory: Path) -> list[Path]:
    steps = {int(path.name.removeprefix("step-")): path for path in directory.glob("step-*")}
    return [steps[step] for step in sorted(steps, reverse=True)]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
