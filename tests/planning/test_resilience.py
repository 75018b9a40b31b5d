"""The executor plugin at the locked version, with a SLURM that is small programs: it goes away, refuses, forgets."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake_executor_plugin_slurm as plugin
import snakemake_executor_plugin_slurm_jobstep as jobstep
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from scripts.planning import resilience
from scripts.planning import slurm as queue
from scripts.planning.resilience import adapt_jobstep, make_resilient, may_pass

AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
LIMIT = (
    "sbatch: error: AssocMaxSubmitJobLimit\n"
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)
ACCOUNT = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
PATCHED = ["check_active_jobs", "run_job", "cancel_jobs", "report_job_submission", "report_job_success"]
PATCHED += ["report_job_error", "_report_job_error_threadsafe"]


class Slurm:
    """What the programs say is in files, so that a test can change it at any time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs, self.error, self.refusal = root / "jobs", root / "error", root / "refusal"
        self.submitted, self.cancelled = root / "submitted", root / "cancelled"
        for path in (self.jobs, self.submitted, self.cancelled):
            path.write_text("")
        fails = _says(self.error)
        self._program("squeue", f"{fails}; cat {self.jobs}")
        self._program("scontrol", f"{fails}; echo 'MinJobAge = 600 sec'")
        self._program("scancel", f"{fails}; echo $* >> {self.cancelled}")
        self._program("sbatch", f"echo try >> {self.submitted}; {_says(self.refusal)}; wc -l < {self.submitted}")

    def _program(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


def _says(path: Path) -> str:
    """Ends a program with what a file says, where it is there; a test may delete it at any moment."""
    return f'if said=$(cat {path} 2> /dev/null); then echo "$said" >&2; exit 1; fi'


class Limiter:
    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


class Job:
    """As much of a job as the plugin asks for when it submits one."""

    name, jobid, wildcards, threads = "train_run", 7, ["runs/a-0123456789ab"], 1
    rule = SimpleNamespace(name="train_run")

    def __init__(self, output: Path | None = None) -> None:
        self.output = [output] if output else []
        self.resources = {"mem_mb": 100, "runtime": 10}

    def is_group(self) -> bool:
        return False

    def register(self, external_jobid: str) -> None:
        pass


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    made = Slurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return made


@pytest.fixture
def as_it_is() -> Iterator[None]:
    """The plugin is afterwards as it was."""
    before = {name: getattr(plugin.Executor, name) for name in PATCHED}
    query = plugin.query_job_status
    yield
    plugin.query_job_status = query
    for name, function in before.items():
        setattr(plugin.Executor, name, function)


@pytest.fixture
def executor(slurm: Slurm, as_it_is: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = plugin.Executor.__new__(plugin.Executor)
    made.reported = []
    scheduler = SimpleNamespace(
        submit_callback=lambda job: made.reported.append("submitted"),
        finish_callback=lambda job: made.reported.append("finished"),
        error_callback=lambda job: made.reported.append("failed"),
    )
    settings = SimpleNamespace(
        init_seconds_before_status_checks=20,
        status_attempts=2,
        status_command="squeue",
        keep_successful_logs=True,
        requeue=True,
        pass_command_as_script=False,
    )
    made.workflow = SimpleNamespace(executor_settings=settings, scheduler=scheduler, workdir_init=str(tmp_path))
    made.logger = logging.getLogger("test-plugin")
    made.status_rate_limiter = Limiter()
    made.run_uuid, made._main_event_loop, made._preemption_warning = "run", None, False
    made._status_query_calls = made._status_query_failures = 0
    made._status_query_total_seconds = made._status_query_max_seconds = 0.0
    made._status_query_min_seconds, made._status_query_cycle_rows = None, []
    made._next_seconds_between_status_checks = 20
    made._failed_nodes, made._submitted_job_clusters = set(), set()
    made.slurm_logdir = tmp_path / "logs"
    made.lock, made.active_jobs = threading.Lock(), []
    for name, value in {
        "get_account_arg": lambda job: iter([""]),
        "get_partition_arg": lambda job: "",
        "format_job_exec": lambda job: "true",
        "print_job_error": lambda info, msg=None, **more: made.reported.append(msg.strip()),
    }.items():
        setattr(made, name, value)
    monkeypatch.setattr(plugin, "get_submit_command", lambda *_, **__: "sbatch")
    monkeypatch.setattr(plugin, "set_gres_string", lambda job: "")
    monkeypatch.setattr(plugin, "validate_slurm_extra", lambda job: None)
    return made


@pytest.fixture
def resilient(executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(resilience, "FIRST_DELAY", 0.01)
    make_resilient(plugin, str(tmp_path), logging.getLogger("test-resilience"))
    return executor


def check(executor: Any, *jobs: SubmittedJobInfo) -> list[str]:
    """Numbers of the jobs that the executor goes on asking for."""

    async def still() -> list[str]:
        return [info.external_jobid async for info in executor.check_active_jobs(list(jobs))]

    return asyncio.run(still())


def submitted(executor: Any, number: str, output: Path | None = None) -> SubmittedJobInfo:
    info = SubmittedJobInfo(Job(output), external_jobid=number, aux={"slurm_logfile": Path("log")})
    executor.report_job_submission(info)
    return info


def test_the_plugin_alone_forgets_its_jobs(executor: Any, slurm: Slurm) -> None:
    """Where this fails the plugin has learned to wait, and that part of `resilience` can go."""
    slurm.error.write_text(AWAY)
    assert check(executor, submitted(executor, "1"), submitted(executor, "2")) == []


def test_an_outage_forgets_no_job(resilient: Any, slurm: Slurm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    jobs = [submitted(resilient, number) for number in ("1", "2")]
    slurm.error.write_text(AWAY)
    for _ in range(3):
        assert check(resilient, *jobs) == ["1", "2"]
    slurm.error.unlink()
    slurm.jobs.write_text("1|COMPLETED\n2|RUNNING\n")
    assert check(resilient, *jobs) == ["2"]
    assert resilient.reported == ["submitted", "submitted", "finished"]
    said = [record.message for record in caplog.records]
    assert sum("SLURM has not answered since" in line for line in said) == 1
    assert sum("SLURM answers again, after" in line for line in said) == 1


def test_what_is_asked_about_is_cancelled_too(resilient: Any, slurm: Slurm) -> None:
    """During a query the plugin has no list of its jobs, and in an outage it is always in one."""
    for number in ("1", "2", "3"):
        submitted(resilient, number)
    slurm.jobs.write_text("1|COMPLETED\n2|RUNNING\n3|PENDING\n")
    check(resilient, *resilient.active_jobs)
    resilient.cancel_jobs([])
    assert slurm.cancelled.read_text().split() == ["2", "3"]


def test_what_cannot_be_cancelled_is_named(resilient: Any, slurm: Slurm, caplog: pytest.LogCaptureFixture) -> None:
    for number in ("4", "5"):
        submitted(resilient, number)
    slurm.error.write_text("scancel: error: Unable to contact slurm controller (connect failure)")
    resilient.cancel_jobs([])
    assert "`scancel 4 5`" in caplog.text


@pytest.mark.parametrize("refusal", [LIMIT, "sbatch: error: Batch job submission failed: " + AWAY])
def test_a_refusal_that_passes_is_no_failure(
    resilient: Any, slurm: Slurm, refusal: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    slurm.jobs.write_text(f"9|RUNNING|0:01|None|c1|{slurm.root}|another\n")
    slurm.refusal.write_text(refusal)
    thread = threading.Thread(target=resilient.run_job, args=(Job(),))
    thread.start()
    while len(slurm.submitted.read_text().split()) < 3:
        assert thread.is_alive()
    slurm.refusal.unlink()
    thread.join(60)
    assert resilient.reported == ["submitted"]
    said = [record.message for record in caplog.records]
    assert sum("SLURM takes no more jobs for now" in line for line in said) == 1
    assert said[-1] == "SLURM takes jobs again."


def test_who_waits_to_submit_can_be_interrupted(resilient: Any, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilience, "FIRST_DELAY", 600.0)
    slurm.refusal.write_text(f"sbatch: error: {AWAY}")
    thread = threading.Thread(target=resilient.run_job, args=(Job(),))
    thread.start()
    while not slurm.submitted.read_text():
        assert thread.is_alive()
    resilient.cancel_jobs([])
    thread.join(60)
    assert not thread.is_alive()
    assert resilient.reported == []


@pytest.mark.parametrize("refusal", [ACCOUNT, LIMIT])
def test_a_refusal_for_good_is_said_at_once(resilient: Any, slurm: Slurm, refusal: str) -> None:
    """A limit on jobs refuses nobody who has none in the queue: this job asks for more than the account may have."""
    slurm.refusal.write_text(refusal)
    resilient.run_job(Job())
    assert refusal.splitlines()[-1] in resilient.reported[0]
    assert resilient.reported[1] == "failed"
    assert slurm.submitted.read_text().split() == ["try"]


def test_a_job_that_arrived_unheard_is_not_submitted_twice(resilient: Any, slurm: Slurm) -> None:
    slurm.refusal.write_text("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    comment = "rule_train_run_wildcards_runs_a-0123456789ab"
    slurm.jobs.write_text(f"31|PENDING|0:00|Priority||{slurm.root}|{comment}\n")
    resilient.run_job(Job())
    assert resilient.reported == ["submitted"]
    assert [info.external_jobid for info in resilient.active_jobs] == ["31"]
    assert slurm.submitted.read_text().split() == ["try"]


@pytest.mark.parametrize("is_made", [True, False])
def test_a_job_that_slurm_no_longer_knows(
    resilient: Any, slurm: Slurm, is_made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended in an outage that was longer than SLURM remembers jobs; a new job is unknown only for a moment."""
    product = tmp_path / "product.json"
    info = submitted(resilient, "1", product)
    for _ in range(resilience.FORGOTTEN_CHECKS + 1):
        assert check(resilient, info) == ["1"]
    monkeypatch.setattr(resilience, "FORGOTTEN_SECONDS", 0.0)
    slurm.jobs.write_text("1|RUNNING\n")
    assert check(resilient, info) == ["1"]
    slurm.jobs.write_text("2|RUNNING\n")
    for _ in range(resilience.FORGOTTEN_CHECKS - 1):
        assert check(resilient, info) == ["1"]
    if is_made:
        product.write_text("{}")
    assert check(resilient, info) == []
    expected = ["finished"] if is_made else ["SLURM no longer knows job 1, which has left no product.", "failed"]
    assert resilient.reported == ["submitted", *expected]


DOWN = "Slurmctld(primary) at a is DOWN\n*****************************************\n"
UP = "Slurmctld(primary) at a is UP\n"


def test_a_job_calls_srun_when_a_controller_answers(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also a second one, while the first is away; without the program `srun` says what is wrong."""
    ping, asked, began = slurm.root / "ping", slurm.root / "asked", threading.Event()
    slurm._program("scontrol", f"echo $* >> {asked}; cat {ping}; grep -q UP {ping}")
    ping.write_text(DOWN)
    monkeypatch.setattr(queue, "PAUSE", 0.01)
    monkeypatch.setattr(jobstep.Executor, "additional_general_args", lambda executor: [])
    monkeypatch.setattr(jobstep.Executor, "run_job", lambda executor, job: began.set())
    adapt_jobstep(jobstep)
    thread = threading.Thread(target=jobstep.Executor.run_job, args=(SimpleNamespace(), Job()))
    thread.start()
    while not asked.exists() or len(asked.read_text().split()) < 3:
        assert thread.is_alive()
        assert not began.is_set()
    slurm._program("scontrol", f"echo '{DOWN}{UP.replace('primary', 'backup')}'; exit 1")
    thread.join(60)
    assert began.is_set()
    assert asked.read_text().split()[0] == "ping"
    assert capfd.readouterr().err.count("SLURM's controller does not answer") == 1
    monkeypatch.setenv("PATH", "")
    queue.await_controller()


def _never() -> bool:
    raise AssertionError("asked")


@pytest.mark.parametrize(
    ("said", "has_jobs", "passes"),
    [
        (AWAY, _never, True),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", _never, True),
        (LIMIT, lambda: True, True),
        (LIMIT, lambda: False, False),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", lambda: True, True),
        (ACCOUNT, _never, False),
        ("sbatch: error: invalid partition specified: gpux", _never, False),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", _never, False),
        ("sbatch: error: Invalid generic resource (gres) specification", _never, False),
    ],
)
def test_what_passes(said: str, has_jobs: Callable[[], bool], passes: bool) -> None:
    assert may_pass(said, has_jobs) is passes


def test_a_signal_that_comes_while_the_scheduler_holds_its_lock_ends_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake's own handler would wait for ever; here in a thread, so that the test would end all the same."""
    monkeypatch.setattr(JobScheduler, "exit_gracefully", JobScheduler.exit_gracefully)
    resilience.take_lock_elsewhere(JobScheduler)
    scheduler = object.__new__(JobScheduler)
    scheduler._lock, scheduler._open_jobs, scheduler._user_kill = threading.Lock(), threading.Semaphore(0), None
    told = threading.Thread(target=scheduler.exit_gracefully, args=(signal.SIGTERM, None), daemon=True)
    with scheduler._lock:
        told.start()
        told.join(60)
        assert not told.is_alive()
        assert scheduler._user_kill is None
    assert scheduler._open_jobs.acquire(timeout=60), "its loop is woken up"
    assert scheduler._user_kill == "graceful"
