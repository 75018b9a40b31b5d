"""What each figure and table costs: the shares add up, and what trunks save is what they do not train twice."""

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.launch.launch import Launch, launch_by_hand, new_launch
from scripts.launch.missing import Missing
from scripts.planning import page
from scripts.planning.page import AFTER, ALONE, SCRATCH, TRUNK, page_of
from scripts.planning.table import NOTHING


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return launch_by_hand("paper", str(tmp_path_factory.mktemp("paper")))


@pytest.fixture(scope="module")
def of_paper(paper: Launch) -> page.Page:
    return page_of(paper)


def test_a_figure_alone_and_after_the_others(of_paper: page.Page) -> None:
    """Figure 3 shows what figures 1 and 2 have; table S1 a fourth of what figure 1 trains."""
    alone, after = of_paper.of("artifact", ALONE), of_paper.of("artifact", AFTER)
    assert alone["fig1"] == after["fig1"]
    assert after["fig3"] == NOTHING
    assert alone["fig3"].jobs > alone["fig2"].jobs > alone["fig1"].jobs > 0
    # the jobs of tests/end_to_end/paper_plans.csv, less those that collect and draw
    with Path("tests/end_to_end/paper_plans.csv").open() as file:
        golden = [row for row in csv.DictReader(file) if row["study"] == "paper"]
    drawn = ("collect", "draw", "tabulate", "claims", "comparison", "all")
    for name in alone.keys() - {"table1"}:  # it shows what data are there, and in the golden table all of them are
        jobs = sum(int(row["jobs"]) for row in golden if row["artifact"] == name and row["rule"] not in drawn)
        assert alone[name].jobs == jobs, name
        assert after[name].jobs <= jobs
    whole = sum(int(row["jobs"]) for row in golden if row["artifact"] == "all" and row["rule"] not in drawn)
    assert sum(cost.jobs for cost in after.values()) == whole


def test_trunks_save_the_tokens_that_no_branch_trains_again(of_paper: page.Page) -> None:
    """Eight durations from scratch are 51.75B tokens; a trunk trains 12.8B and its branches what is left to them."""
    shared, scratch = of_paper.of("setting", TRUNK), of_paper.of("setting", SCRATCH)
    batch = 192 * 4096
    batches = [round(tokens / batch) for tokens in (0.25e9, 0.5e9, 1e9, 2e9, 4e9, 8e9, 16e9, 20e9)]
    ends = [254 * 2**power for power in range(7)]
    branches = sum(end - max(leg for leg in ends if leg <= end - round(0.2 * end)) for end in batches)
    assert scratch["code-cpt"].tokens == 4 * batch * sum(batches)
    assert shared["code-cpt"].tokens == 4 * batch * (ends[-1] + branches)
    saved = 1 - shared["code-cpt"].gpu_hours / scratch["code-cpt"].gpu_hours
    assert saved == pytest.approx(1 - shared["code-cpt"].tokens / scratch["code-cpt"].tokens, abs=0.01)
    assert set(shared) == {"code-cpt", "math-cpt", "chat-ift"}


@pytest.mark.parametrize("grain", ["condition", "family"])
def test_the_shares_are_all_that_the_study_takes(tmp_path: Path, grain: str) -> None:
    launch = new_launch("smoke", str(tmp_path), grain)
    found = page_of(launch)
    nothing = Missing(launch.grid, ())
    jobs = {
        job
        for artifact in (page.load_registry(page.REGISTRY)[name] for name in found.titles)
        for job in nothing.behind(nothing.jobs(artifact.block, artifact.measurements(launch.grid, lambda key: True)))
    }
    assert sum(cost.jobs for cost in found.of("artifact", AFTER).values()) == len(jobs)


class Cells(HTMLParser):
    """The words of a page's cells, and whatever it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += [data.strip()] if data.strip() else []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("page")
    launch = new_launch("smoke", str(out / "store"))
    page.main(launch, *(out / f"plan.{form}" for form in ("csv", "md", "html")))
    return {form: (out / f"plan.{form}").read_text() for form in ("csv", "md", "html")}


def test_the_three_files_say_the_same(files: dict[str, str]) -> None:
    rows = list(csv.DictReader(files["csv"].splitlines()))
    assert list(rows[0]) == list(page.COLUMNS)
    by_name = {row["name"]: row for row in rows if row["counted"] == ALONE}
    markdown = dict(re.findall(r"^\| (\w+) \| [^|]+ \| ([\d,]+) \|", files["md"], re.MULTILINE))
    assert {name: int(jobs) for name, jobs in markdown.items()} == {n: int(row["jobs"]) for n, row in by_name.items()}
    read = Cells()
    read.feed(files["html"])
    assert not read.fetched
    for cell in re.findall(r"\| ([^|]+) (?=\|)", files["md"]):
        if not set(cell.strip()) <= {"-"}:
            assert cell.strip() in read.words
    assert sum(float(row["tokens"]) for row in rows if row["counted"] == AFTER) > 0


def test_a_figure_whose_rates_are_not_chosen_is_named(tmp_path: Path) -> None:
    launch = new_launch("smoke", str(tmp_path))
    settings = {
        name: setting | ({"learning_rates": {}} if name == "math-ift" else {})
        for name, setting in launch.study["settings"].items()
    }
    found = page_of(replace(launch, study=launch.study | {"settings": settings}))
    assert "has no learning rate for" in found.not_counted["fig2"]
    assert "fig2 is not counted: settings.math-ift" in page.markdown(found, page._sections(found))
