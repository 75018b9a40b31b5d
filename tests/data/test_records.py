"""Records from outside: locked by hash, verified when taken, refused when they are other ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import House, copy_checkout

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = "".join(json.dumps({"text": f"def f{i}(x):\n    return x + {i}"}) + "\n" for i in range(60))


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(copy_checkout(ROOT, tmp_path / "house"))
    (house.root / "mine.jsonl").write_text(DOCUMENTS)

    def own_documents(study: dict[str, Any]) -> None:
        study["datasets"]["code-documents"] = {"source": "path", "path": "mine.jsonl"}

    house.edit(own_documents)
    return house


def records_key(house: House) -> str:
    (key,) = house.manifests("data/records")
    return key


def test_locked_taken_and_refused(house: House) -> None:
    # not locked: one sentence that names the command, nothing made
    said = house.snakemake("-n", ok=False)
    assert "python -m scripts.data.lock --study smoke" in said
    assert not house.store.exists()

    house.python("-m", "scripts.data.lock", "--study", "smoke")
    lock = yaml.safe_load((house.root / "config/data.lock").read_text())
    assert lock == {"code-documents": {"path": "mine.jsonl", "sha256": hashlib.sha256(DOCUMENTS.encode()).hexdigest()}}
    house.python("-m", "scripts.data.records", "data/records/file", "--study", "smoke")
    key = records_key(house)
    assert (house.store / key / "records.jsonl").read_text() == DOCUMENTS

    # the file changes under the lock: the job refuses it, and says both ways out
    for path in (house.store / key).iterdir():
        path.unlink()
    (house.root / "mine.jsonl").write_text(DOCUMENTS + "{}\n")
    said = house.python("-m", "scripts.data.records", key, "--study", "smoke", ok=False)
    assert said.startswith("error: mine.jsonl: its SHA-256 is")
    assert said.count("\n") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("line", ["not json\n", "[1]\n"])
def test_a_bad_line_is_named(house: House, line: str) -> None:
    (house.root / "mine.jsonl").write_text(DOCUMENTS + line)
    house.python("-m", "scripts.data.lock", "--study", "smoke")
    said = house.python("-m", "scripts.data.records", "data/records/file", "--study", "smoke", ok=False)
    assert "line 61" in said
    assert not house.manifests("data/records")


def test_train_and_test_of_the_studies_share_no_item() -> None:
    """The demo's and the smoke study's own records: no benchmark item stands in what is trained on."""
    from scripts.data.generators import GENERATORS
    from scripts.study.load import load_study
    from scripts.study.schema import GeneratedDataset

    for name in ("demo", "smoke"):
        study = load_study(name)
        made = {
            key: list(GENERATORS[dataset.generator](dataset.records, study.data_seed, dataset.split))
            for key, dataset in study.datasets.items()
            if isinstance(dataset, GeneratedDataset)
        }
        trained = "\n".join(
            record.get("text") or f"{record['instruction']}\n{record['response']}"
            for key, records in made.items()
            for record in records
            if key.endswith(("documents", "instructions"))
        )
        tasks = study.evaluation.tasks
        for problem in made[tasks.humaneval.dataset]:
            docstring = problem["prompt"].split('"""')[1].split("\n")[0].strip()
            assert docstring not in trained
        for problem in made[tasks.gsm8k.dataset]:
            assert problem["question"] not in trained
