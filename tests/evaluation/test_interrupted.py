"""Jobs that ask a model and judge what it wrote, killed over and over: nothing is lost or comes out otherwise."""

import ast
import copy
import dataclasses
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from scripts.common.errors import UserError
from scripts.common.progress import Progress
from scripts.evaluation import evaluate, harness, judging, language_model, results
from scripts.evaluation.journal import Journal
from scripts.evaluation.sandbox import Sandbox
from scripts.launch.launch import Launch, launch_by_hand
from scripts.plan.product import Key
from tests.conftest import House
from tests.forks import forked

KILLS = 10


def asked(launch: Launch) -> list[Key]:
    """Samples, what they are judged to be, and likelihoods, of the base model."""
    (base,) = launch.grid.blocks["base"]
    judged = [base.evaluations[task] for task in ("humaneval", "gsm8k")]
    samples = [key for one in judged for key in launch.grid.products[one].inputs_of("samples")]
    return [*samples, *judged, base.evaluations["hellaswag"], base.evaluations["winogrande"]]


def work(launch: Launch, log: Path, seed: int | None) -> None:
    """Makes all that is asked, a little at a time, in a process that is killed as answers are kept, or not yet."""
    torch.set_num_threads(1)
    dice = random.Random(seed)
    left = None if seed is None else dice.randint(1, 8)
    keep = Journal.keep

    def noted(self: Journal, entries: dict[str, Any]) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left <= 0 and dice.random() < 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
        keep(self, entries)
        with log.open("a") as file:
            file.writelines(f"{key}\n" for key in entries)
        if left is not None and left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.keep = noted  # type: ignore[method-assign]
    judging.RUN_AT_ONCE = 2
    language_model.free_bytes = lambda _: 3_000_000  # type: ignore[assignment]
    for key in asked(launch):
        evaluate.main(launch, key)


def with_samples(launch: Launch, count: int) -> Launch:
    """The same with so many programs to each problem."""
    study = copy.deepcopy(launch.study)
    study["evaluation"]["tasks"]["humaneval"]["samples"] = count
    return dataclasses.replace(launch, study=study)


def humaneval(launch: Launch, log: Path) -> None:
    """Makes samples of the base model and judges them; notes how many answers and programs there are, and were."""
    torch.set_num_threads(1)

    class Noted(Progress):
        def __init__(self, what: str, unit: str, total: int, done: int = 0, **more: Any) -> None:
            with log.open("a") as file:
                file.write(f"{(unit, total, done)}\n")
            super().__init__(what, unit, total, done, **more)

    harness.Progress = judging.Progress = Noted  # type: ignore[misc]
    (base,) = launch.grid.blocks["base"]
    judged = launch.grid.products[base.evaluations["humaneval"]]
    for key in (*judged.inputs_of("samples"), judged.key):
        evaluate.main(launch, key)


def samples_of(launch: Launch) -> Path:
    (base,) = launch.grid.blocks["base"]
    (key,) = launch.grid.products[base.evaluations["humaneval"]].inputs_of("samples")
    return launch.store.bytes_of(key)


def finish(launch: Launch, log: Path, *, kills: int) -> None:
    for attempt in range(kills + 1):
        with forked(work, launch, log, attempt if attempt < kills else None) as process:
            process.join()
        assert process.exitcode == (0 if attempt == kills else -signal.SIGKILL), f"attempt {attempt}"


@pytest.fixture
def stores(prepared: House, tmp_path: Path) -> tuple[Launch, Launch]:
    launches = []
    for name in ("undisturbed", "killed"):
        for place in ("data", "models"):
            shutil.copytree(prepared.store / place, tmp_path / name / place)
        launches.append(launch_by_hand("smoke", str(tmp_path / name)))
    return launches[0], launches[1]


def test_ten_kills_change_nothing(stores: tuple[Launch, Launch], tmp_path: Path) -> None:
    undisturbed, killed = stores
    finish(undisturbed, tmp_path / "once", kills=0)
    finish(killed, tmp_path / "often", kills=KILLS)
    for key in asked(undisturbed):
        expected, found = (launch.store.require(key)["results"] for launch in stores)
        assert found == expected
        frames = [pandas.read_parquet(launch.store.bytes_of(key) / results.SAMPLES) for launch in stores]
        pandas.testing.assert_frame_equal(*frames, rtol=1e-5)
        assert not killed.store.scratch(key).exists()
    once, often = ((tmp_path / name).read_text().splitlines() for name in ("once", "often"))
    assert len(often) == len(set(often)), "an answer was kept twice"
    assert sorted(once) == sorted(often)


def test_samples_of_another_number_are_taken_over(prepared: House, tmp_path: Path) -> None:
    """Those that are there are not written again, and programs that were run are not run again."""
    for place in ("data", "models"):
        shutil.copytree(prepared.store / place, tmp_path / "store" / place)
    by_count = {count: with_samples(launch_by_hand("smoke", str(tmp_path / "store")), count) for count in (3, 5, 2)}
    counted = {count: tmp_path / str(count) for count in by_count}
    for count, launch in by_count.items():
        with forked(humaneval, launch, counted[count]) as process:
            process.join()
        assert process.exitcode == 0
    frames = {count: pandas.read_parquet(samples_of(launch) / results.SAMPLES) for count, launch in by_count.items()}
    items = len(frames[3])
    for count, known in ((3, 0), (5, 3), (2, 2)):
        there = [list(texts) for texts in frames[count]["completions"]]
        assert there == [list(texts)[:count] for texts in frames[5]["completions"]]
        answers, programs = (ast.literal_eval(line) for line in counted[count].read_text().splitlines())
        assert answers == ("answers", count * items, known * items)
        different = {(item, text) for item, texts in enumerate(there) for text in texts[:known]}
        assert programs[2] >= len({(item, text.rstrip("\n")) for item, text in different})
        assert (programs[1] > programs[2]) == (count > known)


def judged_wrongly(launch: Launch, family: Key) -> None:
    torch.set_num_threads(1)

    def run(*_: Any, **__: Any) -> None:
        raise UserError("the sandbox broke")

    Sandbox.run = run  # type: ignore[method-assign,assignment]
    with pytest.raises(UserError, match=r"^the sandbox broke$"):
        evaluate.main(launch, family)


def test_judging_goes_on_beside_asking_and_its_error_ends_the_job(prepared: House, tmp_path: Path) -> None:
    for place in ("data", "models"):
        shutil.copytree(prepared.store / place, tmp_path / "store" / place)
    launch = launch_by_hand("smoke", str(tmp_path / "store"))
    (base,) = launch.grid.blocks["base"]
    programs = base.evaluations["humaneval"]
    (family,) = (product for product in launch.grid if programs in product.members)
    with forked(judged_wrongly, launch, family.key) as process:
        process.join()
    assert process.exitcode == 0
    made = launch.store.made(family.members)
    assert {*launch.grid.products[programs].inputs_of("samples")} <= made
    assert programs not in made
    with forked(evaluate.main, launch, family.key) as process:
        process.join()
    assert process.exitcode == 0
    assert launch.store.made(family.members) == {*family.members}
