"""A frozen launch names exactly what its files name."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from scripts.common.environment import LAUNCH
from scripts.common.errors import UserError
from scripts.launch import launch as launching
from scripts.launch.command import make
from scripts.launch.launch import Launch, begin, launch_by_hand
from scripts.plan.product import Product
from scripts.store.codelock import module_hashes
from scripts.store.fingerprint import canonical

STUDIES = sorted(p.stem for p in Path("config/studies").glob("*.yaml") if not p.name.endswith(".learning_rates.yaml"))


@pytest.mark.parametrize("study", STUDIES)
def test_jobs_know_every_product_of_the_plan(study: str, tmp_path: Path) -> None:
    """The frozen form sorts keys: no name may depend on their order in the file."""
    launch = launch_by_hand(study, str(tmp_path))
    frozen = Launch(**json.loads(canonical(asdict(launch))))
    assert set(frozen.grid.products) == set(launch.grid.products)
    for key, product in launch.grid.products.items():
        known = frozen.grid.products[key]
        assert (known.inputs, known.members) == (product.inputs, product.members)


def a_product(launch: Launch, kind: str) -> Product:
    return next(product for product in launch.grid if product.kind == kind)


@pytest.mark.parametrize(
    ("kind", "behind"), [("run", {"trainer", "loading"}), ("evaluation", {"evaluation", "loading"})]
)
def test_a_manifest_has_the_hash_of_a_version_that_its_spec_leaves_out(
    tmp_path: Path, kind: str, behind: set[str]
) -> None:
    launch = launch_by_hand("smoke", str(tmp_path))
    manifest = make(launch, a_product(launch, kind), lambda out: {})
    code = manifest["provenance"]["code"]
    assert code.keys() == behind
    assert {name: entry["version"] for name, entry in code.items()} == {
        name: launch.code[name]["version"] for name in behind
    }
    assert all(len(entry["hash"]) == 12 for entry in code.values())
    assert "loading" not in json.dumps(manifest["spec"])


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a process that has not asked yet what the code is."""
    monkeypatch.chdir(tmp_path)
    launching._hashes_now.cache_clear()
    yield tmp_path
    launching._hashes_now.cache_clear()


def test_code_that_changed_after_the_launch_makes_nothing(code: Path, request: pytest.FixtureRequest) -> None:
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.chdir(request.config.rootpath)
        launch = launch_by_hand("smoke", str(code / "store"))
        run = a_product(launch, "run")
    entries: dict[str, Any] = {}
    for name in ("trainer", "loading"):
        (code / f"{name}.py").write_text("ONE = 1")
        entries[name] = {"version": 1, "modules": [f"{name}.py"], "hashes": module_hashes([f"{name}.py"])}
    launch = replace(launch, code=entries)
    (code / "loading.py").write_text("ONE = 2")
    with pytest.raises(UserError) as raised:
        make(launch, run, lambda out: {})
    assert str(raised.value) == (
        f"{run.key}: the code behind 'loading' changed after this launch started (loading.py); "
        "nothing was made, start Snakemake again"
    )
    assert not launch.store.is_made(run.key)
    (code / "loading.py").write_text("ONE = 1  # as it was")
    launching._hashes_now.cache_clear()
    assert make(launch, run, lambda out: {})["provenance"]["code"].keys() == {"trainer", "loading"}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launch]:
    """Begins a launch as the head of a command, or as one of its jobs; links are only noted, in `links`."""
    for variable in ("PATH", "PYTHONPATH", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    monkeypatch.setenv(LAUNCH, "")
    monkeypatch.setattr(launching, "_link", lambda link, store: links.append((str(link), str(store))))
    links: list[tuple[str, str]] = []

    def begun(*command: str, is_head: bool = True) -> Launch:
        if is_head:
            monkeypatch.setenv(LAUNCH, "")
        links.clear()
        launch = begin({"study": "smoke", "store": "a-store"}, os.getcwd(), command, is_head=is_head)
        assert links == ([] if launch.results == "results" or not is_head else [(launch.seen_store, "a-store")])
        return launch

    return begun


def test_a_target_of_a_study_by_name_says_which_study_and_where_its_results_are(begun: Callable[..., Launch]) -> None:
    launch = begun("-n", "results/studies/demo/figures/fig2.pdf", "results/studies/demo/claims.md", "--cores", "2")
    assert (launch.name, launch.results) == ("demo", "results/studies/demo")
    assert launch.seen_store == "results/studies/demo/store"
    assert launch.store_root == "a-store"
    # jobs have other targets, and the launch of their head
    assert begun("results/figures/fig2.pdf", is_head=False) == launch


@pytest.mark.parametrize("target", ["results/figures/fig2.pdf", "all", "results/studies/demo", "results/studies/"])
def test_other_targets_are_of_the_study_that_is_asked_for(begun: Callable[..., Launch], target: str) -> None:
    launch = begun(target)
    assert (launch.name, launch.results, launch.seen_store) == ("smoke", "results", "a-store")


def test_a_command_is_of_one_study(begun: Callable[..., Launch]) -> None:
    with pytest.raises(UserError) as raised:
        begun("results/studies/demo/claims.md", "results/studies/smoke/claims.md")
    assert str(raised.value) == "results/studies: one command makes the files of one study, not of demo and smoke"
    with pytest.raises(UserError, match="study 'nobody' is unknown"):
        begun("results/studies/nobody/claims.md")


def test_a_studys_own_name_of_the_store_leads_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    link = Path("results/studies/demo/store")
    for store in (Path("results/store"), tmp_path / "elsewhere", Path("results/store")):
        launching._link(link, store)
        assert link.resolve() == (tmp_path / store).resolve()
    before = link.lstat().st_ino
    launching._link(link, Path("results/store"))
    assert link.lstat().st_ino == before, "another launch may be looking at it"


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("8", "--config: devices: must be keys and values, such as {kind: h100-80gb, nodes: 1, gpus: 8}, not '8'"),
        ({"kind": "h100-80gb"}, "--config: devices: gpus: must be above 0 where kind is h100-80gb"),
        ({"kind": "h100-80gb", "gpus": "many"}, "--config: devices: gpus: must be a number, but 'many' is text"),
    ],
)
def test_devices_of_one_launch(
    begun: Callable[..., Launch], monkeypatch: pytest.MonkeyPatch, said: Any, wrong: str
) -> None:
    """The study is the same on others; Snakemake leaves the numbers of a mapping in `--config` as text."""
    config = {"study": "smoke", "store": "a-store"}
    launch = begun("all")
    monkeypatch.setenv(LAUNCH, "")
    other = begin({**config, "devices": {"kind": "h100-80gb", "gpus": "8"}}, os.getcwd(), ["all"], is_head=True)
    assert set(other.grid.products) == set(launch.grid.products)
    assert other.grid.study.resources.devices.count == 8
    assert other.grid.study.resources.jobs.evaluation.gpus == 1
    monkeypatch.setenv(LAUNCH, "")
    with pytest.raises(UserError) as raised:
        begin({**config, "devices": said}, os.getcwd(), ["all"], is_head=True)
    assert str(raised.value).startswith(wrong)
