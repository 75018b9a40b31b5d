"""Every figure, table and page of a study and of the paper's printed numbers, by the targets that a person types."""

import csv
from pathlib import Path

import pytest

from tests.conftest import House

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def house(prepared: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    """The smoke study with quick models and all that it has."""
    house = prepared.copy(tmp_path_factory.mktemp("all"))
    house.run("all")
    return house


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_all_that_the_study_has(house: House) -> None:
    forms = ("csv", "collected.json", "pdf", "png", "made.json")
    figures = ("fig1", "fig2", "fig3", "figS8", "frontier", "losses")
    assert names(house.root / "results/figures") == {f"{name}.{form}" for name in figures for form in forms}
    # the smoke study has code CPT (tables S1 and S2) and math IFT (S7 and S8); what needs no model every study has
    tables = ("table1", "tableS1", "tableS2", "tableS7", "tableS8", "tableS14", "tableS15", "tableS16")
    assert names(house.root / "results/tables") == {
        f"{t}.{form}" for t in tables for form in ("csv", "collected.json", "md", "tex", "made.json")
    }
    assert "# The paper's claims" in (house.root / "results/claims.md").read_text()
    assert "| training | " in (house.root / "results/cost.md").read_text()
    assert house.plan("all") == {}


def test_a_table_has_its_setting_alone(house: House) -> None:
    with (house.root / "results/tables/tableS7.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["setting"] for row in rows} == {"math-ift", ""}
    assert {row["metric"] for row in rows} == {"gsm8k"}
    assert {row["kind"] for row in rows} == {"base", "full", "lora"}


def test_losses_of_the_base_model_are_told_apart(house: House) -> None:
    with (house.root / "results/figures/losses.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "base"]
    assert sorted((row["metric"], row["setting"]) for row in rows) == [
        ("source_loss", ""),
        ("target_loss", "code-cpt"),
        ("target_loss", "math-ift"),
    ]


def test_what_the_study_does_not_have(house: House) -> None:
    said = house.snakemake("results/tables/tableS3.md", ok=False)
    assert "error: study 'smoke' has no setting 'math-cpt'; it has code-cpt, math-ift" in said


def test_one_changed_rate_and_one_restyled_table(house: House, tmp_path: Path) -> None:
    house = house.copy(tmp_path)
    module = house.root / "scripts/artifacts/tables.py"
    module.write_text(module.read_text() + "\n# another look\n")
    assert house.plan("all") == {"tabulate": 8, "all": 1}
    house.edit(lambda study: study["settings"]["math-ift"]["learning_rates"].update(full=1e-3))
    # code CPT has nothing to do with it: the data of two tables are collected anew, and all four are written anew
    tables = {"collect": 2, "tabulate": 8, "all_tables": 1}
    assert house.plan("all_tables") == {"train_family": 1, "evaluate_family": 1, **tables}


def test_the_papers_own_numbers_need_no_model(prepared: House, tmp_path: Path) -> None:
    house = prepared.copy(tmp_path)
    # figures 1 to 3 and S4 to S6 and two of the first version, tables S1 to S16
    assert house.plan("all_published") == {"printed": 24, "draw": 8, "tabulate": 16, "all_published": 1}
    house.snakemake("results/published/figures/fig1.pdf", "results/published/tables/tableS1.md")
    where = house.root / "results/published"
    assert names(where / "figures") == {f"fig1.{form}" for form in ("csv", "collected.json", "pdf", "png", "made.json")}
    table = (where / "tables/tableS1.md").read_text()
    # 20 B tokens of code: full finetuning .263, rank 256 .224
    assert "0.263" in table
    assert "0.224" in table
    assert not house.manifests("runs")
    said = house.snakemake("results/published/figures/losses.pdf", ok=False)
    assert "the paper prints no numbers" in said
