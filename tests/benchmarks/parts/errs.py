"""A part in which one thing goes wrong, one is out of bounds, and a third one is measured all the same."""

import math

from benchmarks.gpu.part import Bench


def main(bench: Bench) -> None:
    with bench.attempt("first"):
        raise RuntimeError("no such kernel\nand a long story")
    bench.check("second", {"loss": (math.nan, 1.0), "gradient": (0.5, 1.0)})
    bench.figure("third", {"tokens/s": 1.0})
