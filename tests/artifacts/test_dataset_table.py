"""Table 1 from manifests of prepared rows, from the paper's counts, and with neither."""

import csv
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest

from scripts.artifacts import dataset_table, tables
from scripts.data.batches import write_cpt_rows, write_ift_rows
from scripts.launch.launch import Launch, launch_by_hand
from scripts.plan.registry import Artifact
from tests.artifacts.conftest import take_from_outside

ARTIFACT = Artifact(
    name="table1", title="Datasets", caption="A caption.", edition="v2", kind="dataset_table", needs=("learning",)
)


def smoke(tmp_path: Path) -> Launch:
    return launch_by_hand("smoke", str(tmp_path / "store"))


def at_scale_of_the_paper(launch: Launch) -> Launch:
    """The smoke study with the paper's code-cpt and math-ift: 192 rows of 4096 tokens, epochs 1 to 16."""
    study = deepcopy(launch.study)
    study |= {"scale": "paper", "seeds": [3, 4]}
    take_from_outside(study)
    study["model"]["architecture"]["context"] = 4096
    study["settings"]["code-cpt"] |= {
        "sequence_length": 4096, "batch_rows": 192, "group_rows": 6, "durations": ["0.25B", "20B"],
        "first_leg": "0.2B", "sweep": None,
    }  # fmt: skip
    study["settings"]["math-ift"] |= {"durations": [16, 1], "max_epochs": 16, "sweep": None}
    study["sweep"] = None
    return replace(launch, study=study)


def prepare(launch: Launch, setting: str, seed: int, results: dict[str, Any]) -> str:
    """Puts a manifest of the setting's rows into the store; returns its fingerprint."""
    product = launch.grid.rows(setting, seed)
    launch.store.make(product, lambda out: results, {})
    return product.fingerprint


def written(launch: Launch, tmp_path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with (tmp_path / "table1.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, dataset_table.COLUMNS)
        writer.writeheader()
        writer.writerows(dataset_table.rows(launch))
    with (tmp_path / "table1.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_duration(rows: list[dict[str, str]]) -> dict[tuple[str, str], tuple[str, str, str]]:
    return {
        (row["setting"], row["duration"]): (row["pass_tokens"], row["duration_tokens"], row["source"]) for row in rows
    }


def lines(tmp_path: Path) -> dict[str, list[str]]:
    """The rows of the Markdown table by their first cell."""
    page = tables.markdown(dataset_table.table(ARTIFACT, tmp_path / "table1.csv", "abc1234"))
    assert "base model" not in page
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in cells}


def test_a_demo_that_is_not_prepared_has_no_counts(tmp_path: Path) -> None:
    found = by_duration(written(smoke(tmp_path), tmp_path))
    # a batch is 4 rows of 64 tokens
    assert found == {
        ("code-cpt", "2.56K"): ("", "2560", "not prepared"),
        ("code-cpt", "5.12K"): ("", "5120", "not prepared"),
        ("math-ift", "1"): ("", "", "not prepared"),
        ("math-ift", "2"): ("", "", "not prepared"),
    }
    assert lines(tmp_path)["Code CPT"] == [
        "CPT", "code-documents", "—", "—", "—", "—", "2.56K to 5.12K tokens", "2.56K to 5.12K", "—",
    ]  # fmt: skip
    assert lines(tmp_path)["Math IFT"] == [
        "IFT", "math-instructions", "—", "—", "—", "—", "1 to 2 epochs", "—", "—",
    ]  # fmt: skip
    page = tables.markdown(dataset_table.table(ARTIFACT, tmp_path / "table1.csv", "abc1234"))
    assert "**Demo study - not the paper's numbers.**" in page
    assert "—: the data are not prepared yet." in page
    assert "drawn at commit abc1234" in page


def test_the_papers_counts_stand_in_for_data_that_are_not_prepared(tmp_path: Path) -> None:
    launch = at_scale_of_the_paper(smoke(tmp_path))
    found = by_duration(written(launch, tmp_path))
    # 0.25B and 20B tokens are 318 and 25431 batches of 786432 (paper: 25431.3)
    assert found == {
        ("code-cpt", "0.25B"): ("20000000000", str(318 * 786_432), "printed"),
        ("code-cpt", "20B"): ("20000000000", str(25_431 * 786_432), "printed"),
        ("math-ift", "16"): ("103000000", "1648000000", "printed"),
        ("math-ift", "1"): ("103000000", "103000000", "printed"),
    }
    mark = "\N{DOUBLE DAGGER}"
    assert lines(tmp_path)["Code CPT"][5:] == [
        f"20B{mark}", "0.25B to 20B tokens", "250.1M to 20B", f"0.0125 to 1{mark}",
    ]  # fmt: skip
    assert lines(tmp_path)["Math IFT"][5:] == [
        f"103M{mark}", "1 to 16 epochs", f"103M to 1.648B{mark}", f"1 to 16{mark}",
    ]  # fmt: skip
    page = tables.markdown(dataset_table.table(ARTIFACT, tmp_path / "table1.csv", "abc1234"))
    assert f"{mark}: printed in the paper; the data are not prepared yet." in page
    assert "Demo study" not in page


def test_the_papers_other_counts() -> None:
    assert dataset_table.PASSES == {
        "code-cpt": 20e9, "math-cpt": 14.7e9, "code-ift": 72.97e6, "math-ift": 103e6,
    }  # fmt: skip


def test_prepared_rows_are_counted_as_they_are(tmp_path: Path) -> None:
    """Manifests as the data stage makes them, of made-up examples; what is expected is added up from the rows."""
    launch = smoke(tmp_path)
    generator = numpy.random.default_rng(0)
    layout = {"eos": 0, "pad": 1, "vocab_size": 300, "seed": 0}
    documents = [[7] * int(size) for size in generator.integers(1, 90, 100)]
    examples = [([7] * int(a), [8] * int(b)) for a, b in generator.integers(1, 40, (203, 2))]
    for name in ("cpt", "ift"):
        (tmp_path / name).mkdir()
    cpt = write_cpt_rows(documents, tmp_path / "cpt", sequence_length=64, batch_rows=4, group_rows=2, **layout)
    ift = write_ift_rows(
        examples, tmp_path / "ift", sequence_length=96, batch_rows=4, group_rows=4, packing_ratio=1.5, max_epochs=4,
        **layout,
    )  # fmt: skip
    prints = [prepare(launch, "code-cpt", 0, cpt), prepare(launch, "math-ift", 0, ift)]
    found = written(launch, tmp_path)
    one_pass = numpy.load(tmp_path / "cpt" / "rows.npy").size
    sizes = numpy.array([len(a) + len(b) + 1 for a, b in examples])
    composed, starts = (numpy.load(tmp_path / "ift" / f"row_{what}.npy") for what in ("examples", "offsets"))
    rows = [int(sizes[composed[a:b]].sum()) for a, b in pairwise(starts)]
    epochs = [sum(part) for part in numpy.array_split(numpy.array(rows), 4)]
    assert by_duration(found) == {
        ("code-cpt", "2.56K"): (str(one_pass), "2560", "prepared"),
        ("code-cpt", "5.12K"): (str(one_pass), "5120", "prepared"),
        ("math-ift", "1"): (str(epochs[0]), str(epochs[0]), "prepared"),
        ("math-ift", "2"): (str(epochs[0]), str(epochs[0] + epochs[1]), "prepared"),
    }
    assert [row["rows"] for row in found] == [prints[0]] * 2 + [prints[1]] * 2
    assert lines(tmp_path)["Code CPT"][8] == f"{2560 / one_pass:.3g} to {5120 / one_pass:.3g}"


def test_what_is_prepared_counts_more_than_what_is_printed(tmp_path: Path) -> None:
    """Of the second seed alone; the other setting still has the paper's count."""
    launch = at_scale_of_the_paper(smoke(tmp_path))
    counts = {"documents": 9, "tokens": 19_000_000_123, "rows": 1, "dropped_tail_tokens": 123}
    prepare(launch, "code-cpt", 4, counts)
    found = by_duration(written(launch, tmp_path))
    assert found["code-cpt", "20B"][::2] == ("19000000000", "prepared")
    assert found["math-ift", "1"][::2] == ("103000000", "printed")
    assert lines(tmp_path)["Code CPT"][8] == "0.0132 to 1.05"


@pytest.mark.parametrize(
    ("count", "text"), [(512, "512"), (57_613, "57.61K"), (72_970_000, "72.97M"), (14_700_000_000, "14.7B")]
)
def test_tokens_are_read_at_a_glance(tmp_path: Path, count: int, text: str) -> None:
    launch = smoke(tmp_path)
    prepare(launch, "code-cpt", 0, {"documents": 1, "tokens": count, "rows": 1, "dropped_tail_tokens": 0})
    written(launch, tmp_path)
    assert lines(tmp_path)["Code CPT"][5] == text
