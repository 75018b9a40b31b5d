"""A part whose package has a dependency that is not installed."""

from benchmarks.gpu.part import Bench


def main(bench: Bench) -> None:
    import no_such_package  # type: ignore[import-not-found]  # noqa: F401
