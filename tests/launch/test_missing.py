"""What is made first is all that is missing and needed, and nothing else, in any store, at both grains."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.launch.launch import launch_by_hand
from scripts.launch.missing import Missing
from scripts.plan.conditions import SWEEP
from scripts.plan.evaluation import BASE
from scripts.plan.grid import Grid
from scripts.plan.product import Key, Product
from tests.plan.test_grid_properties import grids

few = settings(max_examples=30, deadline=None)
dice = st.randoms(use_true_random=False)


def missing(grid: Grid, there: set[Key]) -> Missing:
    store: Any = SimpleNamespace(is_made=there.__contains__, by_fingerprint=lambda key: {})
    return Missing(grid, store)


def some(grid: Grid, dice: random.Random) -> set[Key]:
    """Any products, whether or not those that they are made from are there: bytes and manifests may be deleted."""
    share = dice.choice([0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
    return {product.key for product in grid if dice.random() < share}


def targets(grid: Grid, dice: random.Random) -> list[Key]:
    """Products, at either grain: at one of them a run is a job, at the other its family is."""
    in_families = {key for product in grid for key in product.members}
    if dice.random() < 0.5:
        keys = [product.key for product in grid if not product.members]
    else:
        keys = [product.key for product in grid if product.key not in in_families]
    return dice.sample(keys, min(8, len(keys)))


def made_by(grid: Grid, now: Missing, job: Key) -> list[Key]:
    return now.members(job) if grid.products[job].members else [job]


def make(
    grid: Grid, there: set[Key], asked: Iterable[Key], before: Callable[[Key], list[Key]]
) -> tuple[Counter[Key], set[Key]]:
    """Does all that a plan says; each job decides when it starts which members it makes.

    Returns:
        How often each product was made, and the jobs.
    """
    made: Counter[Key] = Counter()
    done: set[Key] = set()

    def run(job: Key) -> None:
        if job in done:
            return
        done.add(job)
        for first in before(job):
            run(first)
        for key in made_by(grid, missing(grid, there), job):
            assert there.issuperset(grid.products[key].inputs), f"{key} lacks what it reads"
            there.add(key)
            made[key] += 1

    for key in asked:
        run(key)
    return made, done


@few
@given(grids, dice)
def test_nothing_that_is_made_comes_first(grid: Grid, dice: random.Random) -> None:
    now = missing(grid, some(grid, dice))
    for product in grid:
        first = now.before(product.key)
        assert not any(now.is_made(key) for key in first)
        assert len(set(first)) == len(first)
        assert set(first) <= set(product.inputs)
        if now.is_made(product.key):
            assert not first


@few
@given(grids, dice)
def test_all_that_is_missing_and_needed_is_made_once_and_nothing_else(grid: Grid, dice: random.Random) -> None:
    there = some(grid, dice)
    at_first, asked = set(there), targets(grid, dice)
    now = missing(grid, set(there))
    wanted = [key for key in asked if not now.is_made(key)]
    made, jobs = make(grid, there, wanted, now.before)
    then = missing(grid, there)
    assert all(then.is_made(key) for key in asked)
    assert set(made.values()) <= {1}
    assert not set(made) & at_first
    # each was asked for, or is read by what is made, or is what a family is for whose job makes others too
    read = {key for each in made for key in grid.products[each].inputs}
    families = [grid.products[job] for job in jobs if grid.products[job].members]
    assert set(made) <= {*asked, *read, *(Key(key) for family in families for key in family.spec["members"])}
    # and there is a reason for each family
    assert all(family.key in asked or read & set(family.members) for family in families)


@few
@given(grids, dice)
def test_a_job_waits_for_nothing_that_it_does_not_read(grid: Grid, dice: random.Random) -> None:
    now = missing(grid, some(grid, dice))
    for product in grid:
        if now.is_made(product.key):
            continue
        read = {key for each in made_by(grid, now, product.key) for key in grid.products[each].inputs}
        for first in now.before(product.key):
            assert read & {first, *grid.products[first].members}


@few
@given(grids, dice)
def test_a_family_makes_no_leg_that_nothing_needs(grid: Grid, dice: random.Random) -> None:
    there = some(grid, dice)
    now = missing(grid, there)
    for family in (product for product in grid if product.members):
        members = now.members(family.key)
        assert members == [key for key in family.members if key in members], "in order"
        assert not there & set(members)
        meant = {Key(key) for key in family.spec["members"]}
        assert meant - there <= set(members)
        for place, key in enumerate(members):
            if key not in meant:
                assert any(key in grid.products[later].inputs for later in members[place:])
        assert bool(members) != now.is_made(family.key)


@few
@given(grids, dice)
def test_jobs_make_what_a_block_lacks(grid: Grid, dice: random.Random) -> None:
    there = some(grid, dice)
    now = missing(grid, there)
    for name, block in grid.blocks.items():
        keys = [key for condition in (*grid.blocks[BASE], *block) for key in condition.evaluations.values()]
        asked = dice.sample(keys, dice.randint(0, len(keys)))
        jobs = now.jobs(name, asked)
        lacking = {key for key in asked if key not in there}
        writes = [{job, *now.members(job)} if grid.products[job].members else {job} for job in jobs]
        assert lacking <= set().union(*writes)
        assert all(each & lacking for each in writes)
        if grid.study.grain == "condition":
            assert set(jobs) == lacking
        elif name != SWEEP:
            # the main grid's jobs need not wait for the sweep's
            assert not [job for job in jobs if "-validation-" in job]


@few
@given(grids, dice)
def test_a_plan_does_not_change_while_it_is_made(grid: Grid, dice: random.Random) -> None:
    there = some(grid, dice)
    now = missing(grid, there)
    before = {product.key: now.before(product.key) for product in grid}
    there.update(product.key for product in grid)
    assert {product.key: now.before(product.key) for product in grid} == before


def test_what_a_renamed_product_was_made_from_gets_its_name_too(tmp_path: Path) -> None:
    """Of a figure whose evaluations are there nobody asks for the models; it says how long they were trained."""
    launch = launch_by_hand("smoke", str(tmp_path))
    grid, store = launch.grid, launch.store
    run = grid.find("runs/code-cpt/lora-r2/5.12K-seed0")
    asked = next(one for one in grid if one.kind == "evaluation" and run.key in one.inputs)
    (leg,) = run.inputs_of("leg")
    names = {one.key: one.key.replace("/lora-r2/", "/old/") for one in (grid.products[leg], run, asked)}
    for key, old in names.items():
        store.make(Product.of(old, grid.products[key].spec), lambda out: {"value": 0.5}, {})
    now = Missing(grid, store)
    assert now.is_made(asked.key)
    assert now.renamed == names
