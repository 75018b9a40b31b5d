"""How much of a machine's memory eight processes take while they load one model: at once, and in turn as training does.

python -m benchmarks.loading            writes benchmarks/results/loading.json

Counted is what no other process shares (`RssAnon`), over all processes, above what they have before they load; the file
itself is mapped, and once in the machine's cache. On a machine with GPUs a loaded model goes to them: so it is let go
here. A ratio is to the weights in fp32, 27 GB of a Llama of 7B; the file has them in bf16.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "loading.json"
PROCESSES = 8
SHAPE = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12, "num_attention_heads": 8}
EVERY = 0.005
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""What is freed goes back to the system at once, as it does of a 7B model, whose tensors have more than 32 MB."""
BYTES_7B = 4 * 6_738_415_616
"""Of Llama-2 7B's weights in fp32."""


def own_bytes(process: int) -> int:
    """What a process alone has in memory; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def one(base: Path, how: str) -> None:
    """One of the processes: it loads when the parent says so."""
    import torch

    from scripts.training import parallel
    from scripts.training.model import trainable_model

    torch.set_num_threads(1)

    def load() -> None:
        trainable_model(base, {"kind": "full"}, 0, None)

    with parallel.launched() as group:
        load()  # what is imported and cached at the first time
        group.together(lambda: (base / f"ready-{group.rank}").touch())
        while not (base / "go").exists():
            time.sleep(EVERY)
        if how == "in turn":
            group.in_turn(load)
        else:
            kept = trainable_model(base, {"kind": "full"}, 0, None)
            group.together(lambda: None)
            del kept


def peak(base: Path, how: str) -> int:
    """The most that all processes take more than before, in bytes."""
    for mark in [*base.glob("ready-*"), *base.glob("go")]:
        mark.unlink()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    job = subprocess.Popen(
        [*launcher, "-m", "benchmarks.loading", str(base), how], env={**os.environ, "OMP_NUM_THREADS": "1", **MALLOC}
    )
    while len(list(base.glob("ready-*"))) < PROCESSES and job.poll() is None:
        time.sleep(0.1)
    members = [int(word) for word in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]
    before = most = sum(map(own_bytes, members))
    (base / "go").touch()
    while job.poll() is None:
        most = max(most, sum(map(own_bytes, members)))
        time.sleep(EVERY)
    if job.returncode:
        raise SystemExit(job.returncode)
    return most - before


def main() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as where:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=2000, max_position_embeddings=64, **SHAPE))
        weights = sum(value.nbytes for value in model.parameters())
        model.bfloat16().save_pretrained(where)
        del model
        found: dict[str, Any] = {}
        for how in ("at once", "in turn"):
            taken = peak(Path(where), how)
            ratio = round(taken / weights, 2)
            found[how] = {"peak_mb": round(taken / 1e6), "of_weights": ratio, "gb_at_7b": round(ratio * BYTES_7B / 1e9)}
    result = {"torch": torch.__version__, "processes": PROCESSES, "weights_mb": round(weights / 1e6), **found}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULTS.read_text(), end="")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
