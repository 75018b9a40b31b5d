"""Tokens per second of full finetuning and LoRA at the shape of Llama-2-7B, in bf16 on rows of 4,096 tokens.

    MFU = tokens/s * (4 N_frozen + 6 N_trained + 12 L H T) / peak

with all parameters counted, attention in full, and what is recomputed not at all (`flops_per_token`); the peak is the
data sheet's for dense bf16. Times are CUDA events over whole steps, after steps that do not count.

Full finetuning keeps 12 bytes a parameter (weights, gradients and Lion's momentum in fp32), 81 GB for 32 layers. Where
that does not fit beside activations, as many layers are trained as leave room for these, and then half as many. Both
are measured; the time of 32 layers is the second's plus what each further layer adds, and is called so.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.gpu.models import (
    FULL,
    LLAMA_2_7B,
    TINY,
    Ours,
    Shape,
    as_trained,
    free,
    lora,
    measured,
    network,
    peak_gigabytes,
)
from benchmarks.gpu.part import Bench
from scripts.common import devices
from scripts.training.metrics import flops_per_token

STATE_BYTES = 12  # of a trained parameter: its fp32 weight, gradient and momentum
STATE_SHARE = 0.55  # of a device's memory, at most: activations and bf16 copies of weights need the rest
TINY_MEMORY = 4_000_000  # half of the tiny model's layers fit
GOALS = {"full": (11_400, 12_500), "lora-r16-dropout-0.05": (15_000, 16_500), "lora-r16": (15_000, 16_500)}
"""Tokens per second of an H100: to be reached, and better. The first of `full` is what MaxText publishes of this shape
(11,361, sharded over eight H100), that of LoRA is NeMo AutoModel's 402 TFLOP/s."""
STEP = ("passes", "clipping", "optimizer")
KERNELS = 10
GAP_SECONDS = 10e-6


def main(bench: Bench) -> None:
    shape = TINY if bench.tiny else LLAMA_2_7B
    bench.note("MFU = tokens/s * (4 N_frozen + 6 N_trained + 12 L H T) / peak of the data sheet in dense bf16")
    with as_trained(bench):
        for quick in (ceilings, attention):
            with bench.attempt(quick.__name__):
                quick(bench, shape)
        adapter(bench, shape, "lora-r16-dropout-0.05", 0.05)
        full(bench, shape)
        adapter(bench, shape, "lora-r16", 0.0)
        if bench.left() > 30:  # it compiles anew
            torch.use_deterministic_algorithms(False)
            adapter(bench, shape, "lora-r16-dropout-0.05, kernels that need not be deterministic", 0.05, profile=False)


def ceilings(bench: Bench, _: Shape) -> None:
    """What the device does in bf16 where nothing but one product is asked of it, and how fast it copies."""
    size = 64 if bench.tiny else 8192
    one, other = (torch.randn(size, size, device=bench.device, dtype=bench.dtype) for _ in range(2))
    seconds = bench.seconds(lambda: one @ other, 10)
    large = torch.randn(size * size * 16, device=bench.device)
    target = torch.empty_like(large)
    copied = bench.seconds(lambda: target.copy_(large), 5)
    bench.figure(
        f"product of {size} x {size} matrices in {bench.precision}, and a copy",
        {"TFLOP/s": 2 * size**3 / seconds / 1e12, "TB/s read and written": 2 * large.nbytes / copied / 1e12},
    )


def adapter(bench: Bench, shape: Shape, name: str, dropout: float, profile: bool = True) -> None:
    free(bench)
    with bench.attempt(name):
        ours = Ours(network(shape, bench.device, bench.dtype), lora(16, dropout), shape, bench)
        seconds = measured(ours.step, shape, bench)
        bench.figure(name, row(bench, shape, name, ours, seconds, flops_per_token(ours.model, shape.length)))
        if profile:
            with bench.attempt(f"{name}, profile"):
                profiled(bench, shape, name, ours)


def full(bench: Bench, shape: Shape) -> None:
    free(bench)
    memory = torch.cuda.get_device_properties(0).total_memory if bench.is_cuda else TINY_MEMORY
    layers, every = layers_that_fit(shape, memory), shape.num_hidden_layers
    with torch.device("meta"):
        flops = flops_per_token(LlamaForCausalLM(shape.config()), shape.length)
    made = network(shape, bench.device, torch.float32, layers)
    seconds: dict[int, dict[str, float]] = {}
    for number in (layers, layers // 2, layers // 4):
        if every in seconds or len(seconds) == 2:
            break
        name = "full" if number == every else f"full, {number} of {every} layers"
        made.model.layers = made.model.layers[:number]
        made.config.num_hidden_layers = number
        with bench.attempt(name):
            seconds[number] = trained_fully(bench, shape, name, made, flops if number == every else None)
        made.zero_grad()
        free(bench)
    if len(seconds) == 2 and every not in seconds:
        scaled = {part: extrapolated({n: found[part] for n, found in seconds.items()}, every) for part in STEP}
        name = f"full, {every} layers by {' and '.join(map(str, seconds))}"
        bench.figure(name, speeds(bench, shape, "full", scaled, flops))


def trained_fully(bench: Bench, shape: Shape, name: str, made: Any, flops: float | None) -> dict[str, float]:
    """The seconds of a step."""
    ours = Ours(made, FULL, shape, bench)
    seconds = measured(ours.step, shape, bench)
    bench.figure(name, row(bench, shape, name, ours, seconds, flops))
    with bench.attempt(f"{name}, profile"):
        profiled(bench, shape, name, ours)
    return seconds


def layers_that_fit(shape: Shape, memory: int) -> int:
    """All layers, or else as many (a multiple of 8, of a tiny model of 2) as leave `memory` for activations."""
    step = 8 if shape.num_hidden_layers % 8 == 0 else 2
    numbers = range(shape.num_hidden_layers, step, -step)
    fitting = (number for number in numbers if STATE_BYTES * shape.parameters(number) <= STATE_SHARE * memory)
    return next(fitting, step)


def extrapolated(by_layers: Mapping[int, float], every: int) -> float:
    """The seconds of all layers, from those of two numbers of them; no fewer than what was measured."""
    (few, less), (many, more) = sorted(by_layers.items())
    return more + (every - many) * max(0.0, more - less) / (many - few)


def row(
    bench: Bench, shape: Shape, goal: str, ours: Ours, seconds: Mapping[str, float], flops: float | None
) -> dict[str, Any]:
    found = speeds(bench, shape, goal, seconds, flops)
    return {**found, "checkpointed layers": ours.checkpointed, "peak GB": peak_gigabytes(bench)}


def speeds(bench: Bench, shape: Shape, goal: str, seconds: Mapping[str, float], flops: float | None) -> dict[str, Any]:
    """Of a step's seconds. `flops` are those of a token, None where the number would mean nothing."""
    tokens = shape.rows * shape.length
    speed = tokens / sum(seconds.values())
    found: dict[str, Any] = {
        "tokens/s": speed, "tokens/s of the passes alone": tokens / seconds["passes"],
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
    }  # fmt: skip
    device = devices.known(torch.cuda.get_device_name()) if bench.is_cuda else None
    if flops is not None:
        found |= {"TFLOP/s": speed * flops / 1e12, "MFU": speed * flops / device.bf16 if device else None}
    if goal in GOALS and not bench.tiny:
        found |= {"goal": GOALS[goal][0], "stretch": GOALS[goal][1], "reached": speed >= GOALS[goal][0]}
    return found


def profiled(bench: Bench, shape: Shape, name: str, ours: Ours) -> None:
    """The ten kernels that one step of one pass spends most in, and how much of its time the device has none."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    tokens = torch.randint(3, shape.vocab_size, (max(1, shape.rows // 3), shape.length))
    with profile(activities=[ProfilerActivity.CUDA if bench.is_cuda else ProfilerActivity.CPU]) as found:
        ours.step(0, tokens)
        bench.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in found.events() or []
        if not event.is_user_annotation
        and (event.device_type == DeviceType.CUDA if bench.is_cuda else event.cpu_parent is None)
    )
    if not spans:
        bench.fail(f"{name}: the profiler saw no kernel")
        return
    totals: dict[str, tuple[float, int]] = {}
    for start, end, kernel in spans:
        spent, count = totals.get(kernel, (0.0, 0))
        totals[kernel] = spent + (end - start) / 1e6, count + 1
    everything = sum(spent for spent, _ in totals.values())
    longest = sorted(totals.items(), key=lambda item: -item[1][0])[:KERNELS]
    bench.figure(
        f"{name}, longest kernels of one pass",
        [{"share": round(spent / everything, 4), "times": count, "kernel": kernel[:100]}
         for kernel, (spent, count) in longest],
    )  # fmt: skip
    bench.figure(f"{name}, gaps", gaps([(start / 1e6, end / 1e6) for start, end, _ in spans]))


def gaps(spans: list[tuple[float, float]]) -> dict[str, Any]:
    """What is between kernels, from the first to the last; `spans` are seconds, sorted by their begins."""
    (begin, reached), idle, longest, count = spans[0], 0.0, 0.0, 0
    for start, end in spans[1:]:
        gap = max(0.0, start - reached)
        idle, longest, count = idle + gap, max(longest, gap), count + (gap > GAP_SECONDS)
        reached = max(reached, end)
    return {
        "share of the time": round(idle / (reached - begin), 4), "longest, seconds": longest,
        f"longer than {GAP_SECONDS * 1e6:.0f} us": count, "kernels": len(spans),
    }  # fmt: skip


def attention(bench: Bench, shape: Shape) -> None:
    """Seconds of attention forward and backward, SDPA beside `varlen_attn`: over whole rows, and within segments."""
    from torch.nn.attention import varlen
    from torch.nn.functional import scaled_dot_product_attention

    from scripts.training.attention import begins_of

    rows, heads = 2, shape.num_attention_heads
    size, length = shape.hidden_size // heads, shape.length
    q, k, v = (
        torch.randn(rows, heads, length, size, device=bench.device, dtype=bench.dtype, requires_grad=True)
        for _ in range(3)
    )
    found = {}
    for segments in (1, 8):
        numbers = (torch.arange(length, device=bench.device) * segments // length).expand(rows, length)
        begins, place = begins_of(numbers), torch.arange(length, device=bench.device)
        mask = (numbers[:, None, :, None] == numbers[:, None, None, :]) & (place[:, None] >= place)

        def by_sdpa(mask: torch.Tensor | None = mask if segments > 1 else None) -> None:
            given: Any = scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None).sum()
            given.backward()

        def by_varlen(begins: torch.Tensor = begins) -> None:
            flat_q, flat_k, flat_v = (part.transpose(1, 2).flatten(0, 1) for part in (q, k, v))
            given: Any
            given = varlen.varlen_attn(flat_q, flat_k, flat_v, begins, begins, length, length, window_size=(-1, 0))
            given.sum().backward()

        found[f"SDPA, {segments} a row"] = bench.seconds(by_sdpa, 5)
        if bench.is_cuda:
            found[f"varlen, {segments} a row"] = bench.seconds(by_varlen, 5)
    bench.figure("seconds of attention, forward and backward", found)
    if not bench.is_cuda:
        bench.note("torch's varlen_attn is for CUDA alone")
