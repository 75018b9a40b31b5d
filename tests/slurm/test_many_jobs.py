"""Many jobs in the queue at a time."""

from collections.abc import Callable

import pytest

from tests.slurm.conftest import Cluster, ClusterHouse, Head

pytestmark = pytest.mark.thorough


def test_sixty_jobs_none_lost_none_twice(
    settle: Callable[[str], ClusterHouse], start: Callable[..., Head], cluster: Cluster
) -> None:
    house = settle("loop,harness")
    house.edit(lambda study: study.update(seeds=[0, 1]))
    figures = ["results/figures/fig1.pdf", "results/figures/fig2.pdf"]
    house.locally().snakemake(*house.locally().planned("families/trained", *figures))
    likelihoods = [
        key for key in house.planned("evaluations", *figures) if "humaneval" not in key and "gsm8k" not in key
    ]
    asked = [*house.planned("samples", *figures), *likelihoods][:60]
    house.log.write_text("")
    start(house, *asked).wait()
    made = {**house.manifests("evaluations"), **house.manifests("samples")}
    assert {f"{house.store_root}/{key}.json" for key in made} == set(asked)
    comments = list(cluster.jobs(house.root).values())
    assert len(comments) == len(set(comments)) == len(asked) == 60
    assert len(house.log.read_text().splitlines()) == len(asked)
