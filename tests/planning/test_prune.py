"""What may be deleted is what no study needs any more, and nothing else is; manifests stay."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from scripts.common.commands import python_command
from scripts.common.errors import UserError
from scripts.launch.launch import launch_by_hand
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.planning.prune import Found, delete, found, main
from scripts.store.fingerprint import fingerprint
from scripts.store.store import COPY, Store
from scripts.study.schema import Study

TRUNK = "code-cpt/full"
LEGS = [f"legs/{TRUNK}/{end}-seed0" for end in ("2.048K", "4.096K")]
RUNS = [f"runs/{TRUNK}/{end}-seed0" for end in ("2.56K", "5.12K")]


@pytest.fixture(scope="module")
def grid() -> Grid:
    """The smoke study: legs end at 8 and 16 batches, branches go from 8 to 10 and from 16 to 20."""
    return launch_by_hand("smoke", "results/store").grid


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def fill(store: Store, products: Iterable[Product], size: int = 100) -> None:
    def write(out: Path) -> dict[str, Any]:
        (out / "model.safetensors").write_bytes(bytes(size))
        return {}

    for product in products:
        store.make(product, (lambda out: {}) if product.members else write, {})


def trained(grid: Grid) -> list[Product]:
    return [grid.find(name) for name in (*LEGS, *RUNS)]


def measured(grid: Grid, *names: str) -> list[Product]:
    """All that is measured of these runs."""
    keys = {grid.find(name).key for name in names}
    return [product for product in grid if keys & set(product.inputs) and not product.members]


def names(items: Iterable[Found]) -> list[str]:
    return [item.key[:-13] for item in items]


def test_a_leg_end_is_needed_until_all_that_starts_from_it_is_there(store: Store, grid: Grid) -> None:
    first, second, short, long = trained(grid)
    fill(store, [first, short])
    assert not found(store, [grid])  # the next leg is missing
    fill(store, [second])
    assert names(found(store, [grid])) == [LEGS[0]]
    fill(store, [long])
    assert names(found(store, [grid])) == LEGS


def test_a_leg_end_is_needed_while_a_branch_is_missing(store: Store, grid: Grid) -> None:
    first, second, _, long = trained(grid)
    fill(store, [first, second, long])
    assert names(found(store, [grid])) == [LEGS[1]]


def test_a_run_is_needed_until_it_is_evaluated(store: Store, grid: Grid) -> None:
    short = grid.find(RUNS[0])
    *most, last = measured(grid, RUNS[0])
    assert most
    fill(store, [short, *most])
    assert not found(store, [grid])
    fill(store, [last])
    (item,) = found(store, [grid])
    copy = store.copy_path(short.key).stat().st_size
    assert (item.key, item.bytes, item.named) == (short.key, 100 + copy, True)
    assert item.words == python_command("scripts.training.train", short.key)


def test_spectra_are_a_need_and_data_models_and_samples_never_go(store: Store) -> None:
    """In the paper's study a run of figure 6 is decomposed; everything else of it is there."""
    grid = launch_by_hand("paper", str(store.root)).grid
    spectra = next(product for product in grid if product.kind == "spectra")
    run = grid.products[spectra.inputs[0]]
    readers = [product for product in grid if run.key in product.inputs and not product.members]
    assert len(readers) > 1
    beside = [product for product in grid if product.kind in ("records", "rows", "model", "tokenizer")]
    fill(store, [run, *beside, *(product for product in readers if product is not spectra)])
    assert not found(store, [grid])
    fill(store, [spectra])
    assert [item.key for item in found(store, [grid])] == [run.key]


def test_every_study_has_a_say(store: Store, grid: Grid) -> None:
    """A branch that only another study has keeps the leg end that it starts from."""
    data = grid.study.model_dump(mode="json")
    data["settings"]["code-cpt"]["durations"].append(3840)
    other = Grid(
        Study.model_validate(data),
        "other",
        dict.fromkeys(("data", "pretrainer", "trainer", "evaluation", "spectra"), 1),
        {},
    )
    fill(store, trained(grid))
    assert names(found(store, [grid])) == LEGS
    assert names(found(store, [grid, other])) == LEGS[1:]
    fill(store, [other.find(f"runs/{TRUNK}/3.84K-seed0")])
    assert names(found(store, [grid, other])) == LEGS
    # named by another study alone, it is nothing to this one
    (item,) = [item for item in found(store, [grid]) if not item.named]
    assert item.key.startswith(f"runs/{TRUNK}/3.84K-seed0")


def test_a_leg_end_is_needed_to_make_lost_bytes_again(store: Store, grid: Grid) -> None:
    fill(store, trained(grid))
    lost = grid.find(RUNS[1])
    (store.directory(lost.key) / "model.safetensors").unlink()
    assert names(found(store, [grid])) == LEGS[:1]
    fill(store, measured(grid, RUNS[1]))  # nobody will ask for it again; what is left of its directory can go too
    assert names(found(store, [grid])) == [*LEGS, RUNS[1]]


def unfinished(store: Store, key: str) -> Path:
    checkpoint = store.scratch(key) / "step-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights.safetensors").write_bytes(bytes(300))
    return store.scratch(key)


def test_checkpoints_are_needed_until_their_product_is_complete(store: Store, grid: Grid) -> None:
    run = grid.find(RUNS[0])
    unfinished(store, run.key)
    unfinished(store, "runs/code-cpt/full/1K-seed0-0123456789ab")
    (item,) = found(store, [grid])
    assert not item.named
    assert item.words == "checkpoints of runs/code-cpt/full/1K-seed0-0123456789ab"
    fill(store, [run])
    scratch = unfinished(store, run.key)  # the job was killed after it had written the manifest
    assert [(item.path, item.bytes) for item in found(store, [grid]) if item.named] == [(scratch, 300)]


def test_what_a_killed_job_left_is_found(store: Store, grid: Grid) -> None:
    run = grid.find(RUNS[0])

    left_over = store.directory(run.key).with_name(f".{Path(run.key).name}-ab12_xyz")  # as `Store.make` calls its own
    left_over.mkdir(parents=True)
    (left_over / "model.safetensors").write_bytes(bytes(200))
    (item,) = found(store, [grid])
    assert (item.path, item.bytes, item.words) == (left_over, 200, f"left behind by a killed job of {run.key}")


def test_deleting(store: Store, grid: Grid) -> None:
    """Manifests, metrics and what is needed stay as they are; what is gone can be made again."""
    fill(store, [*trained(grid), grid.model])
    metrics = store.manifest_path(grid.find(RUNS[0]).key).with_suffix(".metrics.jsonl")
    metrics.write_text("{}\n")
    first = grid.find(LEGS[0])
    before = {
        path: path.read_bytes() for path in store.root.rglob("*") if path.is_file() and ".locks" not in path.parts
    }
    assert delete(store, found(store, [grid]), really=False) == {}
    assert store.bytes_of(first.key)
    assert delete(store, found(store, [grid])) == {}
    after = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file() and ".locks" not in path.parts}
    gone = {store.directory(grid.find(leg).key) / name for leg in LEGS for name in ("model.safetensors", COPY)}
    assert after == {path: text for path, text in before.items() if path not in gone}
    assert not store.directory(first.key).exists()
    with pytest.raises(UserError, match=f"`{python_command('scripts.training.train', first.key)}` makes them again"):
        store.bytes_of(first.key)
    fill(store, [first])
    assert store.bytes_of(first.key)


def test_a_manifest_that_only_its_copy_saves_is_put_back_before_the_copy_goes(store: Store, grid: Grid) -> None:
    fill(store, trained(grid))
    first, second = (grid.find(leg) for leg in LEGS)
    manifests = {leg.key: store.read(leg.key) for leg in (first, second)}
    store.manifest_path(first.key).unlink()
    store.manifest_path(second.key).write_text("{")
    assert names(found(store, [grid])) == LEGS
    assert delete(store, found(store, [grid])) == {}
    assert {leg: store.read(leg) for leg in manifests} == manifests
    assert not store.directory(first.key).exists()
    assert not store.directory(second.key).exists()


def test_a_directory_with_nothing_but_the_copy_is_left_alone(store: Store, grid: Grid) -> None:
    """What has results and no files, such as a score without samples; here of no study."""
    spec = {"kind": "evaluation", "task": "hellaswag"}
    score = Product.of(f"evaluations/old/hellaswag-{fingerprint(spec)}", spec, ())
    store.make(score, lambda out: {"value": 0.5}, {})
    assert store.copy_path(score.key).exists()
    assert not found(store, [grid])


def test_what_no_manifest_and_no_copy_speaks_for_is_left_alone_and_the_rest_is_listed(store: Store, grid: Grid) -> None:
    fill(store, trained(grid))
    for path in (store.manifest_path, store.copy_path):
        path(grid.find(LEGS[0]).key).write_text("{")
    assert names(found(store, [grid])) == LEGS[1:]


def test_what_a_job_works_on_is_left_alone(store: Store, grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, trained(grid))
    busy, other = (grid.find(leg).key for leg in LEGS)
    with store.lock(busy):
        main(["smoke"], str(store.root), really=True, unnamed=False)
    assert store.directory(busy).exists()
    assert not store.directory(other).exists()
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("left alone"))
    assert busy in line
    assert str(os.getpid()) in line  # who holds it


def test_the_command(store: Store, grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {"kind": "run", "method": {"kind": "full"}}
    stranger = Product.of(f"runs/old/full/1-seed0-{fingerprint(spec)}", spec, ())
    fill(store, [*trained(grid), stranger], size=2_000_000)
    root = str(store.root)
    main([], root, really=False, unnamed=False)
    said = capsys.readouterr().out
    assert "smoke" in said.splitlines()[0]
    assert "paper-v1" in said.splitlines()[0]  # all studies, where none is named
    assert "demo.learning_rates" not in said
    assert "no longer needed: 4.0 MB" in said
    options = ("--store", root)
    for leg in LEGS:
        key = grid.find(leg).key
        assert f"2.0 MB  {python_command('scripts.training.train', key, *options, options=())}\n" in said
    assert (
        f"2.0 MB  {python_command('scripts.training.train', stranger.key, *options, options=())}\n"
        in said.partition("of no study")[2]
    )
    assert said.splitlines()[-1] == "4.0 MB would be free; nothing was deleted, --delete does it"
    assert store.directory(stranger.key).exists()

    main(["smoke"], root, really=True, unnamed=False)
    assert capsys.readouterr().out.splitlines()[-1] == "4.0 MB are free now"
    assert store.directory(stranger.key).exists()
    main(["smoke"], root, really=True, unnamed=True)
    assert capsys.readouterr().out.splitlines()[-1] == "2.0 MB are free now"
    assert not store.directory(stranger.key).exists()
    assert store.read(stranger.key)
    assert all(store.directory(grid.find(run).key).exists() for run in RUNS)
    main(["smoke"], root, really=False, unnamed=True)
    assert "0 bytes would be free" in capsys.readouterr().out


def test_one_sentence(store: Store) -> None:
    with pytest.raises(UserError, match="does not exist; --store names another"):
        main([], str(store.root / "nowhere"), really=False, unnamed=False)
    with pytest.raises(UserError, match="study 'smok' is unknown"):
        main(["smok"], str(store.root), really=False, unnamed=False)
