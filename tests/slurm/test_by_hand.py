"""Training that a person starts in an interactive allocation."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.slurm.conftest import ClusterHouse

pytestmark = pytest.mark.thorough

INTERACTIVE = ["srun", "--interactive", "--preserve-env", "--pty"]
"""What `salloc` starts a shell with on the node, where `LaunchParameters=use_interactive_step` says so."""


@pytest.mark.parametrize("shell", [[], INTERACTIVE, ["srun", "--ntasks=2"]])
def test_training_by_hand_in_an_allocation_of_four_tasks(
    settle: Callable[[str], ClusterHouse], shell: list[str]
) -> None:
    """In the shell of `salloc`, here or on the node, one process trains; `srun` starts several."""
    house = settle("loop")
    run = next(target for target in house.planned("runs") if "/math-ift/" in target)
    key = run.removeprefix(f"{house.store_root}/").removesuffix(".json")
    assert house.cluster
    command = [sys.executable, "-m", "scripts.training.train", key]
    command += ["--study", house.study, "--store", house.store_root]
    done = subprocess.run(
        ["salloc", "--ntasks=4", *shell, *command],
        cwd=house.root,
        env=house.environment() | {"TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (manifest,) = house.manifests("runs").values()
    tasks = 2 if shell[-1:] == ["--ntasks=2"] else 1
    assert [attempt["devices"] for attempt in manifest["provenance"]["training"]["attempts"]] == [tasks]
