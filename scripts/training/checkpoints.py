"""Checkpoints of an unfinished run: `step-000123/` directories that appear whole or not at all.

One holds the trained parameters and the optimizer's state as torch.distributed.checkpoint writes them in the
safetensors format: every process its own part of each tensor, with the place of that part in the file's header. So
they can be read by another number of processes. Tensors are called `weights.NAME` and `optimizer.NAME`, by parameter
name. state.json has the counters and losses so far, whose checkpoint it is, and hashes of all of this. Schedule and
data order are functions of the step, so nothing else is needed to go on bit for bit.
"""

import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from scripts.common.errors import UserError
from scripts.store.fingerprint import file_sha256, fingerprint
from scripts.training.parallel import Group

KEEP = 2
ASSUMED_SPEED = 200e6
"""Bytes per second that a disk is trusted to write until it was measured."""
FILE_BYTES = 2**30
"""Of tensors in one file of a process, unless one tensor has more: a file is twice in memory while it is written."""


@dataclass
class Progress:
    """What a run has done up to `step` (batches, counted from the start of the trunk or run)."""

    step: int
    tokens: int = 0
    loss_tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Owner:
    """Whose checkpoints they are: the key of a product, and the rows of its batches."""

    product: str
    batch_rows: int


class Writer:
    """Writes a job's checkpoints in a thread of its own while training goes on, one at a time.

    To be used in a `with`, whose end waits for what is being written. Needs memory on the CPU for a copy of weights and
    optimizer state. All processes of `group` save at the same steps, and fail together.
    """

    def __init__(self, directory: Path, owner: Owner, weights: Mapping[str, Tensor], group: Group) -> None:
        self._directory, self._owner, self._group = directory, owner, group.of_writer
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
            save(self._directory, self._owner, *copies, self._group)
            return time.monotonic() - began

        self._writing = self._thread.submit(write)

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written, which `wait` tells; one that is being written has not failed."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

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
    directory: Path,
    owner: Owner,
    progress: Progress,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    group: Group,
) -> None:
    """Write a checkpoint durably under its final name, then drop all but the newest `KEEP`.

    All processes of `group` call it, each with its part of tensors that are spread over them. Raises UserError in all
    where it is not possible in one, as on a full disk; what was there before is still there then.
    """
    final = directory / f"step-{progress.step:06d}"
    writing = directory / f".writing-{final.name}"

    def make_room() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(".writing-*"):  # of an attempt that was killed here; a run has one writer
            shutil.rmtree(leftover)
        writing.mkdir()

    def own_hashes() -> dict[str, str]:
        # `_write` numbers the files by process; another machine may not see them in the directory yet
        return {path.name: file_sha256(path) for path in sorted(writing.glob(f"shard-{group.rank + 1:05d}-*"))}

    def commit(files: dict[str, str]) -> None:
        state = {**asdict(owner), "progress": asdict(progress), "files": files}
        (writing / "state.json").write_text(json.dumps(state | {"hash": fingerprint(json.dumps(state))}))
        for path in (writing / "state.json", writing):
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        writing.rename(final)
        _sync(directory)
        for old in _newest_first(directory)[KEEP:]:
            shutil.rmtree(old)

    def first_does(act: Callable[[], None]) -> None:
        group.together(act if group.is_first else lambda: None)

    with writable(final):
        try:
            first_does(make_room)
            _write(writing, _named(weights, optimizer), group)
            files = {name: sha256 for own in group.together(own_hashes) for name, sha256 in own.items()}
            first_does(lambda: commit(files))
        except Exception:
            if group.is_first:
                shutil.rmtree(writing, ignore_errors=True)  # the room is needed
            raise


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


def load(
    directory: Path, owner: Owner, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], group: Group
) -> Progress | None:
    """Read the newest checkpoint that is as it was written into `weights` and `optimizer`; None where there is none.

    All processes of `group` call it, each with its part of tensors that are spread over them. A checkpoint that is not
    as it was written (truncated, changed, a lost file) is removed with one line on stderr: were it kept, it would count
    as the newest for ever. Raises UserError where one is another product's, or one of other batches.
    """
    for path in group.told(_newest_first(directory) if group.is_first else []):
        try:
            state = group.together(lambda path=path: _state(path, group))[0]  # type: ignore[misc]
        except (OSError, ValueError, TypeError, KeyError) as error:
            if group.is_first:
                print(f"The checkpoint {path} cannot be read and is removed: {error}", file=sys.stderr)
                shutil.rmtree(path)
            continue
        if state["product"] != owner.product:
            raise UserError(
                f"{path} is a checkpoint of {state['product']}, not of {owner.product}; "
                f"delete {directory}, and {owner.product} starts anew"
            )
        if state["batch_rows"] != owner.batch_rows:
            raise UserError(
                f"{path} was trained on batches of {state['batch_rows']} rows, and they have {owner.batch_rows} now; "
                f"delete {directory}, and {owner.product} starts anew"
            )
        _read(path, _named(weights, optimizer), group)
        return Progress(**state["progress"])
    return None


def _state(path: Path, group: Group) -> dict[str, Any]:
    """state.json of a checkpoint, after this process's share of its files was checked.

    Raises ValueError or OSError where a file is not what was written.
    """
    state = json.loads((path / "state.json").read_text())
    if not isinstance(state, dict) or state.pop("hash", None) != fingerprint(json.dumps(state)):
        raise ValueError("state.json is not as it was written")
    for name in sorted(state["files"])[group.rank :: group.world]:
        if file_sha256(path / name) != state["files"][name]:
            raise ValueError(f"{name} is not as it was written")
    return state


def _named(weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a checkpoint under their names in it."""
    parts = {"weights": weights, "optimizer": optimizer}
    return {f"{part}.{name}": tensor.detach() for part, tensors in parts.items() for name, tensor in tensors.items()}


def _write(directory: Path, tensors: dict[str, Tensor], group: Group) -> None:
    """Write this process's part of `tensors` into files `shard-RANK-...` of `directory`, durably."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    files, size = {}, 0
    for name, tensor in tensors.items():
        size += tensor.nbytes
        files[name] = 1 + size // (group.world * FILE_BYTES)
    _no_warning()
    try:
        save(
            tensors,
            storage_writer=HuggingFaceStorageWriter(str(directory), fqn_to_index_mapping=files, save_distributed=True),
            process_group=group.control,
            no_dist=group.world == 1,
        )
    except CheckpointException as failed:
        raise _cause(failed) from failed


def _read(directory: Path, tensors: dict[str, Tensor], group: Group) -> None:
    """Fill `tensors`, each process its part of those that are spread, from files of any number of processes."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    _no_warning()
    try:
        load(
            tensors,
            storage_reader=HuggingFaceStorageReader(str(directory)),
            process_group=group.control,
            no_dist=group.world == 1,
        )
    except CheckpointException as failed:
        raise _cause(failed) from failed


def _no_warning() -> None:
    """One process without others is no mistake."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled")


def _cause(failed: Any) -> BaseException:
    """What was raised in the first of the processes where something was."""
    cause: BaseException = failed.failures[min(failed.failures)][0]
    return cause


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which training does not change; of a tensor that is spread, of this process's part."""
    from torch.distributed.checkpoint.staging import BlockingAsyncStager

    return BlockingAsyncStager().stage({name: tensor.detach() for name, tensor in tensors.items()})


def _newest_first(directory: Path) -> list[Path]:
    steps = {int(path.name.removeprefix("step-")): path for path in directory.glob("step-*")}
    return [steps[step] for step in sorted(steps, reverse=True)]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
