"""A part that ends well."""

from benchmarks.gpu.part import Bench


def main(bench: Bench) -> None:
    print("a library prints")
    bench.figure("speed", {"tokens/s": 12345.6, "steps": [1, 2]})
    bench.check("error", {"loss": (1e-6, 1e-5)})
    bench.note("a remark")
