"""How long a dry-run of the whole paper takes, how it grows with ten times the conditions, and beside a bare workflow.

python -m benchmarks.planning            writes benchmarks/results/planning.json

A dry-run is `snakemake -n all --config study=paper` in a copy of the checkout without results. The ten-fold study is
the same with ten seeds. The bare workflow has as many jobs in the same proportions and no code behind its rules: what
Snakemake itself takes for them. Every command is timed three times in turn; the medians are compared.
"""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from scripts.store.machine import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "planning.json"
PARTS = ("Snakefile", "rules", "scripts", "config", "envs", "profiles")
ROUNDS = 3
LIMIT_SECONDS = 15.0
BARE = """
JOBS = {jobs}
rule all:
    input: expand("last/{{i}}", i=range(JOBS // 4))
rule data:
    output: "data"
    shell: "touch {{output}}"
rule train:
    input: "data"
    output: "trained/{{i}}"
    shell: "touch {{output}}"
rule evaluate:
    input: "trained/{{i}}"
    output: "evaluated/{{i}}-{{j}}"
    shell: "touch {{output}}"
rule collect:
    input: "evaluated/{{i}}-a", "evaluated/{{i}}-b"
    output: "last/{{i}}"
    shell: "touch {{output}}"
"""


def seconds(directory: Path, *arguments: str) -> tuple[float, int]:
    """Wall seconds of a dry-run and the jobs that it plans."""
    environment = {key: value for key, value in os.environ.items() if key != "FORGETTING_LAUNCH"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "all", "--cores", "2", *arguments],
        cwd=directory, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = done.stdout + done.stderr
    return time.perf_counter() - began, int(re.findall(r"^total +(\d+)$", said, re.MULTILINE)[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as where:
        checkout, bare = Path(where) / "checkout", Path(where) / "bare"
        checkout.mkdir()
        bare.mkdir()
        for part in PARTS:
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile)(ROOT / part, checkout / part)
        (checkout / "config/studies/paper-ten-seeds.yaml").write_text(
            f"extends: paper\nseeds: {list(range(10))}\nthroughput: ~\n"
        )
        _, jobs = seconds(checkout, "--config", "study=paper")
        (bare / "Snakefile").write_text(BARE.format(jobs=jobs))
        commands = {
            "paper": (checkout, "--config", "study=paper"),
            "ten times the conditions": (checkout, "--config", "study=paper-ten-seeds"),
            "bare workflow": (bare,),
        }
        timed: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, (directory, *arguments) in commands.items():
                timed[name].append(seconds(directory, *arguments))
    rows = {
        name: {"jobs": runs[0][1], "seconds": round(statistics.median(s for s, _ in runs), 2)}
        for name, runs in timed.items()
    }
    paper, tenfold, plain = (row["seconds"] for row in rows.values())
    result = {
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "snakemake": metadata.version("snakemake"),
        },
        "rounds": ROUNDS,
        "runs": rows,
        "paper over bare workflow": round(paper / plain, 2),
        "ten times the conditions over paper": round(tenfold / paper, 2),
        "limit": f"{LIMIT_SECONDS:.0f} s on two cores",
        "within the limit": paper <= LIMIT_SECONDS,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULTS.read_text(), end="")


if __name__ == "__main__":
    main()
