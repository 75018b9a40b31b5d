"""A head that is started again doubles no job of an earlier one; what preemption cancels is put back into the queue.

`squeue` and `scontrol` are small programs here; the lines that they print are SLURM 22.05's own.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.common.errors import UserError
from scripts.launch.launch import begin, frozen_launch
from scripts.plan.product import Product
from scripts.planning.guard import Requeuer, by_fingerprint, settle
from scripts.planning.slurm import QueuedJob, parse, queued
from scripts.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
RUN = Product.of("runs/code-cpt/lora-r16/20B-seed0-3f2a9c0d1e5b", {"kind": "run"}, ())
LEG = Product.of("legs/code-cpt/lora-r16/12.8B-seed0-5d0c77a1e9f2", {"kind": "leg"}, ())
QUEUE = """\
4|PENDING|0:00|JobHeldUser||{here}|(null)
3|PENDING|0:00|Resources||{here}|odd | comment
1|RUNNING|1-00:00:04|None|c[1-2]|{here}|rule_train_run_wildcards_code-cpt_lora-r16_20B-seed0-3f2a9c0d1e5b
2|RUNNING|0:09|None|c2|/elsewhere|rule_train_leg_wildcards_code-cpt_lora-r16_12.8B-seed0-5d0c77a1e9f2
"""
LOGGER = logging.getLogger("test-guard")


class Queue:
    """A SLURM that says what files say, and notes what it is asked to put back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.live, self.preempted, self.requeued = root / "live", root / "preempted", root / "requeued"
        for path in (self.live, self.preempted, self.requeued):
            path.write_text("")
        self._program("squeue", f'case "$*" in *--states=PREEMPTED*) cat {self.preempted};; *) cat {self.live};; esac')
        self._program("scontrol", f"echo $2 >> {self.requeued}")

    def refuse(self) -> None:
        self._program("scontrol", 'echo "Requested operation is presently disabled for job $2" >&2; exit 1')

    def break_down(self) -> None:
        error = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
        self._program("squeue", f'echo "{error}" >&2; exit 1')

    def _program(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return Queue(programs)


def test_a_queue_is_read(queue: Queue, tmp_path: Path) -> None:
    queue.live.write_text(QUEUE.format(here=tmp_path))
    assert [(job.number, job.runs, job.fingerprint) for job in queued(str(tmp_path))] == [
        ("4", False, None),
        ("3", False, None),
        ("1", True, "3f2a9c0d1e5b"),
    ]


_text = st.text(st.characters(blacklist_characters="|\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))


@given(st.lists(st.tuples(*[_text] * 6, st.builds("|".join, st.lists(_text)))))
def test_any_line_is_read(jobs: list[tuple[str, ...]]) -> None:
    assert parse("".join("|".join(job) + "\n" for job in jobs)) == [QueuedJob(*job) for job in jobs]


def test_nothing_to_wait_for(queue: Queue, tmp_path: Path) -> None:
    queue.live.write_text(QUEUE.format(here=tmp_path))  # the leg's job is another checkout's
    settle(Store(tmp_path), by_fingerprint([LEG]), str(tmp_path), None, LOGGER, lambda: pytest.fail("left"))


@pytest.mark.parametrize("wanted", [RUN, Product.of("families/trained/f-0123456789ab", {}, (), (RUN.key, LEG.key))])
def test_stopping_names_the_jobs(queue: Queue, tmp_path: Path, wanted: Product) -> None:
    queue.live.write_text(QUEUE.format(here=tmp_path))
    with pytest.raises(UserError, match=r"SLURM job 1 .*`scancel 1`$"):
        settle(Store(tmp_path), by_fingerprint([wanted]), str(tmp_path), "stop", LOGGER, lambda: pytest.fail("left"))


def test_a_launch_that_cannot_ask_does_not_start(queue: Queue, tmp_path: Path) -> None:
    queue.break_down()
    with pytest.raises(UserError, match="squeue: slurm_load_jobs error: Unable to contact slurm controller"):
        settle(Store(tmp_path), by_fingerprint([RUN]), str(tmp_path), None, LOGGER, lambda: pytest.fail("left"))


SNAKEFILE = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from snakemake.logging import logger
from scripts.planning import guard
from scripts.common.errors import UserError
from scripts.store.store import Store

guard.POLL_SECONDS = 0.1

rule run:
    output: "runs/{{key}}.json"
    shell: "echo made >> made.log; touch {{output}}"

onstart:
    print("process", __import__("os").getpid())
    wanted = {{job.wildcards.key[-12:]: job.wildcards.key for job in workflow.dag.needrun_jobs()}}
    try:
        guard.settle(Store(Path(".")), wanted, workflow.workdir_init, None, logger, workflow.persistence.unlock)
    except UserError as error:
        sys.exit(f"error: {{error}}")
"""


@pytest.fixture
def head(queue: Queue, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real Snakemake that is about to make two runs, one of which an earlier one's job is making."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=str(ROOT)))
    queue.live.write_text(QUEUE.format(here=tmp_path))
    targets = [f"{RUN.key}.json", "runs/other-0123456789ab.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *targets, "--cores", "1", "--config", "word=two words"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()


def _read_until(process: subprocess.Popen[str], words: str) -> str:
    said = ""
    assert process.stdout
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


def test_a_head_waits_and_then_makes_only_what_is_left(
    queue: Queue, head: subprocess.Popen[str], tmp_path: Path
) -> None:
    said = _read_until(head, "Waiting for SLURM job 1 of an earlier launch (1 running, 0 queued)")
    made = tmp_path / f"{RUN.key}.json"
    made.parent.mkdir(parents=True)
    made.touch()
    queue.live.write_text("")
    rest, _ = head.communicate()
    assert head.returncode == 0, said + rest
    assert (tmp_path / "made.log").read_text() == "made\n"  # only the other run
    assert (said + rest).count(f"process {head.pid}\n") == 2  # one process, two plans
    # nothing is locked, nothing left
    again = subprocess.run(head.args, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_head_that_waits_can_be_ended(queue: Queue, head: subprocess.Popen[str], tmp_path: Path) -> None:
    said = _read_until(head, "Waiting for SLURM job 1")
    head.send_signal(signal.SIGTERM)
    rest, _ = head.communicate()
    assert head.returncode == 1, said + rest
    assert "error: stopped while waiting for the jobs of an earlier launch, which go on" in rest
    queue.live.write_text("")  # and the next head finds nothing locked
    subprocess.run(head.args, cwd=tmp_path, check=True)


def test_what_executes_itself_again_stays_the_same_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FORGETTING_LAUNCH", "PATH", "PYTHONPATH", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    first = begin({"study": "smoke", "store": "a-store"}, str(ROOT), [], is_head=True)
    changed = {"study": "demo", "store": "another-store"}  # stands for the file that was edited while it waited
    assert begin(changed, str(ROOT), [], is_head=True) == first
    # any other process that is a head has a launch of its own
    monkeypatch.setattr("os.getpid", lambda: first.head + 1)
    assert begin(changed, str(ROOT), [], is_head=True).name == "demo"
    assert frozen_launch() != first


def test_preempted_jobs_go_back_into_the_queue(queue: Queue, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = "{}|PREEMPTED|0:04|None|c1|{}|rule_train_run_wildcards_code-cpt_lora-r16_20B-seed0-3f2a9c0d1e5b\n"
    queue.preempted.write_text(line.format(1, tmp_path))  # of an earlier head: its product is submitted anew
    requeuer = Requeuer(by_fingerprint([RUN]), str(tmp_path), LOGGER)
    queue.preempted.write_text(line.format(1, tmp_path) + line.format(7, tmp_path) + line.format(8, "/elsewhere"))
    with caplog.at_level(logging.INFO, LOGGER.name):
        requeuer.look()
        assert queue.requeued.read_text() == "7\n"
        assert caplog.messages == [f"SLURM job 7 ({RUN.key}) was preempted; it is back in the queue."]
        queue.refuse()
        requeuer.look()
        requeuer.look()
    [said] = caplog.messages[1:]
    assert said.startswith("SLURM job 7 ")
    assert "Requested operation is presently disabled for job 7" in said
    assert requeuer.daemon  # it never keeps the head alive


def test_held_jobs_are_named_once(queue: Queue, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = "{}|{}|0:00|{}||{}|rule_train_run_wildcards_code-cpt_lora-r16_20B-seed0-3f2a9c0d1e5b\n"
    requeuer = Requeuer(by_fingerprint([RUN]), str(tmp_path), LOGGER)
    queue.preempted.write_text(
        line.format(5, "PENDING", "JobHeldUser", tmp_path)
        + line.format(6, "PENDING", "Resources", tmp_path)
        + line.format(7, "PENDING", "JobHeldAdmin", "/elsewhere")
    )
    for _ in range(3):
        requeuer.look()
    assert [record.message for record in caplog.records] == [
        f"SLURM job 5 ({RUN.key}) is held (JobHeldUser) and waits until somebody types `scontrol release 5`."
    ]
    queue.preempted.write_text(line.format(5, "PENDING", "Priority", tmp_path))
    requeuer.look()
    queue.preempted.write_text(line.format(5, "REQUEUE_HOLD", "launch failed requeued held", tmp_path))
    requeuer.look()
    assert len(caplog.records) == 2
    assert not queue.requeued.read_text()
