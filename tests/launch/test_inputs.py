"""A launch ends before its first job where a job would read bytes that are gone; what comes back by itself may be."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.common.commands import python_command
from scripts.common.errors import UserError
from scripts.launch.inputs import is_remade, require_bytes
from scripts.launch.launch import Launch, new_launch
from scripts.launch.missing import Missing
from scripts.plan.product import Product
from scripts.store.fingerprint import fingerprint

TRUNK = "code-cpt/full"


@pytest.fixture(scope="module")
def smoke() -> Launch:
    return new_launch("smoke", "nowhere", "condition")


@pytest.fixture
def launch(smoke: Launch, tmp_path: Path) -> Launch:
    """An empty store. The grid is the study's, whichever store it has."""
    own = replace(smoke, store_root=str(tmp_path))
    vars(own)["grid"] = smoke.grid
    return own


def write(out: Path) -> dict[str, Any]:
    (out / "bytes").write_bytes(b"abc")
    return {"value": 1}


def make(launch: Launch, *products: Product) -> None:
    for product in products:
        launch.store.make(product, write, {})


def prune(launch: Launch, *products: Product) -> None:
    for product in products:
        launch.store.delete_bytes(product.key)


def inputs(launch: Launch, product: Product) -> list[Product]:
    return [launch.grid.products[key] for key in product.inputs]


def sentence(launch: Launch, products: Iterable[Product]) -> str:
    with pytest.raises(UserError) as raised:
        require_bytes(launch, products)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_all_is_there_or_is_made_by_the_same_launch(launch: Launch) -> None:
    run = launch.grid.find(f"runs/{TRUNK}/2.56K-seed0")
    require_bytes(launch, [run])  # nothing is there: the launch's other jobs make it
    make(launch, *inputs(launch, run))
    require_bytes(launch, [run])


def test_a_leg_whose_bytes_are_gone_is_one_sentence_with_the_command(launch: Launch) -> None:
    run = launch.grid.find(f"runs/{TRUNK}/2.56K-seed0")
    make(launch, *inputs(launch, run))
    [leg] = [product for product in inputs(launch, run) if product.kind == "leg"]
    prune(launch, leg)
    assert sentence(launch, [run]) == (
        f"the bytes of {leg.key} are gone from {launch.store.directory(leg.key)}, and {run.key} is made from them; "
        f"`{python_command('scripts.training.train', leg.key)}` makes them again and checks their hashes"
    )
    require_bytes(launch, [])
    require_bytes(launch, [launch.grid.find("runs/math-ift/full/1-seed0")])  # does not read it


def test_how_many_more_are_gone_is_said(launch: Launch) -> None:
    runs = [launch.grid.find(f"runs/{TRUNK}/{end}-seed0") for end in ("2.56K", "5.12K")]
    for run in runs:
        make(launch, *inputs(launch, run))
        prune(launch, *(product for product in inputs(launch, run) if product.kind == "leg"))
    assert "is made from them, and so are those of 1 more; " in sentence(launch, runs)
    prune(launch, launch.grid.model)
    assert "is made from them, and so are those of 2 more; " in sentence(launch, runs)


def test_one_file_of_many_counts(launch: Launch) -> None:
    run = launch.grid.find(f"runs/{TRUNK}/2.56K-seed0")
    make(launch, *inputs(launch, run))
    (launch.store.directory(launch.grid.model.key) / "bytes").write_bytes(b"ab")
    assert f"the bytes of {launch.grid.model.key} are gone" in sentence(launch, [run])


def test_data_that_are_made_here_come_back_by_themselves(launch: Launch) -> None:
    run = launch.grid.find(f"runs/{TRUNK}/2.56K-seed0")
    make(launch, *inputs(launch, run))
    prune(launch, *(product for product in inputs(launch, run) if product.kind == "rows"))
    require_bytes(launch, [run])


def test_what_comes_back_reads_bytes_too(launch: Launch) -> None:
    """Rows are made again from records and a tokenizer; records from a hub are not, where jobs run."""
    run = launch.grid.find(f"runs/{TRUNK}/2.56K-seed0")
    [rows] = [product for product in inputs(launch, run) if product.kind == "rows"]
    spec = {"kind": "records", "source": "hub"}
    fetched = Product.of(f"data/records/fetched-{fingerprint(spec)}", spec)
    make(launch, fetched, *(p for p in inputs(launch, run) if p is not rows), replace(rows, inputs=(fetched.key,)))
    prune(launch, fetched)
    require_bytes(launch, [run])  # nobody reads them while the rows are there
    prune(launch, rows)
    said = sentence(launch, [run])
    assert f"the bytes of {fetched.key} are gone" in said
    assert f"`{python_command('scripts.data.products', fetched.key)}`" in said


@pytest.mark.parametrize(
    ("spec", "remade"),
    [
        ({"kind": "rows"}, True),
        ({"kind": "records", "source": "generated"}, True),
        ({"kind": "records", "source": "hub"}, False),
        ({"kind": "records", "source": "package"}, False),
        ({"kind": "records", "source": "path"}, True),
        ({"kind": "tokenizer"}, True),
        ({"kind": "tokenizer", "source": "hub"}, False),
        ({"kind": "model", "source": "pretrained"}, False),
        ({"kind": "leg"}, False),
        ({"kind": "run"}, False),
        ({"kind": "published"}, False),
        ({"kind": "evaluation"}, False),
    ],
)
def test_what_comes_back_needs_seconds_and_no_network(spec: dict[str, Any], remade: bool) -> None:
    assert is_remade({"spec": spec}) == remade


def test_a_family_reads_what_its_missing_members_read(launch: Launch) -> None:
    grid = launch.grid
    family = next(p for p in grid if p.kind == "trained" and grid.find(f"runs/{TRUNK}/5.12K-seed0").key in p.members)
    members = [grid.products[key] for key in family.members]
    legs = [product for product in members if product.kind == "leg"]
    make(launch, *inputs(launch, legs[0]), *members)
    prune(launch, *legs)
    require_bytes(launch, [family])  # is made: nothing reads anything

    def unmake(name: str) -> Product:
        run = grid.find(name)
        shutil.rmtree(launch.store.directory(run.key))
        launch.store.manifest_path(run.key).unlink()
        return run

    long = unmake(f"runs/{TRUNK}/5.12K-seed0")
    assert Missing(grid, launch.store).members(family.key) == [long.key]
    assert f"the bytes of {legs[1].key} are gone" in sentence(launch, [family])
    # a leg that the same job makes has bytes by then
    launch.store.manifest_path(legs[1].key).unlink()
    said = sentence(launch, [family])
    assert f"the bytes of {legs[0].key} are gone" in said
    assert f"and {legs[1].key} is made from them" in said
    launch.store.manifest_path(legs[0].key).unlink()
    require_bytes(launch, [family])


def test_it_is_about_what_the_jobs_read_alone(launch: Launch) -> None:
    """Samples of an evaluation, or a model that nothing more is asked of, may be gone."""
    run, other = (launch.grid.find(f"runs/{TRUNK}/{end}-seed0") for end in ("2.56K", "5.12K"))
    score = next(product for product in launch.grid if product.kind == "evaluation" and run.key in product.inputs)
    make(launch, run, score, *inputs(launch, other))
    prune(launch, run, score)
    require_bytes(launch, [other])
