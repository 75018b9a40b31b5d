"""What the committed studies say when they are asked for something, in a fresh checkout without data, hub or GPU."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, House, copy_checkout, counts

CONFIG = ["--config", "study=paper", "store=results/store"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(ROOT, tmp_path_factory.mktemp("studies") / "house")


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error:")]


def test_what_is_not_locked_is_planned_and_not_launched(checkout: Path) -> None:
    house = House(checkout, study="paper")
    assert house.plan("results/figures/figS10.pdf") == {
        "fetch_model": 1, "throughput": 5, "collect": 1, "draw": 1,
    }  # fmt: skip
    assert "llama-2-7b-hf.not-locked-" in house.snakemake("results/figures/figS10.pdf", "-n")
    (said,) = errors(house.snakemake("results/figures/figS10.pdf", "--cores", "1", ok=False))
    assert "model:meta-llama/Llama-2-7b-hf is not locked" in said
    assert "python -m scripts.data.lock --study paper`" in said
    assert not house.store.exists()


def test_a_dry_run_ends_with_the_plan(checkout: Path) -> None:
    """Whatever else `--quiet` leaves out; and what has been made is counted as such."""
    house = House(checkout, "plans", "smoke")
    target = "results/figures/fig2.pdf"
    quiet = house.snakemake(target, "-n", "--quiet")
    whole = quiet[quiet.index("Plan of study smoke, by stage:") :].strip()
    assert "Job stats" not in quiet
    assert "In the store: nothing of it yet." in whole
    said = house.snakemake(target, "-n", "--quiet", "host", "reason")
    assert said.strip().endswith(whole)
    made = sum(count for rule, count in counts(said).items() if rule != "all")
    assert re.search(rf"^total +{made} ", whole, re.MULTILINE)
    assert "Train the tokenizer bpe-" in said
    record = said.split("Make the records ")[1].split()[0]
    house.python("-m", "scripts.data.products", f"data/records/{record}", "--study", "smoke", "--store", "plans")
    said = house.snakemake(target, "-n", "--quiet", "progress")
    assert "In the store, and not counted: 1 jobs," in said
    assert re.search(rf"^total +{made - 1} ", said, re.MULTILINE)
    assert "Plan of study" not in house.snakemake(target, "-n", "--quiet", "all")


def test_a_budget_ends_a_dry_run_and_a_launch_before_locks_are_asked_for(checkout: Path) -> None:
    house, target = House(checkout, study="paper"), "results/figures/figS10.pdf"
    # House says study and store by `--config`, which comes last and takes more
    for words in (["-n", "--quiet"], ["--cores", "1"]):
        said = house.python("-m", "snakemake", target, *words, *CONFIG, "budget_gpu_hours=0.1", ok=False)
        (error,) = errors(said)
        assert re.fullmatch(
            r"error: the plan takes about \d+\.\d GPU-hours, budget_gpu_hours allows 0\.1; nothing was started", error
        )
        assert ("Not locked: model:meta-llama/Llama-2-7b-hf;" in said) == ("-n" in words)


@pytest.mark.thorough
def test_the_page_of_costs_is_made_anew_when_the_study_changes(checkout: Path, tmp_path: Path) -> None:
    house = House(copy_checkout(checkout, tmp_path / "house"))
    house.snakemake("plan", "--cores", "1")
    pages = [house.root / f"results/plan.{form}" for form in ("csv", "md", "html")]
    before = [path.read_text() for path in pages]
    assert "| fig2 | " in before[1]
    house.edit(lambda study: study["resources"].update(startup_seconds=800))
    assert house.plan("plan") == {"plan": 1}
    house.snakemake("plan", "--cores", "1")
    assert all(path.read_text() != text for path, text in zip(pages, before, strict=True))
    assert house.plan("results/plan.html") == {}


def test_what_needs_no_model_is_made_under_the_paper_s_study(checkout: Path) -> None:
    house = House(checkout, study="paper")
    house.snakemake("results/tables/tableS14.md", "results/tables/table1.md", "results/comparison.md", "--cores", "1")
    assert "15.12" in (house.root / "results/tables/tableS14.md").read_text()
    assert "72.97M" in (house.root / "results/tables/table1.md").read_text()
    compared = (house.root / "results/comparison.md").read_text()
    assert "0 agree, 0 differ, 279 are not run" in compared


def test_the_first_version_has_a_default_target_and_tables_without_a_model(checkout: Path) -> None:
    house = House(checkout, study="paper-v1")
    assert house.plan("all_figures")["draw"] == 16
    house.snakemake("results/v1/tables/tableS1.md", "results/v1/tables/table1.md", "--cores", "1")
    assert "15.12" in (house.root / "results/v1/tables/tableS1.md").read_text()


def test_an_artifact_of_the_other_edition_and_one_that_needs_a_judge(checkout: Path) -> None:
    (said,) = errors(House(checkout, study="paper").snakemake("results/v1/figures/fig2.pdf", "-n", ok=False))
    assert "v1/fig2 is of edition v1, study 'paper' has that of v2" in said
    (said,) = errors(House(checkout, study="tour").snakemake("results/figures/figS4.pdf", "-n", ok=False))
    assert "evaluation.tasks.mt_bench" in said


def test_the_tours_have_all_but_what_a_judge_grades(checkout: Path) -> None:
    listed = House(checkout, study="tour").python("-m", "scripts.artifacts.listing", "--study", "tour")
    lacking = [line for line in listed.splitlines() if "not here" in line and "edition v1" not in line]
    # figure S4, tables S9 and S10; both figures of a sweep and the held-out losses; `released` is of its own study
    assert len(lacking) == 7
    assert sum("judge" in line for line in lacking) == 3
    listed = House(checkout, study="tour-v1").python("-m", "scripts.artifacts.listing", "--study", "tour-v1")
    assert listed.count("results/v1/figures/") == 16
    assert listed.count("results/v1/tables/") == 3


def test_a_study_is_planned_and_made_from_another_directory(checkout: Path, tmp_path: Path) -> None:
    """The project's files are found from its root; results and store lie where Snakemake was told to work."""
    elsewhere, before = House(tmp_path, study="smoke"), set((checkout / "results").rglob("*"))
    command = ["-m", "snakemake", "-s", str(checkout / "Snakefile"), "--directory", str(tmp_path), "--cores", "1"]
    target = "results/tables/table1.md"
    said = elsewhere.python(*command, "-n", target, "results/figures/fig2.pdf", "--config", "study=smoke")
    assert "train_family" in said
    elsewhere.python(*command, target, "--config", "study=smoke")
    assert (tmp_path / target).exists()
    assert any((tmp_path / "results/store/data/rows").iterdir())
    assert set((checkout / "results").rglob("*")) == before
    assert "Nothing to be done" in elsewhere.python(*command, target, "--config", "study=smoke")


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("results/figures/fig99.pdf", "results/figures/fig"),
        ("results/figures/FIG2.pdf", "results/figures/fig2.pdf"),
        ("results/tables/fig2.md", "results/figures/fig2.pdf"),
        ("results/figures/tableS1.pdf", "results/tables/tableS1.md"),
        ("results/fig2.pdf", "results/figures/fig2.pdf"),
        ("fig2", "results/figures/fig2.pdf"),
    ],
)
def test_a_target_that_no_artifact_has_is_one_sentence(checkout: Path, target: str, near: str) -> None:
    (said,) = errors(House(checkout, study="paper").snakemake(target, "-n", ok=False))
    assert "no figure or table is made there; the nearest are" in said
    assert near in said


@pytest.mark.parametrize("store", ["results/elsewhere", "tables/store"])
def test_a_store_may_lie_where_figures_do(checkout: Path, store: str) -> None:
    assert House(checkout, store, "smoke").plan() == House(checkout, study="smoke").plan()


def test_what_the_store_has_is_not_forced_to_run(checkout: Path) -> None:
    (said,) = errors(
        House(checkout, study="smoke").snakemake("results/figures/fig2.pdf", "-R", "train_family", ok=False)
    )
    assert said.startswith("error: train_family: cannot be forced to run")
