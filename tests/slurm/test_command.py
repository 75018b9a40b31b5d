"""The literal command, on a small study and a real cluster."""

from collections.abc import Callable

import pytest

from tests.conftest import counts
from tests.slurm.conftest import ClusterHouse, snakemake

pytestmark = pytest.mark.thorough


def test_smoke_through_sbatch(settle: Callable[[str], ClusterHouse]) -> None:
    """The literal command makes the figure: each leg, run and evaluation in one job, nothing else in any."""
    house = settle("loop,harness")
    line = "snakemake results/figures/fig2.pdf --profile slurm --config study=smoke"
    status, said = snakemake(house.root, line, **house.environment())
    assert status == 0, said
    assert (house.root / "results" / "figures" / "fig2.pdf").stat().st_size > 1000
    assert house.cluster
    comments = list(house.cluster.jobs(house.root).values())
    assert len(comments) == len(set(comments))
    rules = {rule: sum(comment.startswith(f"rule_{rule}_") for comment in comments) for rule in counts(said)}
    assert {rule: count for rule, count in rules.items() if count} == {"train_leg": 4, "train_run": 8, "evaluate": 27}
    status, said = snakemake(house.root, line, **house.environment())
    assert "Nothing to be done" in said
