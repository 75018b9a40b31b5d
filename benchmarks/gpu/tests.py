"""The project's tests for a GPU, `tests/gpu`, one after another."""

import pytest

from benchmarks.gpu.part import Bench
from scripts.common.files import ROOT


class Listener:
    """Tells of each test as it ends."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return  # set up or torn down
        self.counts[report.outcome] += 1
        name = report.nodeid.rpartition("::")[2]
        if report.failed:
            reason = getattr(report.longrepr, "reprcrash", None)
            self.bench.fail(f"{name}: {getattr(reason, 'message', report.outcome)[:200]}")
        if not report.skipped:
            self.bench.figure(name, {"outcome": report.outcome, "seconds": round(report.duration, 1)})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.bench.fail(f"{report.nodeid}: {str(report.longrepr).splitlines()[-1]}")


def main(bench: Bench) -> None:
    directory = ROOT / "tests" / "gpu"
    # without the fixtures of other tests, which need packages that these do not
    listener = Listener(bench)
    pytest.main(["-m", "gpu", "-p", "no:cacheprovider", f"--confcutdir={directory}", str(directory)], [listener])
    bench.figure("tests", listener.counts)
    if not bench.is_cuda:
        bench.note("tests/gpu has tests for CUDA alone, which are skipped on the CPU")
