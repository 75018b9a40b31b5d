"""The comparison with lm-eval's command line, of a tiny model: both are asked the same, and answer the same."""

import pytest

from benchmarks.evaluation import TASKS, TINY, compare


@pytest.mark.slow
def test_both_tools_do_the_same_work() -> None:
    found = compare(TINY, 1, list(TASKS))
    for work in ("programs", "likelihoods"):
        row = found[work]
        assert min(row["ours"]["cpu_seconds"], row["lm-eval"]["cpu_seconds"], row["times as fast, CPU time"]) > 0
    scored = found["likelihoods"]
    assert scored["ours"]["nats"] == pytest.approx(scored["lm-eval"]["nats"], rel=1e-3)
    assert min(found["programs"][tool]["characters"] for tool in ("ours", "lm-eval")) > 0
