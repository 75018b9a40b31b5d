"""What jobs ask a cluster for, and what the plan of them costs."""

import math
import re
import shlex
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.validation import get_forbidden_slurm_options, validate_slurm_extra

from scripts.common.errors import UserError
from scripts.launch.launch import Launch, launch_by_hand
from scripts.launch.site import load_site
from scripts.planning import cluster
from scripts.planning.estimate import Estimate


@pytest.fixture
def paper(tmp_path: Path) -> Launch:
    return launch_by_hand("paper", str(tmp_path))


def on(launch: Launch, cpus: int, **devices: Any) -> Launch:
    resources = launch.study["resources"]
    jobs = {**resources["jobs"], "training": {"cpus": cpus, "memory_gb": 2, "minutes": 600}}
    for name in ("evaluation", "throughput"):
        jobs[name] = {**jobs[name], "gpus": min(devices["gpus"], 1)}
    return replace(launch, study={**launch.study, "resources": {**resources, "devices": devices, "jobs": jobs}})


def minutes(launch: Launch, name: str, attempt: int = 1) -> int:
    key = launch.grid.find(name).key.removeprefix("runs/")
    asked = cluster.resources(launch, "training", "runs")["runtime"]
    return int(asked(SimpleNamespace(key=key), attempt))


def test_time_follows_tokens_and_attempts_up_to_the_table_s(paper: Launch) -> None:
    """20B tokens, the last 7.2B of which the branch trains (its leg ends at 12.8B), at 270,080 a second: 444 min."""
    assert minutes(paper, "code-cpt/full/20B-seed0") == pytest.approx(1.5 * 444, rel=0.02)
    assert minutes(paper, "code-cpt/full/20B-seed0", attempt=2) == pytest.approx(3 * 444, rel=0.02)
    assert minutes(paper, "code-cpt/full/20B-seed0", attempt=4) == 1440
    # 0.05B tokens take 185 s, and starting 120 s; half as much again, and twice 120 s for the Snakemakes before it
    assert minutes(paper, "code-cpt/full/0.25B-seed0") == math.ceil((1.5 * (185 + 120) + 240) / 60)
    assert minutes(launch_by_hand("smoke", "unused"), "math-ift/full/1-seed0") == 10


def test_one_process_and_several(paper: Launch) -> None:
    """A job without `mpi` is wrapped by the executor into a step of one task, so one with several must have it."""
    eight_nodes = on(paper, 3, kind="cpu", nodes=8, gpus=0)
    asked = cluster.resources(eight_nodes, "training", "runs")
    assert (asked["mpi"], asked["nodes"], asked["tasks"], asked["cpus_per_task"]) == ("srun", 8, 8, 3)
    assert "gres" not in asked
    words = cluster.step(eight_nodes, "training").split()
    assert {"--nodes=8", "--ntasks=8", "--ntasks-per-node=1", "--cpus-per-task=3"} <= set(words)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_task_for_each_gpu(paper: Launch, nodes: int) -> None:
    launch = on(paper, 6, kind="a100-80gb", nodes=nodes, gpus=4)
    asked = cluster.resources(launch, "training", "runs")
    assert (asked["gres"], asked["nodes"], asked["tasks_per_node"], asked["tasks_per_gpu"]) == ("gpu:4", nodes, 4, 0)
    words = cluster.step(launch, "training").split()
    assert "srun" in words
    assert {f"--nodes={nodes}", f"--ntasks={4 * nodes}", "--ntasks-per-node=4", "--gpus-per-node=4"} <= set(words)
    single = on(paper, 6, kind="a100-80gb", nodes=1, gpus=1)
    assert not {"mpi", "nodes", "tasks", "tasks_per_node"} & set(cluster.resources(single, "training", "runs"))


def test_gpu_hours_are_gpus_times_time(paper: Launch) -> None:
    """A run of 7.2B tokens, at 8,440 a second on each of 32 GPUs: 237 hours; evaluations take one GPU."""
    run = paper.grid.find("code-cpt/full/20B-seed0")
    estimate = Estimate(paper.grid, paper.store)
    assert cluster.gpu_hours(estimate, [run]) == pytest.approx(7.2e9 / 8_440 / 3600, rel=0.02)
    evaluation = next(product for product in paper.grid if product.kind == "evaluation")
    assert cluster.gpu_hours(estimate, [evaluation]) == pytest.approx(estimate.seconds(evaluation, set()) / 3600)
    assert cluster.gpu_hours(estimate, [paper.grid.records("starcoder-python")]) == 0


def test_budget() -> None:
    cluster.require_budget(1000.0, None)
    cluster.require_budget(1.0, 1.0)
    with pytest.raises(UserError, match=r"about 1,000\.0 GPU-hours, budget_gpu_hours allows 999\.5; nothing was"):
        cluster.require_budget(1000.0, 999.5)


def test_site(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    assert load_site({}, file).account is None
    file.write_text("account: proj1\ncontainer: apptainer exec image.sif\n")
    site = load_site({"FORGETTING_ACCOUNT": "proj2", "FORGETTING_PARTITION": "none", "FORGETTING_STORE": ""}, file)
    assert (site.account, site.partition, site.store) == ("proj2", "none", None)
    assert (site.asked("account"), site.asked("partition")) == ("proj2", None)
    site.require(["account", "partition"])
    with pytest.raises(UserError, match="gpu_type of the cluster must be said, there or in FORGETTING_GPU_TYPE"):
        site.require(["account", "gpu_type"])
    for text, wrong in (
        ("- a", "must hold keys and values"),
        ("partition: 3", "partition: must be text"),
        ("gpus: a100", "gpus: is not a fact of a cluster"),
        ("max_jobs: 0", "max_jobs: must be a whole number of jobs, at least 1, not 0"),
        ("max_jobs: yes", "max_jobs: must be a whole number of jobs"),
        ("devices: h100", "devices: input should be a valid dictionary"),
        ("devices: {kind: h100, gpus: 8}", r"devices: kind: input should be 'b200', .* \(it says 'h100'\)"),
        ("devices: {kind: h100-80gb}", "devices: gpus: must be above 0 where kind is h100-80gb"),
        ("devices: {kind: cpu, gpus: 1}", "devices: gpus: must be 0 where kind is cpu"),
        ("devices: {kind: cpu, cards: 1}", "devices: cards: is not a key of devices"),
        ("environment: NCCL_DEBUG", "environment: must map names of variables to text or numbers"),
        ("environment: {NCCL DEBUG: 1}", "environment: must map names of variables"),
        ("environment: {NCCL_DEBUG: [1]}", "environment: must map names of variables"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=wrong):
            load_site({}, file)
    for variable, value in (
        ("MAX_JOBS", "ten"),
        ("ENVIRONMENT", "A=1 B"),
        ("ENVIRONMENT", "A='1"),
        ("ENVIRONMENT", "1=A"),
    ):
        with pytest.raises(UserError, match=f"^FORGETTING_{variable}: must"):
            load_site({f"FORGETTING_{variable}": value}, tmp_path / "none.yaml")


def test_options_with_another_place_are_refused_with_it(tmp_path: Path) -> None:
    """All that the executor plugin would refuse job by job, in every way to write it; what is left, it accepts."""
    patterns = get_forbidden_slurm_options()
    forbidden = {option for pattern in patterns for option in re.findall(r"--?[A-Za-z][a-z-]*", pattern)}
    assert {"--job-name", "-J", "--parsable", "--mem-per-cpu", "--gpus"} < forbidden
    file = tmp_path / "site.yaml"
    for option in forbidden:
        joined = f"{option}=x" if option.startswith("--") else f"{option}x"
        for written in (joined, f"{option} x", f"--exclusive {joined} --mail-type=FAIL"):
            file.write_text(yaml.safe_dump({"extra": written}))
            with pytest.raises(UserError, match=rf"site.yaml: extra: {option} is not allowed here; \w"):
                load_site({}, file)
    with pytest.raises(UserError, match="FORGETTING_EXTRA: -p is not allowed here; the key partition says it"):
        load_site({"FORGETTING_EXTRA": "-pgpu"}, file)
    with pytest.raises(UserError, match="FORGETTING_EXTRA: '--mail-user=\"a' is no list of options"):
        load_site({"FORGETTING_EXTRA": '--mail-user="a'}, file)
    extra = "--mail-type=FAIL --exclusive --exclude=c[1-3] --nice=10 --signal=TERM@60"
    assert load_site({"FORGETTING_EXTRA": extra}, tmp_path / "none.yaml").extra == extra
    validate_slurm_extra(SimpleNamespace(resources=Resources(slurm_extra=extra)))


SITES = {
    # one partition, everything said in the file
    """
account: nlp
partition: gpu
gpu_type: a100
qos: normal
""": {
        "training": "-A nlp -p gpu --qos=normal",
        "data": "-A nlp -p gpu --qos=normal",
        "prologue": "",
    },
    # CPU and GPU nodes apart; what holds for the GPU nodes is not asked of the others
    """
account: proj-17
partition: h100
cpu_partition: serial
gpu_type: none
qos: gpu-long
constraint: "h100&ib"
reservation: lora
extra: --mail-type=FAIL
setup: module load cuda/12.4
environment: {NCCL_SOCKET_IFNAME: ib0, NCCL_IB_TIMEOUT: 22, WORDS: it's}
""": {
        "training": "-A proj-17 -p h100 -C 'h100&ib' --qos=gpu-long --reservation=lora --mail-type=FAIL",
        "data": "-A proj-17 -p serial --mail-type=FAIL",
        "prologue": "export NCCL_SOCKET_IFNAME=ib0; export NCCL_IB_TIMEOUT=22; export WORDS='it'\"'\"'s'; "
        "module load cuda/12.4",
    },
    # SLURM decides by itself
    """
account: none
partition: none
cpu_partition: none
gpu_type: none
""": {"training": "", "data": "", "prologue": ""},
}
PLACES = ("-A", "-p", "-C", "--qos", "--reservation", "--mail")


@pytest.mark.parametrize("text", SITES)
def test_three_sites_by_the_executor_s_own_command_line(paper: Launch, tmp_path: Path, text: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    site = load_site({}, file)
    launch = replace(paper, site=asdict(site))
    expected = SITES[text]
    for kind in ("training", "data"):
        resources = cluster.resources(launch, kind, "")
        line = shlex.split(re.sub(r"-([ApC]) ", r"-\1", expected[kind]))
        assert {word for word in options(resources) if word.startswith(PLACES)} == set(line)
    done = subprocess.run(
        ["bash", "-c", f"module() {{ :; }}; {site.prologue or ':'}; echo $NCCL_IB_TIMEOUT $WORDS"],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert site.prologue == expected["prologue"]
    assert done.stdout.strip() == ("22 it's" if expected["prologue"] else "")


def options(resources: dict[str, Any]) -> set[str]:
    """The words of the `sbatch` line that the executor plugin makes of a job's resources, one-letter options joined."""
    job = SimpleNamespace(resources=Resources(resources), threads=1, is_group=lambda: False, name="job")
    settings = SimpleNamespace(requeue=True, no_requeue=False, qos=None, reservation=None)
    validate_slurm_extra(job)
    account, partition = (resources.get(f"slurm_{name}", "") for name in ("account", "partition"))
    words = {
        "run_uuid": "run",
        "slurm_logfile": "log",
        "comment_str": "comment",
        "account": f"-A{account}" if account else "",
        "partition": f"-p{partition}" if partition else "",
        "workdir": "/",
    }
    line = get_submit_command(job, words, settings=settings)
    return set(shlex.split(line.replace("-C ", "-C")))


class Resources(dict[str, Any]):
    """As Snakemake's: values by key, and as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


@pytest.mark.parametrize(("said", "environment"), [("MAX_JOBS", 10), ("ENVIRONMENT", {"A": "1", "B": "two words"})])
def test_facts_from_the_environment(tmp_path: Path, said: str, environment: object) -> None:
    text = "10" if said == "MAX_JOBS" else "A=1 B='two words'"
    site = load_site({f"FORGETTING_{said}": text}, tmp_path / "none.yaml")
    assert asdict(site)[said.lower()] == environment
