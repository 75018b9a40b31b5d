"""What holds of the grid of every study: identity of conditions, sharing between blocks, names, inputs, families."""

import copy
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.common.errors import UserError
from scripts.plan import artifacts
from scripts.plan.conditions import SWEEP, Condition
from scripts.plan.evaluation import BASE
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.plan.registry import REGISTRY, load_registry
from scripts.study.schema import Study

VERSIONS = {"data": 1, "pretrainer": 1, "trainer": 1, "evaluation": 1, "spectra": 1}
BATCH = 4 * 64
ARTIFACTS = load_registry(REGISTRY)
BLOCKS = sorted({artifact.block for artifact in ARTIFACTS.values()} - {"grid", "sweep"})
MEASURES = ["learning", "forgetting", "source_loss", "target_loss", "language_understanding", "pass_at_k", "diversity",
            "mmlu", "mt_bench", "spectra"]  # fmt: skip
RATES = [1e-4, 2e-4, 4e-4, 2e-3]
CHANGES: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.0},  # the setting's own, so no change
    {"weight_decay": 5e-5},
    {"weight_decay": 1e-4, "attention_dropout": 0.1},
    {"attention_dropout": 0.05},
    {"optimizer": {"name": "decoupled_lionw", "betas": [0.9, 0.95], "clip_norm": 1.0}},  # the study's own
    {"optimizer": {"name": "decoupled_adamw", "betas": [0.9, 0.95], "eps": 1e-8, "clip_norm": 1.0}},
    {"optimizer": {"name": "sgd", "momentum": 0.9, "clip_norm": 1.0}, "weight_decay": 5e-5},
]


def whole() -> dict[str, Any]:
    """The smoke study with every measure, and with more methods."""
    study: dict[str, Any] = yaml.safe_load(Path("config/studies/smoke.yaml").read_text())
    for name in ("lambada", "winograd", "mmlu", "mt-bench"):
        study["datasets"][name] = {"source": "generated", "generator": name, "records": 4, "split": "test"}
    tasks = study["evaluation"]["tasks"]
    tasks["pass_at_k"] = {**tasks["humaneval"], "samples": 8, "temperature": 0.8}
    tasks |= {name: {"dataset": name, "shots": 0} for name in ("lambada", "winograd", "mmlu")}
    judge = {"model": "judge", "temperature": 0.0, "url_variable": "URL", "key_variable": "KEY"}
    tasks["mt_bench"] = {"dataset": "mt-bench", "max_new_tokens": 16, "judge": judge}
    study["spectra"] = {"whole": ["model.layers.0.self_attn.q_proj"]}
    study["methods"] |= {
        "lora-r2-alpha2": {"kind": "lora", "rank": 2, "alpha": 2.0},
        "lora-r2-mlp": {"kind": "lora", "rank": 2, "alpha": 4.0, "modules": ["up_proj", "down_proj"], "dropout": 0.05},
    }
    study["main"] = {"methods": ["full", "lora-r2"]}
    for setting in study["settings"].values():
        setting["learning_rates"] |= {"lora-r2-alpha2": 0.002, "lora-r2-mlp": 0.002}
    return study


WHOLE = whole()


@st.composite
def cells(draw: st.DrawFn, hot: bool, epochs: list[int]) -> dict[str, Any]:
    setting = draw(st.sampled_from(["code-cpt", "math-ift"]))
    cell: dict[str, Any] = {"setting": setting, **draw(st.sampled_from(CHANGES))}
    if draw(st.booleans()):
        cell["methods"] = draw(subsets(list(WHOLE["methods"])))
    if draw(st.booleans()):
        cell["learning_rates"] = draw(subsets(RATES))
    if draw(st.booleans()):
        known = [BATCH * batches for batches in (8, 10, 20, 33, 50)]
        allowed = known if setting == "code-cpt" else epochs if hot else [1, 2, 3, 4]
        cell["durations"] = draw(subsets(allowed))
    return cell


def subsets(values: list[Any], apart: Callable[[Any], str] = repr) -> st.SearchStrategy[list[Any]]:
    """Some of the values, at least one, in any order, each with another text from `apart`."""
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique_by=apart)


def _changed(cell: dict[str, Any]) -> str:
    """The setting of a cell, and what it changes there."""
    own = (WHOLE["optimizer"], 0.0, None)
    changes = {key: cell.get(key) for key in ("weight_decay", "attention_dropout", "optimizer")}
    return repr((cell["setting"], {key: value for key, value in changes.items() if value not in own}))


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """The smoke study with any durations, seeds, grain and edition, and with blocks that artifacts show."""
    study = copy.deepcopy(WHOLE)
    hot, epochs = draw(st.booleans()), draw(subsets([1, 2, 4]))
    study["settings"]["math-ift"] |= {"hot": hot, "durations": epochs}
    study["settings"]["code-cpt"] |= {
        "durations": [BATCH * batches for batches in draw(subsets([9, 10, 20, 40]))],
        "first_leg": BATCH * draw(st.sampled_from([3, 8, 30])),
    }
    if hot:  # what is swept is a duration of the one run too
        study["settings"]["math-ift"]["sweep"]["duration"] = epochs[0]
    study["seeds"] = draw(subsets([0, 1]))
    study["grain"] = draw(st.sampled_from(["condition", "family"]))
    study["edition"] = draw(st.sampled_from(["v1", "v2"]))
    if draw(st.booleans()):
        del study["sweep"]
        for setting in study["settings"].values():
            del setting["sweep"]
    study["blocks"] = {}
    pool = draw(st.lists(cells(hot, epochs), min_size=1, max_size=4))  # so that blocks often have the same
    for name in draw(st.lists(st.sampled_from(BLOCKS), max_size=3, unique=True)):
        # within one a figure must tell the conditions apart
        block: dict[str, Any] = {"cells": draw(subsets(pool, apart=_changed))}
        if draw(st.booleans()):
            block["measures"] = draw(st.lists(st.sampled_from(MEASURES), min_size=1, max_size=4, unique=True))
        study["blocks"][name] = block
    return study


def grid_of(study: dict[str, Any]) -> Grid:
    return Grid(Study.model_validate(study), "smoke", VERSIONS, {})


grids = studies().map(grid_of)
few = settings(max_examples=30, deadline=None)


def conditions(grid: Grid) -> list[Condition]:
    return [condition for name, block in grid.blocks.items() if name != BASE for condition in block]


def identity(condition: Condition) -> tuple[Any, ...]:
    change = condition.change
    optimizer = repr(change.optimizer)
    cell = (condition.setting, condition.method, condition.amount, condition.learning_rate, condition.seed)
    return (*cell, change.weight_decay, change.attention_dropout, optimizer)


@few
@given(grids)
def test_a_condition_is_one_product_wherever_it_stands(grid: Grid) -> None:
    of_identity: dict[tuple[Any, ...], str] = {}
    for condition in conditions(grid):
        assert of_identity.setdefault(identity(condition), condition.product) == condition.product
    # and no two that differ have a key or a fingerprint in common, nor what is measured of them
    assert len(set(of_identity.values())) == len(of_identity)
    assert len({key[-12:] for key in of_identity.values()}) == len(of_identity)
    subject: dict[str, str] = {}
    label: dict[tuple[str, str], str] = {}
    for condition in conditions(grid):
        for name, key in condition.evaluations.items():
            assert subject.setdefault(key, condition.product) == condition.product
            assert label.setdefault((condition.product, name), key) == key


@few
@given(grids)
def test_inputs_are_products_that_were_there_before(grid: Grid) -> None:
    seen: set[str] = set()
    for product in grid:
        assert set(product.inputs) <= seen, product.key
        assert set(product.members) <= seen, product.key
        seen.add(product.key)


@few
@given(grids, st.randoms(use_true_random=False))
def test_names_are_found(grid: Grid, dice: random.Random) -> None:
    products = list(grid)
    shown = {c.product for name, block in grid.blocks.items() if name != SWEEP for c in block}
    shown |= {
        key for name, block in grid.blocks.items() if name != SWEEP for c in block for key in c.evaluations.values()
    }
    for product in dice.sample(products, 15):
        assert re.fullmatch(r"[\w./-]+-[0-9a-f]{12}", product.key)
        assert grid.find(product.key) is product
        # without the fingerprint it is the only one of that name, or the only one that is not the sweep's
        namesakes = [other for other in products if other.name == product.name]
        wanted = [other for other in namesakes if other.key in shown]
        if len(namesakes) == 1:
            assert grid.find(product.name) is product
        elif product.key in shown:
            if len(wanted) == 1:
                assert grid.find(product.name) is product
            else:
                with pytest.raises(UserError, match=re.escape(product.key)):
                    grid.find(product.name)


def of_sweep(family: Product) -> bool:
    return re.search(r"-(sweep|validation)-seed\d+$", family.name) is not None


@few
@given(studies(), st.randoms(use_true_random=False))
def test_order_of_keys_changes_nothing(study: dict[str, Any], dice: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        names = list(value)
        dice.shuffle(names)
        return {name: shuffled(value[name]) for name in names}

    def made(grid: Grid) -> dict[str, set[str]]:
        return {product.key: set(product.inputs) for product in grid}

    assert made(grid_of(shuffled(study))) == made(grid_of(study))


@few
@given(grids)
def test_families(grid: Grid) -> None:
    """Outside the sweep, and inside it, a run is trained by one family, an evaluation and its samples made by one."""
    families = [product for product in grid if product.members]
    for inside in (False, True):
        members = Counter(key for family in families if of_sweep(family) == inside for key in family.members)
        legs = {key for key in members if grid.products[key].kind == "leg"}
        assert {count for key, count in members.items() if key not in legs} <= {1}
        shown = [c for name, block in grid.blocks.items() if (name == SWEEP) == inside for c in block]
        measured = {key for condition in shown for key in condition.evaluations.values()}
        measured |= {key for judged in measured for key in grid.products[judged].inputs_of("samples")}
        trained = {condition.product for condition in shown if condition.method != BASE}
        assert set(members) - legs == measured | trained
    for family in families:
        # a leg stands before what goes on from it
        for place, key in enumerate(family.members):
            assert not set(grid.products[key].inputs) & set(family.members[place:])


@few
@given(grids)
def test_every_artifact_has_its_manifests_or_a_reason(grid: Grid) -> None:
    for artifact in ARTIFACTS.values():
        if lack := artifact.lack(grid):
            assert re.fullmatch(r"[^\n]+[^.\n]", lack)
            continue
        keys = artifact.measurements(grid, lambda key: False)
        assert len(set(keys)) == len(keys)
        assert not any(grid.products[key].members for key in keys), "the same at both grains"
        if "throughput" in artifact.needs or not artifact.needs:
            continue
        jobs = [grid.products[key] for key in grid.makers(artifact.block, keys)]
        made = {key for job in jobs for key in (job.key, *job.members)}
        assert made.issuperset(keys)
        for condition in grid.conditions(artifact.block, artifact.setting):
            for task in artifacts.tasks(grid, condition, artifact.needs, artifact.block, artifact.setting):
                assert condition.evaluations[task] in keys
        if grid.study.grain == "condition":
            assert not [job for job in jobs if job.members]
