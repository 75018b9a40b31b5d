"""From a number back to all that it was made from, and from what is not made to what differs."""

import argparse
import csv
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.artifacts import collect
from scripts.common.errors import UserError
from scripts.launch.launch import Launch, launch_by_hand
from scripts.plan.product import Product
from scripts.planning.explain import Explanation, artifact_at, main, of_file, of_product, record_of
from scripts.store.store import Store

RUN = "runs/code-cpt/lora-r2/5.12K-seed0"
KEY = r"[a-z]+(/[^ /]+)+-[0-9a-f]{12}"


def make(store: Store, product: Product, value: float = 0.0) -> None:
    def write(out: Path) -> dict[str, Any]:
        (out / "bytes").write_bytes(bytes(100))
        return {"value": value, "stderr": value / 10, "items": 8, "tokens": 64}

    store.make(product, write, {"loading": {"version": 1, "hash": "0123456789ab"}})


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """The smoke study, of which figure 3 can be collected; each evaluation has a value of its own."""
    made = launch_by_hand("smoke", str(tmp_path_factory.mktemp("smoke") / "store"))
    measured = artifact_at(Path("figures/fig3.pdf"))
    assert measured is not None
    waiting = [made.grid.products[key] for key in measured.measurements(made.grid, made.store.is_made)]
    for number, product in enumerate(waiting):
        make(made.store, product, (number + 1) / 1024)
        known = {one.key for one in waiting}
        waiting += [made.grid.products[key] for key in product.inputs if key not in known]
    return made


@pytest.fixture
def table(launch: Launch, tmp_path: Path) -> Path:
    path = tmp_path / "results" / "figures" / "fig3.csv"
    collect.main(launch, "fig3", path)
    return path


def shown(lines: Iterable[str]) -> list[tuple[int, str, bool]]:
    """The products of a tree, in order: how deep, which, and whether for the first time."""
    found = (re.fullmatch(rf"((?:  )*)({KEY})( \(above\))?", line) for line in lines)
    return [(len(match[1]) // 2, match[2], match[4] is None) for match in found if match]


def test_each_row_leads_to_the_evaluations_that_its_value_is_of(launch: Launch, table: Path) -> None:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    several = 0
    for number, row in list(enumerate(rows, 1))[::3]:
        lines = list(of_file(launch, table, number))
        keys = [key for depth, key, _ in shown(lines) if depth == 1]
        manifests = [launch.store.require(key) for key in keys]
        # those of a model that was asked, and their mean is the number: no two evaluations have one value
        assert {manifest["spec"]["subject"] for manifest in manifests if "subject" in manifest["spec"]} == {
            row["condition"]
        }
        values = [manifest["results"]["value"] for manifest in manifests]
        assert sum(values) / len(values) == pytest.approx(float(row["value"]), rel=1e-12)
        several += len(keys) > 1
        assert all(str(launch.store.manifest_path(key)) in lines[-1] for key in keys)
    assert several


def test_the_tree_has_every_product_behind_a_row_once(launch: Launch, table: Path) -> None:
    lines, whole = list(of_file(launch, table, 1)), list(of_file(launch, table, None))
    for name in ("evaluations", "samples", "runs", "legs", "models", "data/rows", "data/records", "data/tokenizers"):
        assert any(key.startswith(f"{name}/") for _, key, _ in shown(whole))
    for tree in (lines, whole):
        above: list[str] = []
        edges: dict[str, list[str]] = {}
        for depth, key, _ in shown(tree):
            above[depth - 1 :] = [key]
            if depth > 1:
                edges.setdefault(above[depth - 2], []).append(key)
        first = [key for _, key, is_first in shown(tree) if is_first]
        assert len(first) == len(set(first))
        for key in first:
            assert edges.get(key, []) == list(launch.grid.products[key].inputs)
    # lines are as wide as a path lets them be
    assert f"{table}: made at commit " in " ".join(line.strip() for line in lines[:3])


def test_a_product_says_when_and_by_what_it_was_made(launch: Launch) -> None:
    run = launch.grid.find(RUN)
    text = "\n".join(of_product(launch, RUN))
    assert text == "\n".join(of_product(launch, str(launch.store.manifest_path(run.key))))
    assert text == "\n".join(of_product(launch, run.key))
    one_line = " ".join(text.split())
    manifest = launch.store.require(run.key)
    rate = manifest["spec"]["trunk"]["optimizer"]["learning_rate"]
    provenance = manifest["provenance"]
    for said in (
        "loading 1 (0123456789ab, and ",  # another than this checkout's
        f"trunk.optimizer.learning_rate {rate}",
        f"trunk.rows {manifest['spec']['trunk']['rows']}",
        "bytes: 100 bytes in 1 file",
        f"processor: {provenance['arithmetic']['processor']},",
        f"torch {provenance['packages']['torch']}",
        "nothing makes it again",
    ):
        assert said in one_line
    assert one_line.count("packages: ") == 1
    launch.store.delete_bytes(run.key)
    assert f"pruned; `{'.venv/bin/python'}" in " ".join(" ".join(of_product(launch, RUN)).split())
    make(launch.store, run, launch.store.require(run.key)["results"]["value"])


def test_where_packages_differ_it_says_of_what(launch: Launch) -> None:
    (leg,) = launch.grid.find(RUN).inputs_of("leg")
    path = launch.store.manifest_path(leg)
    before = path.read_text()
    manifest = json.loads(before)
    del manifest["sha256"]
    manifest["provenance"]["packages"]["torch"] = "0.0.1"
    path.write_text(json.dumps(manifest))
    try:
        lines = list(of_product(launch, RUN))
    finally:
        path.write_text(before)
    place = next(index for index, line in enumerate(lines) if "torch 0.0.1" in line)
    assert f"  of {leg}" in lines[place + 1 : place + 3]
    assert sum(line.startswith("packages: ") for line in lines) == 2


def faster(launch: Launch) -> Launch:
    """The same study at another learning rate."""
    study = json.loads(json.dumps(launch.study))
    rates = study["settings"]["code-cpt"]["learning_rates"]
    rates["lora-r2"] *= 2
    return replace(launch, study=study)


def test_what_is_not_made_is_compared_with_what_is(launch: Launch) -> None:
    old, other = launch.grid.find(RUN), faster(launch)
    new = other.grid.find(RUN)
    rates = [product.spec["trunk"]["optimizer"]["learning_rate"] for product in (old, new)]
    difference = f"  trunk.optimizer.learning_rate: {rates[0]} -> {rates[1]}"
    lines = list(of_product(other, RUN))
    assert lines[0].startswith(f"{new.key} is not made")
    assert lines[1].startswith("2 products are missing")  # the legs of the trunk
    assert f"The nearest that is made is {old.key}; there -> here:" in lines
    assert [line for line in lines if " -> " in line][1:] == [difference]
    assert str(launch.store.manifest_path(new.key)) in lines[-1]

    (asked,) = (
        one for one in other.grid if {"subject": new.fingerprint, "task": "hellaswag"}.items() <= one.spec.items()
    )
    lines = list(of_product(other, asked.key))
    subject = lines.index(f"  subject: {old.fingerprint} -> {new.fingerprint}")
    assert lines[subject + 1] == f"  {difference}"  # why the model is another


def test_what_is_made_and_another_studys_is_compared_with_the_studys_own(launch: Launch) -> None:
    old, other = launch.grid.find(RUN), faster(launch)
    lines = list(of_product(other, old.key))
    assert shown(lines)[0] == (0, old.key, True)
    new = other.grid.find(RUN)
    assert f"Study smoke does not name it, but {new.key}; there -> here:" in lines
    assert lines[-1].startswith("  trunk.optimizer.learning_rate: ")


def test_a_product_that_nothing_is_near(launch: Launch) -> None:
    missing = next(product for product in launch.grid if product.spec.get("task") == "target_loss")
    assert "no product of this kind and name" in "\n".join(of_product(launch, missing.key))


def test_a_file_that_is_not_what_was_made(launch: Launch, table: Path) -> None:
    assert ", sha256 " in record_of(table)
    table.write_text(table.read_text() + "\n")
    assert "was changed since" in record_of(table)
    table.with_suffix(".collected.json").write_text("[]")
    assert "no record of it" in record_of(table)
    table.with_suffix(".collected.json").unlink()
    assert "does not exist" in record_of(table)


def test_rows_without_evaluations_of_their_own(launch: Launch) -> None:
    explanation, run = Explanation(launch), launch.grid.find(RUN)
    fig3 = artifact_at(Path("results/figures/fig3.csv"))
    measured = explanation.behind({"condition": run.fingerprint}, fig3)
    assert measured
    assert {launch.grid.products[key].spec.get("subject") for key in measured} == {run.fingerprint}
    assert explanation.behind({"conditions": run.fingerprint}, None) == [run.key]
    assert not explanation.behind({"source": "printed", "condition": run.fingerprint}, fig3)
    with pytest.raises(UserError, match="ba9876543210 is the fingerprint of nothing"):
        explanation.behind({"evaluation": "ba9876543210"}, fig3)


def test_figures_are_told_by_their_place() -> None:
    names = {
        "results/figures/fig2.pdf": "fig2",
        "results/studies/demo/figures/fig2.png": "fig2",
        "results/v1/figures/fig2.csv": "v1/fig2",
        "results/tables/tableS1.md": "tableS1",
        "results/claims.csv": None,
    }
    assert {path: (one := artifact_at(Path(path))) and one.name for path in names} == names


def test_the_study_is_the_one_that_the_file_says(
    launch: Launch, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"product": str(table), "study": None, "store": launch.store_root}
    main(argparse.Namespace(**given, row=1))
    said = capsys.readouterr().out
    assert "row 1: study smoke, " in said
    assert f"study=smoke store={launch.store_root}`" in said
    with pytest.raises(UserError, match="--row"):
        main(argparse.Namespace(**{**given, "product": RUN}, row=1))


def test_files_and_rows_that_are_not_there(launch: Launch, table: Path) -> None:
    for number in (0, 10_000):
        with pytest.raises(UserError, match=f"has no row {number}"):
            list(of_file(launch, table, number))
    with pytest.raises(UserError, match=r"fig3\.pdf: does not exist"):
        list(of_file(launch, table.with_suffix(".pdf"), None))
    table.write_text("a,b\n1\n")
    with pytest.raises(UserError, match="is no CSV"):
        list(of_file(launch, table, 1))
    with pytest.raises(UserError, match="lies in no store"):
        list(of_product(launch, str(table.with_suffix(".json"))))
