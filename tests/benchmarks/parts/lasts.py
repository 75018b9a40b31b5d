"""A part that does not end."""

import time

from benchmarks.gpu.part import Bench


def main(bench: Bench) -> None:
    bench.figure("before", 1)
    time.sleep(1000)
