"""Measures the training speed and peak memory of a method over several batch sizes (paper, appendix I, figure S10).

python -m scripts.training.throughput KEY
"""

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError, run
from scripts.launch.command import current_launch, end_with, find, make, product_parser
from scripts.launch.launch import Launch
from scripts.plan.product import Product
from scripts.store.machine import processor
from scripts.store.store import Build

DEVICES = 1
CUDA_MEMORY = "torch.cuda.max_memory_allocated"
CPU_MEMORY = "growth of the process's peak resident set (VmHWM)"


def main(launch: Launch, name: str) -> None:
    """Makes the benchmark of one method.

    Raises:
        UserError: no such product; its model is not there.
    """
    product = find(launch, name)
    if product.kind != "throughput":
        raise UserError(f"{product.key}: is of the kind {product.kind!r}, not 'throughput'")
    make(launch, product, builder(launch, product))
    print(f"{product.key}: complete")


def builder(launch: Launch, product: Product) -> Build:
    """Writes no bytes; the results are device, devices, memory (which statistic a peak is) and points.

    A point has batch_rows, pass_rows (rows of one forward and backward pass), tokens_per_second and peak_bytes; the
    last two are None where memory did not suffice.
    """
    spec = product.spec

    def benchmark(out: Path) -> dict[str, Any]:
        base = launch.store.bytes_of(product.inputs[0])
        device, memory = apart(describe_device)
        points = []
        for batch_rows in spec["batch_rows"]:
            # a process of its own: peaks do not mix, and what one size leaves behind does not count for the next
            speed, peak = apart(measure, base, spec, batch_rows) or (None, None)
            pass_rows = rows_of_a_pass(spec, batch_rows)
            points.append(
                {"batch_rows": batch_rows, "pass_rows": pass_rows, "tokens_per_second": speed, "peak_bytes": peak}
            )
            told = "memory does not suffice" if peak is None else f"{speed:,.0f} tokens/s, peak {peak / 1e9:.2f} GB"
            print(f"{product.name}: batch of {batch_rows} rows: {told}", file=sys.stderr, flush=True)
        return {"device": device, "devices": DEVICES, "memory": memory, "points": points}

    return benchmark


def rows_of_a_pass(spec: Mapping[str, Any], batch_rows: int) -> int:
    """The rows of a device's forward and backward pass.

    The paper's text says both "a microbatch of 1" and "limited to 8"; on 8 devices both are true of the smaller of the
    limit and the device's share of the batch.
    """
    return int(min(spec["pass_rows"], max(1, batch_rows // DEVICES)))


def measure(base: Path, spec: Mapping[str, Any], batch_rows: int) -> tuple[float, int] | None:
    """Tokens per second and peak bytes of `spec["steps"]` optimizer steps on random tokens, after one that is untimed.

    The peak is that of everything since the model was loaded: weights, gradients, optimizer state, activations.
    None where memory does not suffice. To be called in a process of its own: it leaves torch's settings changed.
    """
    import torch

    try:
        return _measure(base, spec, batch_rows)
    except (MemoryError, torch.OutOfMemoryError):
        return None
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # the CPU's allocator has no exception of its own
            return None
        raise


def _measure(base: Path, spec: Mapping[str, Any], batch_rows: int) -> tuple[float, int]:
    import optimi  # noqa: F401  (loaded before memory is measured)
    import peft  # noqa: F401
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401

    from scripts.training.execution import checkpoint_layers, prepare_model
    from scripts.training.model import trainable_model
    from scripts.training.objective import Objective, backward
    from scripts.training.optimizer import NamedOptimizer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # as in training, whose kernels these are
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    length = spec["sequence_length"]
    pass_tokens = rows_of_a_pass(spec, batch_rows) * length
    before = _peak_resident()
    model = trainable_model(base, spec["method"], 0, None)
    prepare_model(model, device, spec["precision"])
    objective = Objective(model.to(device).train(), spec["precision"])
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    # a study has rate and decay in its settings, not in its optimizer; a step costs the same whatever they are
    optimizer = NamedOptimizer(trained, {"learning_rate": 1e-6, "weight_decay": 0.0, **spec["optimizer"]})
    if device.type == "cuda":
        checkpoint_layers(objective, optimizer, rows_of_a_pass(spec, batch_rows), length)
    tokens = torch.Generator().manual_seed(0)

    def step() -> None:
        input_ids = torch.randint(model.config.vocab_size, (batch_rows, length), generator=tokens)
        backward(objective, input_ids, input_ids, batch_rows, pass_tokens=pass_tokens)
        torch.nn.utils.clip_grad_norm_(trained.values(), spec["optimizer"]["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    started = time.perf_counter()
    for _ in range(spec["steps"]):
        step()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _peak_resident() - before
    return spec["steps"] * batch_rows * length / seconds, peak


def describe_device() -> tuple[str, str]:
    """The device that training runs on, and which statistic its peak memory is."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), CUDA_MEMORY
    threads = torch.get_num_threads()
    return f"{processor()} ({threads} thread{'s' * (threads != 1)})", CPU_MEMORY


def _peak_resident() -> int:
    """The most bytes that this process has had in memory since it began.

    Not `getrusage` where there is another way: on Linux a process begins with the peak of the one that started it.
    """
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a fresh process; None where that was killed, as the system does when memory is short.

    Raises:
        UserError: as `function` did; or the process ended in another way, after it has printed why.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, os.getpid(), function, arguments))
    process.start()
    sender.close()
    answer = None
    with suppress(EOFError):  # of a process that ended without an answer
        answer = receiver.recv()
    process.join()
    if isinstance(answer, UserError):
        raise answer
    if process.exitcode not in (0, -signal.SIGKILL):
        raise UserError(f"the process that measures ended with status {process.exitcode}; what it printed says why")
    return answer


def _answer(sender: Connection, parent: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with(parent)
    try:
        sender.send(function(*arguments))
    except UserError as error:
        sender.send(error)


if __name__ == "__main__":
    parser = product_parser(__doc__)
    run(lambda arguments: main(current_launch(arguments), arguments.product), parser)
