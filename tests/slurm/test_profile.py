"""The profile as a person meets it: the literal command, on a machine without SLURM and on a cluster."""

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, counts
from tests.slurm.conftest import snakemake

pytestmark = pytest.mark.thorough


def asked(said: str, message: str) -> list[str]:
    """What each planned job asks for whose message begins so."""
    return re.findall(rf"^Job \d+: {message} .*\((.*)\)$", said, re.MULTILINE)


@pytest.mark.parametrize("behind", ["", " --config budget_gpu_hours=1e6"])
def test_the_literal_command_plans_the_paper_s_study(checkout: Path, behind: str) -> None:
    status, said = snakemake(checkout, f"snakemake -n results/figures/fig2.pdf --profile slurm{behind}")
    assert status == 0, said
    # the paper's main grid: 4 settings, 4 methods, 8 or 5 durations; and the legs of its 8 trunks
    planned = counts(said)
    assert planned["train_run"] == 4 * (8 + 5 + 8 + 5)
    assert planned["train_leg"] == 8 * 7
    assert "not-locked" in said
    assert "with 200 jobs at a time (jobs of the profile)" in said
    assert "Take the tokenizer hub/llama-2-7b-hf" in said
    assert "Train the tokenizer" not in said


def test_a_site_s_threshold_asks_for_a_budget(checkout: Path) -> None:
    line, facts = "snakemake results/figures/fig2.pdf --profile slurm", {"FORGETTING_CONFIRM_GPU_HOURS": "100"}
    status, planned = snakemake(checkout, f"{line} -n --quiet", FORGETTING_MAX_JOBS="20", **facts)
    assert status == 0, planned
    assert "with 20 jobs at a time (max_jobs of the site)" in planned
    status, said = snakemake(checkout, line, **facts)
    assert status == 1
    (error,) = (text for text in said.splitlines() if text.startswith("error:"))
    command = error.split("`")[1]
    assert command in planned.replace(" --quiet", "")
    status, said = snakemake(checkout, line + command.partition(line)[2], **facts)
    # enough to be started, where all that it takes is locked
    assert "error: config/data.lock: " in said


def test_another_study_on_the_command_line(checkout: Path) -> None:
    status, said = snakemake(checkout, "snakemake -n results/figures/fig2.pdf --profile slurm --config study=smoke")
    assert status == 0, said
    assert counts(said)["train_run"] == 2 * 2 * 2  # a job each, though the study says family


def test_what_jobs_ask_for(checkout: Path) -> None:
    """The table of the paper's study, whatever this machine has; and less time where there is less to train."""
    _, said = snakemake(checkout, "snakemake -n results/figures/fig3.pdf --profile slurm", FORGETTING_GPU_TYPE="h100")
    evaluations, runs = asked(said, "Evaluate"), asked(said, "Train")
    assert len(evaluations) > 300
    samples, judged = asked(said, "Sample"), asked(said, "Judge")
    assert len(samples) == len(judged) > 100
    assert all("cpus_per_task=8" in job and "gres=gpu:h100:1" in job for job in [*evaluations, *samples])
    # programs run on CPUs alone
    assert all("cpus_per_task=32" in job and "gres" not in job for job in judged)
    for part in ("nodes=4", "tasks_per_node=8", "gres=gpu:h100:8", "cpus_per_task=8", f"mem_mb={512 * 1024}"):
        assert all(part in job for job in runs), part
    minutes = {int(re.search(r"runtime=(\d+)", job)[1]) for job in runs}  # type: ignore[index]
    assert min(minutes) < 60 < max(minutes) <= 1440


def test_site_from_file_and_environment(checkout: Path) -> None:
    site = checkout / "profiles" / "slurm" / "site.yaml"
    line = "snakemake -n results/figures/fig2.pdf --profile slurm --config study=smoke"
    site.write_text("account: proj1\npartition: a100\nstore: elsewhere\n")
    try:
        _, said = snakemake(checkout, line, FORGETTING_PARTITION="h100")
        assert "elsewhere/runs/" in said
        assert all("slurm_account=proj1" in job and "slurm_partition=h100" in job for job in asked(said, "Evaluate"))
        site.write_text("acount: proj1\n")
        status, said = snakemake(checkout, line)
        assert status == 1
        assert "error: profiles/slurm/site.yaml: acount: is not a fact of a cluster; allowed are account, " in said
    finally:
        site.unlink()


def test_what_is_missing_or_too_dear_ends_the_launch(checkout: Path, cluster: object) -> None:
    line = "snakemake results/tables/table1.md results/figures/fig2.pdf --profile slurm --config study=dear"
    study = yaml.safe_load((checkout / "config" / "studies" / "smoke.yaml").read_text())
    study["resources"]["devices"] = {"kind": "l4", "gpus": 1}
    (checkout / "config" / "studies" / "dear.yaml").write_text(yaml.safe_dump(study))
    facts = {**cluster.environment(), "FORGETTING_ACCOUNT": "none"}  # type: ignore[attr-defined]
    status, said = snakemake(checkout, line, **facts)
    assert status == 1
    assert "partition and gpu_type of the cluster must be said, there or in FORGETTING_PARTITION and" in said
    facts |= {"FORGETTING_PARTITION": "none", "FORGETTING_GPU_TYPE": "none"}
    status, said = snakemake(checkout, f"{line} budget_gpu_hours=0", **facts)
    assert status == 1
    assert re.search(r"error: the plan takes about \d+\.\d GPU-hours, budget_gpu_hours allows 0\.0", said)
    assert not (checkout / "results" / "store").exists()


def test_the_profile_is_small_and_shares_no_key_with_the_default_one() -> None:
    text = (ROOT / "profiles" / "slurm" / "config.yaml").read_text()
    assert len(text.splitlines()) <= 40
    default = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    assert not set(default) & set(yaml.safe_load(text))
