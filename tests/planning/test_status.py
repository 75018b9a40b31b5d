"""The status says of every product where it stands, and nothing that is not known."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.common.errors import UserError
from scripts.launch.launch import Launch, new_launch
from scripts.planning.reports import last_lines, last_report, spoken
from scripts.planning.slurm import QueuedJob
from scripts.planning.status import lines, status
from scripts.store.locks import holder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.chdir(ROOT)
    return new_launch("smoke", str(tmp_path / "store"), "condition")


def _keys(launch: Launch, kind: str) -> list[str]:
    return [product.key for product in launch.grid if product.kind == kind]


def _make(launch: Launch, key: str) -> None:
    launch.store.make(launch.grid.products[key], lambda out: {}, {})


def _report(launch: Launch, key: str, **changes: Any) -> None:
    path = launch.store.scratch(key) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"step": 1200, "steps": 5000, "loss": 1.2345, "tokens_per_second": 12345.6, "eta_seconds": 3700.0}
    with path.open("a") as file:
        file.write(json.dumps({**report, "time": time.time(), "attempt": 1, **changes}) + "\n")


def _job(number: int, state: str, key: str, reason: str = "None") -> QueuedJob:
    rule = f"rule_train_run_wildcards_{key.partition('/')[2].replace('/', '_')}"
    return QueuedJob(str(number), state, "1:00:04", reason, "c1" if state == "RUNNING" else "", "/here", rule)


def test_every_product_has_its_state(launch: Launch, tmp_path: Path) -> None:
    made, running, stale, queued, failed, stopped, *others = _keys(launch, "run")
    local = _keys(launch, "leg")[0]
    logs = tmp_path / "logs"
    for key, text in {
        made: "error: of an attempt before the one that made it\n",
        running: "",
        failed: "Traceback (most recent call last):\n  File\nValueError: no room\nsrun: error: c1: task 0: Exited\n",
        stopped: "stopped at step 3 of 9; the same call goes on from there\n",
        others[0]: "error: it was another one's\nerror: runs/x: is not there\n",
    }.items():
        (logs / key).parent.mkdir(parents=True, exist_ok=True)
        (logs / f"{key}.log").write_text(text)
    _make(launch, made)
    torn = launch.store.manifest_path(others[1])
    torn.parent.mkdir(parents=True, exist_ok=True)
    torn.write_text('{"key": ')  # is none
    _report(launch, running, step=1)
    _report(launch, running)
    _report(launch, stale, time=time.time() - 600, loss=None)
    queue = [
        _job(11, "RUNNING", running),
        _job(12, "RUNNING", stale),
        _job(13, "PENDING", queued, "Priority"),
        _job(14, "PENDING", "runs/of/another-study-0123456789ab", "Resources"),
    ]
    with launch.store.lock(local):
        now = status(launch, queue, logs)
        said = lines(launch, now, logs)
    assert {key: now.states[key] for key in (made, running, stale, queued, failed, stopped, others[0], local)} == {
        made: "made",
        running: "running",
        stale: "running",
        queued: "queued",
        failed: "failed",
        stopped: "stopped",
        others[0]: "failed",
        local: "running",
    }
    assert all(now.states[key] == "to make" for key in others[1:])
    [row] = [line.split() for line in said if line.startswith("runs ")]
    assert row == ["runs", "1", "2", "1", "2", "1", str(len(others) - 1)]
    text = "\n".join(said)
    assert (
        f"{running[:-13]}: step 1,200 of 5,000, loss 1.234, 12,346 tokens/s, 1 h 01 min left (SLURM job 11 on c1"
        in text
    )
    assert f"{stale[:-13]}: step 1,200 of 5,000, loss not finite, 12,346 tokens/s, said nothing for 10 min 0" in text
    assert f"{local[:-13]}: says nothing of its progress (process " in text
    assert "In SLURM's queue: 1 (Priority 1)" in text
    assert f"{others[0][:-13]}: error: runs/x: is not there ({logs / others[0]}.log)" in text
    assert f"{failed[:-13]}: ValueError: no room (" in text
    # who no longer holds the lock no longer runs
    assert status(launch, [], logs).states[local] == "to make"
    # an attempt for the study by its name, which is the last one
    own = tmp_path / "studies" / launch.name / "logs" / f"{stopped}.log"
    own.parent.mkdir(parents=True)
    own.write_text("error: no room\n")
    os.utime(own, (time.time() + 60,) * 2)
    assert status(launch, [], logs).states[stopped] == "failed"


def test_a_job_of_a_family_is_seen_in_its_members(launch: Launch) -> None:
    family = next(product for product in launch.grid if product.kind == "trained")
    waiting = status(launch, [_job(5, "PENDING", family.key)])
    assert {waiting.states[key] for key in family.members} == {"queued"}
    first = family.members[0]
    with launch.store.lock(first):
        now = status(launch, [_job(5, "RUNNING", family.key)])
        text = "\n".join(lines(launch, now))
    assert [now.states[key] for key in family.members] == ["running"] + ["queued"] * (len(family.members) - 1)
    assert first[:-13] in text
    assert family.name not in text


def test_a_lock_is_only_looked_at(launch: Launch) -> None:
    key = _keys(launch, "run")[0]
    path = launch.store.root / ".locks" / f"{key}.lock"
    assert holder(path) is None
    assert not path.parent.exists()
    with launch.store.lock(key):
        before = sorted(path.with_suffix(".owners").iterdir())
        owner = holder(path)
        assert owner is not None
        assert owner.pid == int(Path("/proc/self/stat").read_text().split()[0])
        assert sorted(path.with_suffix(".owners").iterdir()) == before
    assert holder(path) is None


def test_what_is_left_is_counted(launch: Launch) -> None:
    text = lines(launch, status(launch, []))[-1]
    products = [product for product in launch.grid if not product.members]
    assert text.startswith(f"Left to make: {len(products)} products in {len(products)} jobs.")
    for product in launch.grid:
        _make(launch, product.key)
    assert lines(launch, status(launch, []))[-1] == "Nothing is left to make."


def test_a_report_that_is_being_written_is_not_read(launch: Launch) -> None:
    key = _keys(launch, "run")[0]
    assert last_report(launch.store, key) is None
    _report(launch, key, step=7)
    with (launch.store.scratch(key) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "st')
    report = last_report(launch.store, key)
    assert report is not None
    assert report["step"] == 7


def test_the_end_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    found = last_lines(path)
    assert found[-1] == "line 99999"
    assert found == [f"line {number}" for number in range(100_000 - len(found), 100_000)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


def test_the_command_works_without_slurm_and_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, runpy; sys.argv = ['status', '--study', 'smoke', '--store', sys.argv[1]]; "
        "runpy.run_module('scripts.planning.status', run_name='__main__'); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        cwd=ROOT,
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Study smoke in ")
    assert "SLURM" not in done.stdout
    assert not (tmp_path / "store").exists()


def test_a_target_is_all_that_is_looked_at(launch: Launch) -> None:
    """Figure 1 shows learning, so no evaluation of forgetting; and table S14 needs nothing."""
    now = status(launch, [], target="fig1")
    forgetting = {f"/{task}-" for task in launch.grid.study.evaluation.forgetting}
    assert any("/gsm8k-" in key for key in now.states)
    assert not any(task in key for key in now.states for task in forgetting)
    shown = {condition.product for condition in launch.grid.blocks["grid"]}
    assert shown <= set(now.states) < {product.key for product in launch.grid}
    _make(launch, min(shown))
    now = status(launch, [], target="results/figures/fig1.pdf")
    said = lines(launch, now)
    assert said[0] == (
        f"results/figures/fig1.pdf of study smoke in {launch.store_root}: 1 of {len(now.states)} products made"
    )
    assert said[-1].startswith(f"Left to make: {len(now.states) - 1} products in {len(now.states) - 1} jobs.")
    assert lines(launch, status(launch, [], target="tableS14"))[-1] == "Nothing is left to make."


def test_a_target_that_is_none(launch: Launch) -> None:
    with pytest.raises(UserError, match="--target fig99: is no figure or table; the nearest are "):
        status(launch, [], target="fig99")
    with pytest.raises(UserError, match="v1/fig2 is of edition v1, study 'smoke' has that of v2"):
        status(launch, [], target="v1/fig2")
