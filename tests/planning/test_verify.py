"""Whatever is not as it was made is found, and named with what helps; what is as it was made is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.common.errors import UserError
from scripts.launch.launch import Launch, launch_by_hand
from scripts.plan.product import Product
from scripts.planning.verify import faults, look, main
from scripts.store.store import COPY, Store

RUN = "runs/code-cpt/full/5.12K-seed0"
LEG = "legs/code-cpt/full/4.096K-seed0"
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """A store that has a run of the smoke study, and all that it is made from."""
    launch = launch_by_hand("smoke", str(tmp_path_factory.mktemp("smoke") / "store"))
    waiting = [launch.grid.find(RUN)]
    for product in waiting:
        waiting += [launch.grid.products[key] for key in product.inputs]
        make(launch.store, product)
    shutil.copytree(launch.store_root, f"{launch.store_root}-as-made")
    return launch


def make(store: Store, product: Product, code: dict[str, Any] | None = None) -> None:
    def write(out: Path) -> dict[str, Any]:
        (out / FILE).write_bytes(bytes(range(100)))
        (out / "below").mkdir()
        (out / "below" / "more").write_text("more")
        return {}

    store.make(product, write, code or {})


@pytest.fixture
def launch(made: Launch) -> Launch:
    """The same, whatever another test has done to it."""
    shutil.rmtree(made.store_root)
    shutil.copytree(f"{made.store_root}-as-made", made.store_root)
    return made


def found(launch: Launch, *, fast: bool = False) -> list[tuple[str, Path, str]]:
    store, grid = launch.store, launch.grid
    return [(fault.key, fault.path, fault.what) for fault in faults(store, grid, look(store, grid), fast=fast)]


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """As a manifest of the time when none had a hash of itself, so that nothing shows the change but what it says."""
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_what_is_as_it_was_made_is_whole(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    store = launch.store
    leg = launch.grid.find(LEG)
    store.delete_bytes(leg.key)  # as prune does
    make(store, Product.of("runs/of/another-0123456789ab", {"kind": "run"}))
    make(store, Product.of("runs/of/yet-another-ab0123456789", {"kind": "run"}))
    store.manifest_path(launch.grid.find(RUN).key).unlink()  # as Snakemake does; the copy counts
    assert not found(launch)
    main(launch, fast=False)
    number = len(list(store.root.rglob("*-????????????.json"))) + 1 - 2
    said = capsys.readouterr().out
    assert said.startswith(f"{number} of {len(launch.grid.products)} products of study smoke ")
    # 100 bytes and 4 of each but the leg
    assert f": {(number - 1) * 104} bytes by" in said or f": {(number - 1) * 104 / 1000:.1f} kB by" in said
    assert "; 1 are pruned to their manifests, 0 were made by other code" in said
    assert ", 2 that the study does not name" in said


def test_what_other_code_has_made_is_counted(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    here = launch.code_of(launch.grid.find(RUN))
    for name, code in ((RUN, here), (LEG, here | {"trainer": {"version": 1, "hash": "0123456789ab"}})):
        product = launch.grid.find(name)
        shutil.rmtree(launch.store.directory(product.key))
        launch.store.manifest_path(product.key).unlink()
        make(launch.store, product, code)
    assert not found(launch)
    main(launch, fast=True)
    assert ", 1 were made by other code" in capsys.readouterr().out


def test_a_flipped_bit_shows_in_the_hash_alone(launch: Launch) -> None:
    store, run = launch.store, launch.grid.find(RUN)
    path = store.directory(run.key) / FILE
    damaged = bytearray(path.read_bytes())
    damaged[50] ^= 1
    path.write_bytes(damaged)
    assert found(launch) == [(run.key, path, "has another hash than its manifest says")]
    assert not found(launch, fast=True)
    (fault,) = faults(store, launch.grid, look(store, launch.grid), fast=False)
    assert f"delete {store.directory(run.key)}, and `" in fault.remedy
    assert f"-m scripts.training.train {run.key}`" in fault.remedy
    shutil.rmtree(store.directory(run.key))
    make(store, run)  # as that command would
    assert not found(launch)


@pytest.mark.parametrize("fast", [False, True])
def test_files_that_are_cut_off_or_missing_or_foreign(launch: Launch, fast: bool) -> None:
    run, leg = launch.grid.find(RUN), launch.grid.find(LEG)
    cut, gone = launch.store.directory(run.key) / FILE, launch.store.directory(leg.key) / "below" / "more"
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    foreign = launch.store.directory(launch.grid.model.key) / "below" / "notes"
    foreign.write_text("not of the model")
    assert sorted(found(launch, fast=fast)) == sorted(
        [
            (run.key, cut, "has 99 bytes instead of 100"),
            (leg.key, gone, "is missing"),
            (launch.grid.model.key, foreign, "is in no manifest"),
        ]
    )
    with pytest.raises(UserError, match=r"^3 faults in 3 of the "):
        main(launch, fast=fast)


def test_an_input_without_a_manifest_is_named_by_whatever_was_made_from_it(launch: Launch) -> None:
    leg, run = launch.grid.find(LEG), launch.grid.find(RUN)
    shutil.rmtree(launch.store.directory(leg.key))
    launch.store.manifest_path(leg.key).unlink()
    what = f"was made from {leg.key}, which has no manifest"
    assert found(launch) == [(run.key, launch.store.manifest_path(run.key), what)]


def test_an_input_that_the_study_does_not_make_it_from(launch: Launch) -> None:
    run, leg = launch.grid.find(RUN), launch.grid.find(LEG)
    (earlier,) = leg.inputs_of("leg")
    path = launch.store.manifest_path(run.key)
    rewrite(path, lambda manifest: manifest.update(inputs=[*run.inputs[:-1], earlier]))
    shutil.copy(path, launch.store.copy_path(run.key))
    assert run.inputs[-1] == leg.key
    assert found(launch) == [(run.key, path, f"names {earlier} as an input in place of {leg.key}")]


def test_a_manifest_with_the_spec_of_another(launch: Launch) -> None:
    run, leg = launch.grid.find(RUN), launch.grid.find(LEG)
    path = launch.store.manifest_path(run.key)
    rewrite(path, lambda manifest: manifest.update(spec=leg.spec))
    what = f"has the spec of another product, whose fingerprint is {leg.fingerprint}"
    assert found(launch) == [(run.key, path, what)]


def test_a_manifest_that_is_cut_off(launch: Launch) -> None:
    run = launch.grid.find(RUN)
    path, copy = launch.store.manifest_path(run.key), launch.store.directory(run.key) / COPY
    path.write_text(path.read_text()[:-40])
    assert found(launch) == [(run.key, path, "was changed, and its copy counts")]
    make(launch.store, run)  # as the command that it names would
    assert not found(launch)
    copy.write_text("{}")
    assert found(launch) == [(run.key, copy, f"is no copy of {path}")]
    path.write_text("")
    assert found(launch) == [(run.key, path, f"is no whole manifest of {run.key}")]


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        main(launch_by_hand("smoke", str(tmp_path / "none")), fast=True)
