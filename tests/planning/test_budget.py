"""A launch above the site's threshold needs a budget, and is told the command that gives one."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scripts.common.commands import snakemake_command
from scripts.common.errors import UserError
from scripts.launch.launch import Launch, launch_by_hand
from scripts.launch.site import Site, load_site
from scripts.planning import budget

ASKED = ["results/figures/fig2.pdf", "--profile", "slurm"]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return replace(launch_by_hand("smoke", str(tmp_path)), site=asdict(Site(confirm_gpu_hours=1000)))


def said(launch: Launch, hours: float, words: list[str]) -> list[str]:
    """The command in the sentence, by words and without the program."""
    with pytest.raises(UserError) as caught:
        budget.require_confirmed(launch, hours, None, words)
    assert str(caught.value).endswith("; nothing was started")
    assert "confirm_gpu_hours" in str(caught.value)
    command = shlex.split(str(caught.value).split("`")[1])
    program = shlex.split(snakemake_command().partition(" --")[0])
    assert command[: len(program)] == program
    return command[len(program) :]


def test_at_the_threshold_or_with_a_budget_nothing_is_said(launch: Launch) -> None:
    budget.require_confirmed(launch, 1000.0, None, ASKED)
    budget.require_confirmed(launch, 1000.1, 1001, ASKED)
    budget.require_confirmed(replace(launch, site=asdict(Site())), 1e9, None, ASKED)
    # a launch that was frozen before the key was there
    budget.require_confirmed(replace(launch, site={}), 1e9, None, ASKED)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (ASKED, [*ASKED, "--config", "budget_gpu_hours=1001"]),
        ([*ASKED, "-n"], [*ASKED, "--config", "budget_gpu_hours=1001"]),
        (
            ["-n", *ASKED, "--config", "study=tour", "--keep-going"],
            [*ASKED, "--config", "budget_gpu_hours=1001", "study=tour", "--keep-going"],
        ),
        (["-C", "study=tour", "--", "a b"], ["-C", "budget_gpu_hours=1001", "study=tour", "--", "a b"]),
    ],
)
def test_the_command_is_the_one_that_was_typed(launch: Launch, words: list[str], command: list[str]) -> None:
    assert said(launch, 1000.1, words) == command


@pytest.mark.parametrize("text", ["many", "-1", "inf", "nan"])
def test_a_threshold_is_a_number_of_hours(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="FORGETTING_CONFIRM_GPU_HOURS: must be a number of hours"):
        load_site({"FORGETTING_CONFIRM_GPU_HOURS": text}, tmp_path / "none.yaml")
    (tmp_path / "site.yaml").write_text("confirm_gpu_hours: true")
    with pytest.raises(UserError, match="confirm_gpu_hours: must be a number of hours, not True"):
        load_site({}, tmp_path / "site.yaml")


def test_a_threshold_from_the_environment(tmp_path: Path) -> None:
    assert load_site({"FORGETTING_CONFIRM_GPU_HOURS": "2.5"}, tmp_path / "none.yaml").confirm_gpu_hours == 2.5
