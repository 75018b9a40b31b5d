"""The pilot is the condition that costs least of those that fit; its page has what was planned and what it took."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.common.errors import UserError
from scripts.launch.launch import Launch, new_launch
from scripts.plan.product import Product
from scripts.planning import pilot
from scripts.planning.estimate import Estimate

ONE_GPU = {"kind": "h100-80gb", "gpus": 1}


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return new_launch("paper", str(tmp_path), devices=ONE_GPU)


def everything(product: Product) -> bool:
    return True


def adapters(product: Product) -> bool:
    return "/full" not in product.key


def test_the_cheapest_with_spectra_and_without(launch: Launch) -> None:
    """Only full finetuning is decomposed in the paper, from 0.25B tokens on; of adapters the cheapest is one epoch."""
    _, decomposed = pilot.condition(launch, everything)
    assert (decomposed.setting, decomposed.method, decomposed.duration) == ("code-cpt", "full", "0.25B")
    assert "spectra" in decomposed.evaluations
    block, alone = pilot.condition(launch, adapters)
    estimate = Estimate(launch.grid, launch.store)
    runs = {one.product for conditions in launch.grid.blocks.values() for one in conditions if not one.is_base}
    costs = [
        sum(estimate.work(product) for product in pilot.chain(launch.grid, run))
        for run in runs
        if launch.grid.products[run].kind == "run" and adapters(launch.grid.products[run])
    ]
    assert sum(estimate.work(product) for product in pilot.chain(launch.grid, alone.product)) == min(costs)
    assert alone in launch.grid.blocks[block]


def test_nothing_fits_and_families(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="trains nothing that fits into the memory of h100-80gb"):
        pilot.condition(launch, lambda product: False)
    monkeypatch.setattr("sys.argv", ["snakemake", "pilot", "-n", "--config", "study=smoke"])
    with pytest.raises(UserError, match=r"makes families of them; try `.*snakemake pilot --config grain=condition st"):
        pilot.condition(new_launch("smoke", launch.store_root), everything)


@pytest.mark.parametrize("slower", [1.0, 2.0])
def test_page(
    launch: Launch, slower: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the condition has took as long as was planned, or twice as long; the rest of the study follows."""
    monkeypatch.chdir(launch.store_root)
    Path("results").mkdir()
    _, chosen = pilot.condition(launch, adapters)
    grid, planned = launch.grid, Estimate(launch.grid, launch.store)
    products = [
        *pilot.chain(grid, chosen.product),
        *(grid.products[key] for key in chosen.evaluations.values()),
    ]
    for product in [*products, *(grid.products[key] for one in products for key in one.inputs_of("samples"))]:
        put(launch, product, slower * planned.seconds(product, set()), planned.tokens)
    pilot.main(launch, chosen.product)
    text = capsys.readouterr().out
    ratios = [
        float(line.split()[-1]) for line in text.splitlines() if line.startswith(("runs/", "legs/", "eval", "sam"))
    ]
    assert len(ratios) == len(products) + sum(bool(one.inputs_of("samples")) for one in products)
    assert ratios == pytest.approx([slower] * len(ratios), abs=0.01)
    before, after = (float(n.replace(",", "")) for n in re.findall(r"([\d,]+\.\d)", text.splitlines()[-1]))
    assert (after > before * 1.01) == (slower > 1.0)
    assert Path("results/pilot.md").read_text() == f"```\n{text}```\n"


def put(launch: Launch, product: Product, seconds: float, tokens: Callable[[Product], float | None]) -> None:
    """As it would be in the store, had it taken so long."""
    provenance: dict[str, object] = {"seconds": seconds}
    if product.kind in ("leg", "run"):
        attempts = [{"device": "NVIDIA H100 80GB HBM3", "devices": 1}]
        provenance["training"] = {"attempts": attempts, "device_seconds": seconds}
    elif not product.is_judged:
        provenance["evaluation"] = {"device": "NVIDIA H100 80GB HBM3", "devices": 1}
    path = launch.store.manifest_path(product.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"key": product.key, "spec": product.spec, "inputs": [], "files": {}, "provenance": provenance}
    path.write_text(json.dumps({**said, "results": {"tokens": tokens(product)}}))
