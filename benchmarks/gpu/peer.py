"""LoRA of rank 16 beside peft and transformers without any trainer, on the same model and rows, in one run.

The peer has what their documentation shows: the base in bf16, autocast, SDPA, every layer checkpointed, two rows at
once. Both have the same optimizer.
"""

from benchmarks.gpu.models import (
    LLAMA_2_7B,
    TINY,
    Ours,
    Peer,
    as_trained,
    free,
    lora,
    measured,
    network,
    peak_gigabytes,
)
from benchmarks.gpu.part import Bench


def main(bench: Bench) -> None:
    shape = TINY if bench.tiny else LLAMA_2_7B
    for dropout in (0.05, 0.0):
        method, name = lora(16, dropout), f"lora-r16, dropout {dropout:g}"
        seconds = {}
        for tool in ("peft", "ours"):
            free(bench)
            with bench.attempt(f"{name}, {tool}"):
                made = network(shape, bench.device, bench.dtype)
                if tool == "ours":
                    with as_trained(bench):
                        found = measured(Ours(made, method, shape, bench).step, shape, bench)
                else:
                    found = measured(Peer(made, method, shape, bench).step, shape, bench, 1, 2)
                seconds[tool] = sum(found.values())
                speed = shape.rows * shape.length / seconds[tool]
                bench.figure(f"{name}, {tool}", {"tokens/s": speed, "peak GB": peak_gigabytes(bench)})
        if len(seconds) == 2:
            bench.figure(f"{name}, ours over peft", {"speed": round(seconds["peft"] / seconds["ours"], 3)})
