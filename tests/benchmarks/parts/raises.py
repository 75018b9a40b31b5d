"""A part that ends with an exception."""

from benchmarks.gpu.part import Bench


def main(bench: Bench) -> None:
    bench.figure("before", 1)
    raise ValueError("the reason")
