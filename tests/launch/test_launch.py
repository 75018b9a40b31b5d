"""A frozen launch names exactly what its files name."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from scripts.launch.launch import Launch, launch_by_hand
from scripts.store.fingerprint import canonical

STUDIES = sorted(p.stem for p in Path("config/studies").glob("*.yaml") if not p.name.endswith(".learning_rates.yaml"))


@pytest.mark.parametrize("study", STUDIES)
def test_jobs_know_every_product_of_the_plan(study: str, tmp_path: Path) -> None:
    """The frozen form sorts keys: no name may depend on their order in the file."""
    launch = launch_by_hand(study, str(tmp_path))
    frozen = Launch(**json.loads(canonical(asdict(launch))))
    assert frozen.grid.card == frozen.grid.products[launch.grid.card.key]
    assert set(frozen.grid.products) == set(launch.grid.products)
    for key, product in launch.grid.products.items():
        known = frozen.grid.products[key]
        assert (known.inputs, known.members) == (product.inputs, product.members)
