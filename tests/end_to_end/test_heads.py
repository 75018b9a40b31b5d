"""Several heads at once: what one makes the other finds, in one checkout and in two."""

import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House
from tests.end_to_end.identity import one_setting
from tests.end_to_end.truth import FIG2, condition_grain

pytestmark = pytest.mark.thorough

NAMED = "results/studies/{}/figures/fig2.pdf"


def trained(house: House) -> Counter[str]:
    return Counter(line.split()[1] for line in house.log.read_text().splitlines() if line.startswith("trained "))


def evaluated(house: House) -> Counter[str]:
    lines = house.log.read_text().splitlines()
    return Counter(line.rpartition(" ")[0] for line in lines if line.startswith("evaluated "))


def launch(house: House, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        house.command(*arguments),
        cwd=house.root,
        env=house.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(*heads: subprocess.Popen[str]) -> None:
    for head in heads:
        said = head.communicate(timeout=400)[0]
        assert head.returncode == 0, said


def small(study: dict[str, Any]) -> None:
    one_setting(study)
    condition_grain(study)


def test_two_studies_at_once_in_one_checkout(prepared: House, tmp_path: Path) -> None:
    """They need the same products, each of which is made once; and each has its own figure."""
    house = prepared.copy(tmp_path)
    house.edit(small)
    other = house.root / "config/studies/other.yaml"
    other.write_text(house.study_file.read_text().replace("Smoke study", "Another study"))
    both = [launch(house, NAMED.format(name), "--cores", "1") for name in ("smoke", "other")]
    ended(*both)
    assert len(trained(house)) == 8
    assert set(trained(house).values()) == set(evaluated(house).values()) == {1}
    csvs = {name: (house.root / NAMED.format(name)).with_suffix(".csv").read_text() for name in ("smoke", "other")}
    assert csvs["smoke"].count("Smoke study") == csvs["other"].count("Another study") > 1
    for name in csvs:
        assert "Nothing to be done" in house.snakemake(NAMED.format(name), "-n")
    # the plain name is that of whichever study is asked for
    assert house.plan() == {"collect": 1, "draw": 1}
    assert not house.run()
    assert house.csv() == csvs["smoke"]
    assert "in two commands" in house.snakemake(FIG2, NAMED.format("other"), ok=False)
    assert "not of other and smoke" in house.snakemake(NAMED.format("smoke"), NAMED.format("other"), ok=False)


def test_another_head_makes_a_run_before_a_job_of_it_starts(prepared: House, tmp_path: Path) -> None:
    """Snakemake deletes the manifest before the job starts; the job puts it back, and trains nothing."""
    house = prepared.copy(tmp_path)
    house.edit(small)
    run = next(path for path in house.planned("runs") if "/full/5.12K-" in path)
    second = house.clone(tmp_path / "second", keep_store=True)
    # a head that has planned the run waits for the run's first leg, until all is made by another
    module, go = house.root / "scripts/training/train.py", tmp_path / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.1)\n"
    module.write_text(wait + module.read_text())
    head = launch(house, run, "--cores", "1")
    while not (house.root / "results/logs/legs").exists():
        assert head.poll() is None
        time.sleep(0.1)
    second.snakemake(str(house.root / run))
    before = {key: manifest["provenance"] for key, manifest in second.manifests("").items()}
    go.touch()
    ended(head)
    assert {key: manifest["provenance"] for key, manifest in second.manifests("").items()} == before
    assert set(trained(second).values()) == {1}
