"""The training loop, the same in each process of those that train together. `fit` reads from top to bottom."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import deterministic

from scripts.components.methods import method_of
from scripts.data.batches import Batches
from scripts.training import checkpoints, execution, parallel
from scripts.training.agreement import require_agreement
from scripts.training.divergence import Divergence, Watch
from scripts.training.metrics import Meter
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward
from scripts.training.optimizer import NamedOptimizer
from scripts.training.schedules import multiplier

INTERRUPTED = 75  # exit status (EX_TEMPFAIL): stopped on request with a checkpoint; the same call goes on
REPORT_SECONDS = 1.0
MARGIN_SECONDS = 10.0  # before a deadline: the least time that is kept free for a checkpoint and the process's end
CURVE_POINTS = 200
FINAL_BATCHES = 20


@dataclass(frozen=True)
class Fit:
    """One training job: the batches `start_step` to `stop_step - 1` of a trunk, branch or run.

    `base` is a transformers model directory, `rows` a directory of the data stage. `start` is the `out` directory
    of a leg that ended at `start_step` (None: the base model). `out` exists and is empty. `checkpoints` outlives
    attempts and belongs to this job alone; one is written every `checkpoint_seconds` of wall time.
    `keep_optimizer` makes `out` a leg end, from which another job can start. `loss` is what `backward` says;
    `attention` "within" confines it to an example or document;
    `attention_dropout` is a probability, of training alone. `product` is the key that checkpoints are marked with;
    `deadline` a moment of `time.monotonic` before which the job saves and stops. `best_loss` is
    the metric of that name of the leg before.
    """

    method: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    seed: int
    precision: Literal["fp32", "bf16"]
    base: Path
    rows: Path
    start: Path | None
    start_step: int
    stop_step: int
    out: Path
    checkpoints: Path
    keep_optimizer: bool
    checkpoint_seconds: float
    loss: Literal["group_mean", "token_mean"] = "group_mean"
    attention: Literal["across", "within"] = "across"
    attention_dropout: float = 0.0
    product: str = ""
    deadline: float | None = None
    best_loss: float | None = None


def fit(job: Fit, report: Callable[[dict[str, Any]], None], group: parallel.Group = parallel.ALONE) -> dict[str, Any]:
    """Train, write the final weights to `job.out`, and return the metrics.

    Goes on from the newest readable checkpoint; on the CPU, with equal threads, the result is the same bit for
    bit however often the job was interrupted. On SIGTERM or SIGINT it saves a checkpoint at the end of the running
    step and raises SystemExit(75); so it does where after another step less time may be left before the deadline than
    the longest checkpoint took to write (10 seconds at least). Checkpoints are written while training goes on.

    Every process of `group` calls it with the same job, and trains its share of each batch's rows: a full finetuning
    with weights and state spread over them (FSDP2), an adapter with all of it in each (DDP). The first one reports and
    writes; all return the metrics. A signal to one of them, or one's deadline, stops all. The number of processes may
    change between attempts; then weights are equal to rounding (under Lion, a sign, single ones part in time).

    About once a second, and after the last step, `report` gets step, steps, resumed_at (the step at which this attempt
    began), loss (of the last batch), lr, tokens (so far), tokens_per_second (of this attempt, on all devices), devices
    (as many as processes), mfu, memory_bytes (both: `Meter`, of the first process) and eta_seconds.

    Metrics, of this job's batches: steps, tokens (positions, padding included), loss_tokens (positions with a
    target), final_loss (mean over the last 20 batches, nats; None where there was no batch to train), loss_curve
    (at most 200 pairs: step reached, mean loss since the pair before), best_loss (what `divergence` compares with, of
    this job and the legs before) and seconds (wall time of the steps that count).

    Where training diverges (`scripts.training.divergence` says when) it ends there, writes nothing to `job.out`, and
    the metrics have `diverged`, the fields of a Divergence: steps, tokens and the curve reach to that batch, final_loss
    is None, and loss_tokens is not there.

    Raises UserError where a checkpoint or the weights cannot be written, where a checkpoint is of another product,
    where the rows of a batch cannot be divided among the processes, and before the first step of every attempt where
    the loss is not transformers' own (`require_agreement`).
    """
    device = group.device
    batches = Batches(job.rows)
    share = group.share(batches.batch_rows)
    method = method_of(job.method)

    def load() -> Objective:
        model = trainable_model(job.base, job.method, job.seed, job.start, job.attention_dropout, job.precision)
        execution.prepare_model(model, device, job.precision)
        return Objective(model.train(), job.precision)

    sharded = group.world > 1 and not method.is_adapter
    objective = parallel.spread(load, group, sharded, job.precision)
    model = parallel.unwrapped(objective).model
    vocabulary, meter = model.config.vocab_size, Meter(model, batches.sequence_length, device, job.precision)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = NamedOptimizer(trained, job.optimizer, method.rate_ratio)
    owner = checkpoints.Owner(job.product, batches.batch_rows)
    state = optimizer.state()
    progress = checkpoints.load(job.checkpoints, owner, trained, state, group)
    if progress is not None:
        optimizer.restore(state)
    elif job.start is not None:
        optimizer.restore(parallel.read_like(job.start / "optimizer.safetensors", state))
    del state
    progress = progress or checkpoints.Progress(step=job.start_step)
    rows_here = share.stop - share.start
    pass_tokens = execution.plan_passes(objective, optimizer, rows_here, batches.sequence_length)
    if progress.step < job.stop_step:
        require_agreement(objective, trained, *_batch(job, batches, progress.step), job.precision)

    watch = Watch(vocabulary, job.best_loss, progress.losses)
    unread: list[Tensor] = []  # losses and gradient norms on the device: reading each would stall a GPU
    began = saved = reported = time.monotonic()
    seconds_before, tokens_before = progress.seconds, progress.tokens
    resumed_at = saved_step = progress.step
    longest_step = 0.0
    diverged: Divergence | None = None
    with (
        _deterministic(device),
        _own_random_numbers(device),
        _interruption() as interruption,
        checkpoints.Writer(job.checkpoints, owner, trained, group) as writer,
    ):
        while True:
            # whoever leaves the loop alone would let the others wait in it
            stopping, failed = group.any(
                interruption.requested or _late(job.deadline, longest_step + writer.seconds), writer.failed
            )
            if failed:
                writer.wait()
            if stopping or progress.step == job.stop_step:
                break
            step_began = time.monotonic()
            factor = multiplier(job.schedule, progress.step)
            optimizer.set_rates(factor)
            input_ids, labels, segments = _batch(job, batches, progress.step)
            loss, loss_tokens = backward(
                objective,
                input_ids,
                labels,
                batches.group_rows,
                loss=job.loss,
                segments=segments,
                seed=job.seed,
                step=progress.step,
                pass_tokens=pass_tokens,
                share=share,
            )
            norm = parallel.whole(torch.nn.utils.clip_grad_norm_(trained.values(), job.optimizer["clip_norm"]))
            optimizer.step()
            optimizer.zero_grad()
            unread.append(torch.stack((loss, norm)))
            progress.step += 1
            progress.tokens += input_ids.numel()
            progress.loss_tokens += loss_tokens

            now = time.monotonic()
            finished = progress.step == job.stop_step
            reading, saving = group.any(  # by the clock of the first process
                group.is_first and now - reported >= REPORT_SECONDS,
                group.is_first and now - saved >= job.checkpoint_seconds,
            )
            if reading or finished:
                if diverged := _read_losses(progress, unread, watch, group):
                    break
                reported = now
                speed = (progress.tokens - tokens_before) / (now - began)
                if group.is_first:
                    report(
                        {
                            "step": progress.step,
                            "steps": job.stop_step,
                            "resumed_at": resumed_at,
                            "loss": progress.losses[-1],
                            "lr": job.optimizer["learning_rate"] * factor,
                            "tokens": progress.tokens,
                            "tokens_per_second": speed,
                            "devices": group.world,
                            "mfu": meter.mfu(speed / group.world),
                            "memory_bytes": meter.memory_bytes(),
                            "eta_seconds": (job.stop_step - progress.step) * input_ids.numel() / speed,
                        }
                    )
            seconds = time.monotonic() - step_began
            # what an attempt's first step takes longer than the others will not come again
            longest_step = max(longest_step, seconds) if progress.step > resumed_at + 2 else seconds
            if saving and not finished:
                if diverged := _read_losses(progress, unread, watch, group):
                    break
                progress.seconds = seconds_before + now - began
                writer.save(progress, trained, optimizer.state())
                saved, saved_step = time.monotonic(), progress.step

        diverged = diverged or _read_losses(progress, unread, watch, group)
        progress.seconds = seconds_before + time.monotonic() - began
        if diverged:
            steps = diverged.step - job.start_step
            return {
                "steps": steps,
                "tokens": steps * (progress.tokens // (progress.step - job.start_step)),  # all batches are of one size
                "final_loss": None,
                "loss_curve": _curve(progress.losses, job.start_step),
                "seconds": progress.seconds,
                "diverged": asdict(diverged),
            }
        if stopping:
            if progress.step > saved_step:
                writer.save(progress, trained, optimizer.state())
            writer.wait()
            if group.is_first:
                at = f"step {progress.step} of {job.stop_step}"
                print(f"stopped at {at}; the same call goes on from there", file=sys.stderr)
            raise SystemExit(INTERRUPTED)
    weights = parallel.gathered(trained, group) if sharded else {}
    state = parallel.gathered(optimizer.state(), group) if job.keep_optimizer else {}
    if group.is_first:
        if sharded:  # the bytes of one process come from a model of one process
            model = trainable_model(job.base, job.method, job.seed, job.start)
            model.load_state_dict(weights, strict=False)  # without the second names of tied weights
        with checkpoints.writable(job.out):
            method.save(model, job.out)
            if job.keep_optimizer:
                from safetensors.torch import save_file

                save_file(state, job.out / "optimizer.safetensors")
    final = progress.losses[-FINAL_BATCHES:]
    return {
        "steps": job.stop_step - job.start_step,
        "tokens": progress.tokens,
        "loss_tokens": progress.loss_tokens,
        "final_loss": math.fsum(final) / len(final) if final else None,
        "loss_curve": _curve(progress.losses, job.start_step),
        "best_loss": watch.best,
        "seconds": progress.seconds,
    }


def _batch(job: Fit, batches: Batches, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Token ids, labels and, where attention is within them, the segments of a step."""
    input_ids, labels = (torch.as_tensor(array) for array in batches.batch(step))
    return input_ids, labels, torch.as_tensor(batches.segments(step)) if job.attention == "within" else None


def _late(deadline: float | None, seconds: float) -> bool:
    """Whether what takes `seconds`, and MARGIN_SECONDS at least, can no longer be done before the deadline."""
    return deadline is not None and time.monotonic() + max(seconds, MARGIN_SECONDS) >= deadline


def _read_losses(
    progress: checkpoints.Progress, unread: list[Tensor], watch: Watch, group: parallel.Group
) -> Divergence | None:
    """Move the losses that are still on the device to `progress`, up to the first that shows a divergence."""
    if not unread:
        return None
    first = progress.step - len(unread) + 1
    losses, norms = torch.stack(unread).cpu().unbind(dim=1)
    losses = group.total(losses.contiguous())  # each process has its rows' part
    for step, (loss, norm) in enumerate(zip(losses.tolist(), norms.tolist(), strict=True), start=first):
        diverged = watch.look(step, loss, norm)
        if math.isfinite(loss):
            progress.losses.append(loss)
        if diverged:
            unread.clear()  # what came after it tells nothing more
            return diverged
    unread.clear()
    return None


def _curve(losses: list[float], start_step: int) -> list[tuple[int, float]]:
    size = max(1, math.ceil(len(losses) / CURVE_POINTS))
    chunks = [losses[first : first + size] for first in range(0, len(losses), size)]
    return [
        (start_step + min((index + 1) * size, len(losses)), math.fsum(chunk) / len(chunk))
        for index, chunk in enumerate(chunks)
    ]


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic kernels where torch has them; torch's settings are put back after."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # it makes itself a module
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    # nobody reads it, and filling it takes time
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Whatever is drawn or seeded inside, torch's generators go on as they were after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@dataclass
class _Interruption:
    requested: bool = False  # not a threading.Event: a second signal inside its set() would wait for itself

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


@contextmanager
def _interruption() -> Iterator[_Interruption]:
    """SIGTERM and SIGINT make a request, instead of ending the process in the middle of a step."""
    interruption = _Interruption()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield interruption
        return
    before = {number: signal.signal(number, interruption) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
