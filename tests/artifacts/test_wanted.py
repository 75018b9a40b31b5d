"""Each rule waits for what its file lacks: nothing where the file is right, whatever Snakemake and clocks remember."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.artifacts import recipes
from scripts.artifacts.provenance import write_record
from scripts.artifacts.wanted import Request, Wanted
from scripts.common.errors import UserError
from scripts.launch.launch import RESULTS, Launch, new_launch
from scripts.plan.conditions import VALIDATION
from scripts.plan.product import Key
from scripts.store.codelock import read_code_lock
from scripts.study.load import load_study
from scripts.study.schema import Study
from tests.artifacts.conftest import REGISTRY

FIG1, FIG2, TABLE1 = REGISTRY["fig1"], REGISTRY["fig2"], REGISTRY["table1"]
RULES = ("train_run", "evaluate")


@pytest.fixture(scope="module")
def smoke() -> dict[str, Launch]:
    return {grain: new_launch("smoke", "nowhere", grain) for grain in ("condition", "family")}


@pytest.fixture
def launch(smoke: dict[str, Launch], tmp_path: Path) -> Launch:
    """With an empty store and no results."""
    return at(smoke["condition"], tmp_path)


def at(launch: Launch, place: Path) -> Launch:
    own = replace(launch, store_root=str(place / "results/store"), results=str(place / "results"))
    vars(own)["grid"] = launch.grid
    return own


def wanted(
    launch: Launch, *targets: str, forced: Collection[str] = (), all_forced: bool = False, is_head: bool = True
) -> Wanted:
    groups = {"all_figures": [file for artifact in (FIG1, FIG2) for file in artifact.files(launch.results)]}
    request = Request(targets, forced, all_forced)
    return Wanted(launch, REGISTRY, groups, RULES, lambda: request, is_head=is_head)


def make(launch: Launch, *keys: str) -> None:
    for key in keys:
        launch.store.make(launch.grid.products[key], lambda out: {"value": 0.5}, {})


def scores(launch: Launch) -> list[Key]:
    """What figure 2 is made of."""
    return FIG2.measurements(launch.grid, launch.store.is_made)


def manifests(launch: Launch, keys: Collection[Key]) -> list[str]:
    return [f"{launch.results}/store/{key}.json" for key in keys]


def write(recipe: str, *files: str) -> None:
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(f"{recipe} {file}\n")
    write_record(recipe, *map(Path, files))


def collect(launch: Launch) -> str:
    csv = FIG2.csv(launch.results)
    write(recipes.of_csv(launch, FIG2, launch.store.is_made), csv)
    return csv


def draw(launch: Launch) -> list[str]:
    files = FIG2.files(launch.results)
    write(recipes.of_drawing(FIG2, Path(FIG2.csv(launch.results))), *files)
    return files


def notes(launch: Launch, *files: str) -> list[str]:
    return [f"{launch.results}/.stale{file}/note" for file in files]


# -- CSV and drawing


def test_nothing_is_there(launch: Launch) -> None:
    ask = wanted(launch, *FIG2.files(launch.results))
    assert ask.drawing(FIG2, printed=False) == [FIG2.csv(launch.results)]
    assert ask.csv(FIG2) == manifests(launch, sorted(set(scores(launch))))


def test_what_is_made_is_no_input(launch: Launch) -> None:
    first, *rest = sorted(set(scores(launch)))
    make(launch, first)
    assert wanted(launch).csv(FIG2) == manifests(launch, rest)
    run = next(key for key in launch.grid.products[rest[0]].inputs if key.kind in ("run", "model"))
    assert f"{launch.results}/store/{run}.json" in wanted(launch).product(rest[0])
    assert wanted(launch).product(first) == []


def test_what_is_right_waits_for_nothing(launch: Launch) -> None:
    csv = collect(launch)
    files = draw(launch)
    for time in (1, 2**31):  # whatever the clock says
        for file in (csv, *files):
            os.utime(file, (time, time))
        ask = wanted(launch, *files)
        assert ask.csv(FIG2) == []
        assert ask.drawing(FIG2, printed=False) == []
    assert not Path(f"{launch.results}/.stale").exists()


@pytest.mark.parametrize("what", ["edited", "of another study", "without record"])
def test_a_csv_that_is_not_right_gets_a_note_and_what_is_missing(launch: Launch, what: str) -> None:
    csv = collect(launch)
    draw(launch)
    if what == "edited":
        Path(csv).write_text("edited\n")
    elif what == "of another study":
        launch.study["title"] = "Another"
    else:
        Path(csv).with_suffix(".collected.json").unlink()
    try:
        ask = wanted(launch)
        assert ask.csv(FIG2) == [*notes(launch, csv), *manifests(launch, sorted(set(scores(launch))))]
        assert Path(csv).stat().st_mtime < Path(*notes(launch, csv)).stat().st_mtime
        # what is drawn from it waits for it
        assert ask.drawing(FIG2, printed=False)[-1] == csv
    finally:
        launch.study["title"] = launch.grid.study.title


def test_a_drawing_of_another_csv_is_drawn_anew_and_nothing_is_collected(launch: Launch) -> None:
    files = (collect(launch), draw(launch))[1]
    Path(files[1]).write_text("edited\n")
    ask = wanted(launch)
    assert ask.csv(FIG2) == []
    assert ask.drawing(FIG2, printed=False) == notes(launch, *files)


def test_a_job_writes_no_note(launch: Launch) -> None:
    csv = collect(launch)
    Path(csv).write_text("edited\n")
    before = Path(csv).stat().st_mtime_ns
    assert wanted(launch, is_head=False).csv(FIG2)[:1] == notes(launch, csv)
    assert Path(csv).stat().st_mtime_ns == before
    assert not Path(f"{launch.results}/.stale").exists()


def test_the_decision_is_taken_once(launch: Launch) -> None:
    """A CSV that a job has written by the time the head asks again is not made to look old."""
    ask = wanted(launch)
    first = ask.csv(FIG2)
    make(launch, *set(scores(launch)))
    collect(launch)
    assert ask.csv(FIG2) == first


def test_at_family_grain_families_are_waited_for(smoke: dict[str, Launch], tmp_path: Path) -> None:
    launch = at(smoke["family"], tmp_path)
    found = wanted(launch).csv(FIG2)
    assert found
    assert all("/store/families/evaluated/" in file for file in found)


def test_the_papers_numbers(launch: Launch) -> None:
    csv = FIG1.csv(f"{launch.results}/published")
    assert wanted(launch).printed(FIG1) == []
    assert wanted(launch).drawing(FIG1, printed=True) == [csv]
    write("an older recipe", csv)
    assert wanted(launch).printed(FIG1) == notes(launch, csv)
    write(recipes.of_printed(FIG1), csv)
    ask = wanted(launch)
    assert ask.printed(FIG1) == []
    assert ask.drawing(FIG1, printed=True) == []


# -- pages


def test_rates_and_claims(launch: Launch) -> None:
    rates = f"{launch.results}/learning_rates.yaml"
    validated = [condition.evaluations[VALIDATION] for condition in launch.grid.blocks["sweep"]]
    assert wanted(launch).rates() == manifests(launch, sorted(set(validated)))
    write(recipes.of_rates(launch), rates)
    assert wanted(launch).rates() == []
    claims = [f"{launch.results}/claims.{form}" for form in ("csv", "md")]
    assert set(manifests(launch, scores(launch))) < set(wanted(launch).claims())
    write(recipes.of_claims(launch), *claims)
    assert wanted(launch).claims() == []
    Path(claims[1]).write_text("edited\n")
    assert wanted(launch).claims()[:2] == notes(launch, *claims)


def test_by_losses_the_rates_and_their_figure_wait_for_these(tmp_path: Path) -> None:
    smoke = load_study("smoke").model_dump(mode="json", exclude_unset=True) | {"grain": "condition"}
    smoke["sweep"] = {"rule": "lowest_held_out_loss", "seeds": [0]}
    study = Study.model_validate(smoke).model_dump(mode="json")
    launch = at(Launch("smoke", study, read_code_lock(), {}, "nowhere", os.getpid()), tmp_path)
    losses = {condition.evaluations["target_loss"] for condition in launch.grid.blocks["sweep"]}
    assert wanted(launch).rates() == manifests(launch, sorted(losses))
    (base,) = launch.grid.blocks["base"]
    levels = {key for label, key in base.evaluations.items() if label.startswith("target_loss")}
    assert wanted(launch).csv(REGISTRY["sweep"]) == manifests(launch, sorted(losses | levels))
    scores = next(condition.evaluations["humaneval"] for condition in launch.grid.blocks["sweep"])
    assert scores not in losses


def test_the_comparison_waits_for_what_the_same_launch_evaluates(launch: Launch) -> None:
    files = [f"{launch.results}/comparison.{form}" for form in ("csv", "md", "pdf")]
    assert wanted(launch, *files).comparison() == []
    together = wanted(launch, *files, *FIG2.files(launch.results)).comparison()
    assert together == manifests(launch, sorted(set(scores(launch))))
    assert set(wanted(launch, files[0], "all_figures").comparison()) > set(together)
    first = scores(launch)[0]
    assert wanted(launch, files[0], *manifests(launch, [first])).comparison() == manifests(launch, [first])
    # right for what is there, and not for what comes
    write(recipes.of_comparison(launch, launch.store.is_made), *files)
    assert wanted(launch, *files).comparison() == []
    assert wanted(launch, files[0], *FIG2.files(launch.results)).comparison() == [*notes(launch, *files), *together]


def test_at_family_grain_the_comparison_waits_for_families(smoke: dict[str, Launch], tmp_path: Path) -> None:
    launch = at(smoke["family"], tmp_path)
    together = wanted(launch, f"{launch.results}/comparison.md", *FIG2.files(launch.results)).comparison()
    assert together == wanted(launch).csv(FIG2)


def test_the_contact_sheet(launch: Launch) -> None:
    sheet, picture = f"{launch.results}/contact_sheet.png", FIG2.files(launch.results)[1]
    assert wanted(launch).contact_sheet([FIG2]) == [picture]
    collect(launch)
    draw(launch)
    assert wanted(launch).contact_sheet([FIG2]) == []
    write(recipes.of_contact_sheet([Path(picture)]), sheet)
    assert wanted(launch).contact_sheet([FIG2]) == []
    Path(picture).write_text("edited\n")
    assert wanted(launch).contact_sheet([FIG2]) == [*notes(launch, sheet), picture]


def test_what_a_study_cannot_have_is_one_sentence(launch: Launch) -> None:
    with pytest.raises(UserError, match=r"does not measure|has no block"):
        wanted(launch).csv(REGISTRY["fig5"])


# -- forced


def test_files_are_forced_by_name_by_rule_and_all(launch: Launch) -> None:
    csv, files = collect(launch), draw(launch)
    assert wanted(launch, forced=[csv]).csv(FIG2)[:1] == notes(launch, csv)
    assert wanted(launch, forced=["collect"]).csv(FIG2)[:1] == notes(launch, csv)
    assert wanted(launch, forced=["draw"]).csv(FIG2) == []
    assert wanted(launch, forced=["draw"]).drawing(FIG2, printed=False) == notes(launch, *files)
    assert wanted(launch, forced=[files[0]]).drawing(FIG2, printed=False) == notes(launch, *files)
    both = wanted(launch, all_forced=True)
    assert both.csv(FIG2)[:1] == notes(launch, csv)
    assert both.drawing(FIG2, printed=False) == [*notes(launch, *files), csv]


@pytest.mark.parametrize("how", ["rule", "file"])
def test_what_the_store_has_is_not_forced(launch: Launch, how: str) -> None:
    key = scores(launch)[0]
    name = "evaluate" if how == "rule" else manifests(launch, [key])[0]
    for ask in (lambda w: w.csv(FIG2), lambda w: w.product(key), lambda w: w.drawing(FIG2, printed=False)):
        with pytest.raises(UserError) as raised:
            ask(wanted(launch, forced=[name]))
        assert str(raised.value) == (
            f"{name}: cannot be forced to run, as what the store has is only made where it is missing; "
            f"to have one made anew, delete its manifest and its directory in {launch.store_root}"
        )


def test_forcing_everything_makes_no_product_again(launch: Launch) -> None:
    make(launch, *set(scores(launch)))
    ask = wanted(launch, all_forced=True)
    assert ask.csv(FIG2) == []
    assert ask.product(scores(launch)[0]) == []


# -- unknown


def refusal(launch: Launch, target: str) -> str:
    with pytest.raises(UserError) as raised:
        wanted(launch).unknown(target)
    return str(raised.value)


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ("results/figures/fig22.pdf", "results/figures/fig2.pdf"),
        ("results/figures/Fig2.pdf", "results/figures/fig2.pdf"),
        ("results/tables/fig2.pdf", "results/figures/fig2.pdf"),
        ("figures/tableS2.md", "results/tables/tableS2.md"),
        ("fig2", "results/figures/fig2.pdf"),
        ("results/v1/figures/fgi3.png", "results/v1/figures/fig3.png"),
    ],
)
def test_an_unknown_target_names_the_nearest(smoke: dict[str, Launch], target: str, nearest: str) -> None:
    assert smoke["condition"].results == RESULTS
    said = refusal(smoke["condition"], target)
    assert said.startswith(f"{target}: no figure or table is made there; the nearest are ")
    names = said.partition("nearest are ")[2].partition(" (all: config/artifacts.yaml)")[0].split(", ")
    assert len(names) == 3
    assert nearest in names


def test_a_study_by_name_and_whichever_is_asked_for_are_two_commands(smoke: dict[str, Launch]) -> None:
    own: Any = replace(smoke["condition"], results=f"{RESULTS}/studies/smoke")
    vars(own)["grid"] = smoke["condition"].grid
    assert refusal(own, "results/figures/fig2.pdf") == (
        "results/figures/fig2.pdf: stands for whichever study is asked for, and results/studies/smoke/ for one; "
        "ask for them in two commands"
    )
    said = refusal(own, "results/studies/smoke/figures/fig22.pdf")
    assert "no figure or table is made there; the nearest are results/studies/smoke/figures/fig2" in said
