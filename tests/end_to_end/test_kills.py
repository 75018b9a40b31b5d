"""Killed in the middle and started again: the same numbers, bit-equal weights, nothing trained twice."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House
from tests.forks import interruptible

pytestmark = pytest.mark.thorough

FIG2 = "results/figures/fig2.pdf"


def often_saved(study: dict[str, Any]) -> None:
    """One setting, with a checkpoint every second."""
    study["settings"].pop("math-ift")
    study["resources"]["checkpoint_seconds"] = 1


@pytest.fixture(scope="module")
def undisturbed(prepared: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    house = prepared.copy(tmp_path_factory.mktemp("undisturbed"))
    house.standins = "harness"  # the loop is the real one
    house.edit(often_saved)
    house.snakemake(FIG2)
    return house


def processes_in(root: Path) -> list[int]:
    """Processes that work in a directory, by their current directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")).is_relative_to(root) and "Z" not in _state(entry):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def wait_until(true: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_killed_and_started_again(prepared: House, undisturbed: House, tmp_path: Path, number: signal.Signals) -> None:
    house = prepared.copy(tmp_path)
    house.standins = "slow,harness"  # the real one, held in a leg
    house.edit(often_saved)
    house.hold()
    head = subprocess.Popen(
        house.command(FIG2),
        cwd=house.root,
        env=house.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=interruptible,
    )

    def within_a_leg() -> bool:
        if not (made := house.manifests("legs")):
            for attempt in (house.root / "held").iterdir():
                attempt.unlink(missing_ok=True)
        try:
            return bool(made) and any(house.store.rglob("*.unfinished/step-*"))
        except FileNotFoundError:  # a directory got its name while it was looked through
            return False

    wait_until(within_a_leg, 400, "one leg to be made, and a checkpoint of another")
    head.send_signal(number)
    house.release()  # on SIGTERM the head lets a job end
    assert head.wait(timeout=400) != 0
    wait_until(lambda: not processes_in(house.root), 120, "every process to end")
    complete = {key: manifest["provenance"] for key, manifest in house.manifests("").items()}
    if number == signal.SIGKILL:
        house.snakemake("--unlock")
    house.snakemake(FIG2)
    assert "Nothing to be done" in house.snakemake(FIG2)
    assert house.csv() == undisturbed.csv()
    after = house.manifests("")
    assert {key: manifest["files"] for key, manifest in after.items()} == {
        key: manifest["files"] for key, manifest in undisturbed.manifests("").items()
    }
    assert {key: after[key]["provenance"] for key in complete} == complete
    assert not list(house.store.rglob("*.unfinished"))
