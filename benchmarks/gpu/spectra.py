"""Singular values of matrices of Llama-2-7B's sizes on the device: roots of the eigenvalues of a Gram matrix, float64.

Spectra are computed on the CPU and of the matrix itself so far; this says what the other way would take, and lose.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.part import Bench

COUNTS = {(4096, 4096): 128, (4096, 11008): 96}
"""The linear matrices of Llama-2-7B, 224 together: q, k, v and o; gate, up and down (or its transpose)."""
TINY_COUNTS = {(64, 64): 128, (64, 176): 96}
BATCH = 4


def singular_values(matrices: Tensor) -> Tensor:
    """Of float64 [..., rows, columns] with no more rows than columns, from the largest down."""
    squares: Tensor = torch.linalg.eigvalsh(matrices @ matrices.mT)
    return squares.clamp(min=0).sqrt().flip(-1)


def difference(rows: int, columns: int, batch: int, device: torch.device) -> Tensor:
    """Like what finetuning changes, in float64: a few large directions above noise."""
    drawn = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=drawn, device=device, dtype=torch.float64)

    return 1e-4 * normal(batch, rows, columns) + 1e-4 * normal(batch, rows, 16) @ normal(batch, 16, columns)


def main(bench: Bench) -> None:
    counts = TINY_COUNTS if bench.tiny else COUNTS
    totals = {"one at a time": 0.0, f"{BATCH} at a time": 0.0}
    for (rows, columns), count in counts.items():
        matrices = difference(rows, columns, BATCH, bench.device)
        found = {
            "Gram matrix": bench.seconds(partial(torch.matmul, matrices[0], matrices[0].mT)),
            "one at a time": bench.seconds(partial(singular_values, matrices[0])),
            f"{BATCH} at a time": bench.seconds(partial(singular_values, matrices)) / BATCH,
        }
        bench.figure(f"seconds of a matrix of {rows} x {columns}", found)
        for way in totals:
            totals[way] += count * found[way]
    bench.figure(f"seconds of all {sum(counts.values())} matrices", totals)
    accuracy(bench, *((64, 176) if bench.tiny else (1024, 2752)))


def accuracy(bench: Bench, rows: int, columns: int) -> None:
    """Against the CPU's decomposition of the matrix itself, in float64."""
    (matrix,) = difference(rows, columns, 1, torch.device("cpu"))
    expected = torch.linalg.svdvals(matrix)
    ways = {"Gram matrix": singular_values, "svdvals": torch.linalg.svdvals}
    for name, way in ways.items():
        given = matrix.to(bench.device)
        error = (way(given).cpu() - expected).abs().max() / expected[0]
        seconds = bench.seconds(partial(way, given))
        bench.figure(f"{name} of {rows} x {columns} on the device", {"seconds": seconds})
        bench.check(f"{name}, error over the largest value", {"error": (float(error), 1e-7)})
