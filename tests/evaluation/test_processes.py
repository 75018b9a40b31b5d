"""What is asked is shared by several processes, as one for each GPU, and comes out as from one alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas

from scripts.evaluation import evaluate, results
from scripts.launch.launch import Launch, launch_by_hand
from tests.conftest import House

ASKED = ("humaneval", "gsm8k", "hellaswag", "winogrande")


def begun(prepared: House, store: Path) -> Launch:
    for place in ("data", "models"):
        shutil.copytree(prepared.store / place, store / place)
    return launch_by_hand("smoke", str(store))


def run(launch: Launch, key: str, processes: int, tmp_path: Path) -> str:
    """By a launcher of processes, of which each notes how many answers it has kept."""
    (tmp_path / "noted").mkdir(exist_ok=True)
    script = tmp_path / "noting.py"
    script.write_text(
        "import os, sys\n"
        "from scripts.evaluation.journal import Journal\n"
        "keep = Journal.keep\n"
        "def noted(journal, entries):\n"
        f"    with open(f\"{tmp_path}/noted/{{os.environ['RANK']}}\", 'a') as file:\n"
        "        file.write(''.join(f'{key}\\n' for key in entries))\n"
        "    keep(journal, entries)\n"
        "Journal.keep = noted\n"
        "from scripts.evaluation import evaluate\n"
        "from scripts.launch.launch import launch_by_hand\n"
        "evaluate.main(launch_by_hand('smoke', sys.argv[1]), sys.argv[2])\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(script), launch.store_root, key],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_two_processes_find_what_one_finds(prepared: House, tmp_path: Path) -> None:
    alone, shared = (begun(prepared, tmp_path / name) for name in ("alone", "shared"))
    (base,) = alone.grid.blocks["base"]
    (family,) = (product for product in alone.grid if base.evaluations["humaneval"] in product.members)
    evaluate.main(alone, family.key)
    assert f"{family.key}: complete" in run(shared, family.key, 2, tmp_path)
    keys = [base.evaluations[task] for task in ASKED]
    keys += [sample for key in keys for sample in alone.grid.products[key].inputs_of("samples")]
    for key in keys:
        assert shared.store.require(key)["results"] == alone.store.require(key)["results"]
        one, two = (pandas.read_parquet(launch.store.bytes_of(key) / results.SAMPLES) for launch in (alone, shared))
        pandas.testing.assert_frame_equal(one, two, rtol=1e-5)
        assert not shared.store.scratch(key).exists()
    answers = [{*(tmp_path / "noted" / rank).read_text().split()} for rank in "01"]
    verdicts = answers[0] - answers[1]
    assert not answers[0] & answers[1], "both have answered the same"
    assert len(answers[1]) > 0.3 * len(verdicts)
    assert "complete" in run(shared, family.key, 2, tmp_path), "nothing is left to do, and no process waits"


def test_answers_of_more_processes_are_taken_over(prepared: House, tmp_path: Path) -> None:
    launch = begun(prepared, tmp_path / "store")
    (base,) = launch.grid.blocks["base"]
    key = base.evaluations["hellaswag"]
    evaluate.main(launch, key)
    frame = pandas.read_parquet(launch.store.bytes_of(key) / results.SAMPLES)
    again = begun(prepared, tmp_path / "again")
    scratch = again.store.scratch(key)
    scratch.mkdir(parents=True)
    part = launch.grid.products[key]
    with evaluate._journal(launch, part) as journal:
        asking = evaluate._Asking(launch, [part], lambda: None)
        evaluate._answers(launch, part, asking, journal)
        everything = dict(journal._found)
    lines = [json.dumps([answer, value]) + "\n" for answer, value in everything.items()]
    (scratch / f"3-{evaluate.JOURNAL}").write_text("".join(lines))

    class Nobody:
        def __call__(self, *_: object, **__: object) -> None:
            raise AssertionError("the model was asked again")

    asking = evaluate._Asking(again, [part], lambda: None)
    harness = asking()
    harness._models.model(None, None).get_decoder().forward = Nobody()
    with evaluate._journal(again, part) as journal:
        found = evaluate._answers(again, part, asking, journal)
    assert [list(sample["loglikelihoods"]) for sample in found["samples"]] == [list(x) for x in frame["loglikelihoods"]]
