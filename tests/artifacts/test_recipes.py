"""What makes a file with a plain name anew: all that can show in it, and nothing else."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.artifacts import recipes
from scripts.artifacts.counterparts import _models
from scripts.launch.launch import Launch
from scripts.plan.registry import Artifact
from scripts.store.fingerprint import canonical
from scripts.study.schema import Resources, Study
from tests.artifacts.conftest import REGISTRY, ROOT

SMOKE = yaml.safe_load((ROOT / "config/studies/smoke.yaml").read_text()) | {"main": {"methods": ["full", "lora-r2"]}}
FIG2 = REGISTRY["fig2"].model_copy(update={"edition": "beyond the paper"})  # any study may have it
Change = Callable[[dict[str, Any]], Any]


def nothing(study: dict[str, Any]) -> None:
    pass


def launch(change: Change = nothing, name: str = "smoke") -> Launch:
    study = copy.deepcopy(SMOKE)
    change(study)
    code = {version: {"version": 1} for version in ("data", "pretrainer", "trainer", "evaluation", "spectra")}
    return Launch(name, Study.model_validate(study).model_dump(mode="json"), code, {}, "nowhere", os.getpid())


def all_made(key: str) -> bool:
    return True


def recipe_of(what: str, of: Launch) -> str:
    if what == "claims":
        return recipes.of_claims(of)
    if what == "comparison":
        return recipes.of_comparison(of, all_made)
    if what == "rates":
        return recipes.of_rates(of)
    return recipes.of_csv(of, FIG2 if what == "fig2" else REGISTRY[what], all_made)


KINDS = ("fig2", "tableS2", "table1", "claims", "comparison", "rates")
BEFORE = {what: recipe_of(what, launch()) for what in KINDS}
SHOWN = set(KINDS)
"""The forgetting of all settings, and of code CPT; the data; learning and forgetting; all; the sweep's validation."""
NEW_DATASET = {"source": "generated", "generator": "math-instructions", "records": 3}
CELL = {"setting": "math-ift", "methods": ["full"], "durations": [4]}


def with_a_shot(study: dict[str, Any]) -> None:
    study["datasets"]["shots"] = {"source": "generated", "generator": "hellaswag", "records": 3, "split": "validation"}
    study["evaluation"]["tasks"]["hellaswag"].update(shots=1, shots_from="shots")


# key of a study, a change, what has to be made anew, what must not be: the rest may, which costs a second
CHANGES: list[tuple[str, Change, set[str], set[str]]] = [
    ("title", lambda s: s.update(title="Another"), SHOWN, set()),
    ("grain", lambda s: s.update(grain="condition"), set(), SHOWN),
    ("seeds", lambda s: s.update(seeds=[0, 1]), SHOWN - {"rates"}, set()),
    ("data_seed", lambda s: s.update(data_seed=1), SHOWN, set()),
    ("precision", lambda s: s.update(precision="bf16"), SHOWN - {"table1"}, set()),
    ("datasets", lambda s: s["datasets"]["code-documents"].update(records=151), SHOWN, set()),
    ("datasets", lambda s: s["datasets"].update(unused=NEW_DATASET), set(), SHOWN - {"comparison", "table1"}),
    ("datasets", lambda s: s["datasets"]["gsm8k-validation"].update(records=8),
     {"rates"}, {"fig2", "tableS2", "claims"}),
    ("model", lambda s: s["model"].update(label="smaller"), SHOWN, set()),
    ("bos", lambda s: s.update(bos="none"), set(), SHOWN),  # a tokenizer that is made here puts nothing before a text
    ("join", lambda s: s.update(join="together"), {"fig2", "claims", "comparison"}, set()),
    ("contamination", lambda s: s.update(contamination="drop"), set(), SHOWN),  # made-here data is not compared
    ("optimizer", lambda s: s["optimizer"].update(clip_norm=2.0), SHOWN - {"table1"}, set()),
    ("settings", lambda s: s["settings"]["code-cpt"].update(label="Programs", domain="programs"), SHOWN, set()),
    ("settings", lambda s: s["settings"]["math-ift"].update(label="Sums"), SHOWN - {"tableS2"}, {"tableS2"}),
    ("settings", lambda s: s["settings"]["math-ift"]["learning_rates"].update(full=1e-3),
     {"fig2", "claims", "comparison"}, {"tableS2", "table1", "rates"}),
    ("settings", lambda s: s["settings"]["math-ift"]["sweep"].update(duration=2),
     {"rates", "comparison"}, {"fig2", "tableS2", "table1", "claims"}),
    ("methods", lambda s: s["methods"]["lora-r2"].update(alpha=2.0), SHOWN - {"table1"}, set()),
    ("methods", lambda s: s["methods"].update(unused={"kind": "lora", "rank": 1, "alpha": 1.0}),
     set(), {"fig2", "tableS2", "claims", "rates"}),
    ("evaluation", lambda s: s["evaluation"]["tasks"]["humaneval"].update(samples=3),
     {"claims", "comparison", "rates"}, {"fig2", "tableS2"}),
    ("evaluation", with_a_shot,
     {"fig2", "tableS2", "claims", "comparison"}, {"rates"}),
    ("evaluation", lambda s: s["evaluation"].update(seed=1), SHOWN - {"table1"}, set()),
    ("main", lambda s: s.update(main={"methods": ["full"]}), {"fig2", "tableS2", "claims"}, set()),
    ("blocks", lambda s: s.update(blocks={"alpha-tokens": {"cells": [CELL]}}), {"comparison"}, SHOWN - {"comparison"}),
    ("sweep", lambda s: s["sweep"].update(seeds=[0, 1]), {"rates"}, SHOWN - {"rates", "comparison"}),
    ("overlay", lambda s: s.update(overlay=True), {"fig2"}, set()),
]  # fmt: skip


OTHERWISE = {"edition", "spectra", "throughput", "resources", "scale"}
"""Decides which files a study has; is in the products of figures that none of these is; see the next test; follows from
the datasets."""


def test_what_shows_losses_says_whether_they_decide() -> None:
    def by_losses(study: dict[str, Any]) -> None:
        study["sweep"] = {"rule": "lowest_held_out_loss", "seeds": [0]}

    before, after = ({name: recipe_of(name, launch(change)) for name in ("losses", "fig2", "tableS2")}
                     for change in (nothing, by_losses))  # fmt: skip
    assert {name for name in before if before[name] != after[name]} == {"losses"}


def test_every_key_of_a_study_is_changed_here() -> None:
    assert {key for key, *_ in CHANGES} == set(Study.model_fields) - OTHERWISE


@pytest.mark.parametrize(("key", "change", "moves", "stays"), CHANGES)
def test_what_of_a_study_makes_a_file_anew(key: str, change: Change, moves: set[str], stays: set[str]) -> None:
    changed = launch(change)
    assert changed.study[key] != launch().study[key] or key == "datasets"
    moved = {what for what in KINDS if recipe_of(what, changed) != BEFORE[what]}
    assert moves <= moved
    assert not stays & moved


@pytest.mark.parametrize("key", Resources.model_fields)
def test_how_jobs_run_makes_nothing_anew(key: str) -> None:
    changed = launch()
    assert changed.grid
    changed.study["resources"][key] = "another"
    assert {what: recipe_of(what, changed) for what in KINDS} == BEFORE


def test_another_name_of_the_study_shows() -> None:
    named = launch(name="other")
    assert not [what for what in KINDS if recipe_of(what, named) == BEFORE[what]]


def test_a_job_records_what_its_head_compares() -> None:
    """A job has the launch in its frozen form, whose keys are sorted."""
    frozen = Launch(**json.loads(canonical(asdict(launch()))))
    assert {what: recipe_of(what, frozen) for what in KINDS} == BEFORE


def test_the_comparison_is_of_what_is_made() -> None:
    score = next(product.key for product in launch().grid if product.kind == "evaluation")
    recipe = recipes.of_comparison(launch(), lambda key: key == score)
    assert recipe != BEFORE["comparison"]
    assert recipe != recipes.of_comparison(launch(), lambda key: False)


def test_the_comparison_is_of_the_blocks_too() -> None:
    """A model that was only the sweep's, and all that a block measures of it, make no new product; it is compared."""

    def sweep_alone(study: dict[str, Any]) -> None:
        study["settings"]["code-cpt"]["durations"] = [5120]

    def shown_too(study: dict[str, Any]) -> None:
        sweep_alone(study)
        cell = {"setting": "code-cpt", "methods": ["full"], "durations": [2560], "learning_rates": [4e-4]}
        study["blocks"] = {"alpha-tokens": {"cells": [cell], "measures": ["learning"]}}

    before, after = launch(sweep_alone), launch(shown_too)
    assert set(before.evaluated(all_made)) == set(after.evaluated(all_made))
    assert len(_models(before)) < len(_models(after))
    assert recipe_of("comparison", before) != recipe_of("comparison", after)


def test_table_1_is_of_the_data_from_outside_that_are_prepared() -> None:
    def fetched(study: dict[str, Any]) -> None:
        study["datasets"]["code-documents"] = {
            "source": "hub", "repository": "of/code", "files": ["a.jsonl"], "columns": {"text": "content"},
        }  # fmt: skip

    of = launch(fetched)
    prepared = recipes.of_csv(of, REGISTRY["table1"], all_made)
    assert prepared != recipes.of_csv(of, REGISTRY["table1"], lambda key: False)


# -- modules, numbers that the project brings along, the registry's entry


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a file of the project count as edited."""
    real, names = recipes._sha256, set[str]()

    def sha256(path: Path) -> str:
        assert path.is_file(), path
        return "another" if path.as_posix().endswith(tuple(names)) else real(path)

    monkeypatch.setattr(recipes, "_sha256", sha256)

    def edit(name: str) -> None:
        names.clear()
        names.add(name)

    return edit


def drawn(tmp_path: Path, artifact: Artifact = FIG2, text: str = "a,b\n1,2\n") -> str:
    csv = tmp_path / f"{artifact.name}.csv"
    csv.write_text(text)
    return recipes.of_drawing(artifact, csv)


CODE = {
    "scripts/artifacts/collect.py": {"fig2"},
    "scripts/artifacts/points.py": {"fig2", "claims", "comparison", "printed", "drawing"},
    "scripts/evaluation/scores.py": {"fig2", "claims", "comparison"},
    "scripts/artifacts/paper_claims.py": {"claims"},
    "scripts/artifacts/learning_rates.py": {"rates"},
    "scripts/artifacts/style.py": {"comparison", "drawing"},
    "scripts/artifacts/draw.py": {"drawing"},
    f"scripts/artifacts/{FIG2.kind}.py": {"drawing"},
    "scripts/artifacts/tradeoff.py": set(),
    "scripts/artifacts/recipes.py": set(),
    "scripts/training/loop.py": set(),
    "config/published_values.csv": {"comparison", "printed"},
}
"""A file to what an edit of it makes anew; `points` is read by whatever writes or reads a CSV of scores."""


@pytest.mark.parametrize("file", CODE)
def test_which_files_of_the_project_make_what_anew(file: str, edited: Callable[[str], None], tmp_path: Path) -> None:
    def found() -> dict[str, str]:
        of = {what: recipe_of(what, launch()) for what in ("fig2", "claims", "comparison", "rates")}
        return of | {"printed": recipes.of_printed(FIG2), "drawing": drawn(tmp_path)}

    before = found()
    assert (ROOT / file).is_file()
    edited(file)
    after = found()
    assert {what for what in before if after[what] != before[what]} == CODE[file]


def test_an_overlay_is_of_the_papers_numbers(edited: Callable[[str], None]) -> None:
    over = launch(lambda s: s.update(overlay=True))
    before = [recipe_of(what, over) for what in ("fig2", "tableS2")]
    edited("config/published_values.csv")
    after = [recipe_of(what, over) for what in ("fig2", "tableS2")]
    assert after[0] != before[0]
    assert after[1] == before[1], "a table has none"


def test_a_drawing_is_of_the_bytes_of_its_csv_and_of_no_timestamp(tmp_path: Path) -> None:
    before = drawn(tmp_path)
    os.utime(tmp_path / "fig2.csv", (1, 1))
    assert recipes.of_drawing(FIG2, tmp_path / "fig2.csv") == before
    assert drawn(tmp_path, text="a,b\n1,3\n") != before
    assert drawn(tmp_path) == before
    (tmp_path / "fig2.csv").unlink()
    assert recipes.of_drawing(FIG2, tmp_path / "fig2.csv") != before


ENTRY: list[tuple[dict[str, Any], bool]] = [
    ({"title": "Another"}, False),
    ({"caption": "Another"}, False),
    ({"edition": "v2"}, False),
    ({"options": {"one": "two"}}, False),
    ({"by_rate": True}, True),
    ({"setting": "code-cpt"}, True),
    ({"needs": ("learning",)}, True),
    ({"kind": "tradeoff"}, True),
    ({"name": "fig9"}, True),
    ({"block": "sweep"}, True),
]


@pytest.mark.parametrize(("update", "in_csv"), ENTRY)
def test_the_registrys_entry(update: dict[str, Any], in_csv: bool, tmp_path: Path) -> None:
    """All of it shows in a drawing, and in a CSV what says which numbers stand there."""
    changed = FIG2.model_copy(update=update)
    (tmp_path / "it.csv").write_text("a\n")
    assert recipes.of_drawing(changed, tmp_path / "it.csv") != recipes.of_drawing(FIG2, tmp_path / "it.csv")
    assert (recipes.of_csv(launch(), changed, all_made) != BEFORE["fig2"]) == in_csv


def test_each_key_of_the_registry_is_changed_here() -> None:
    assert {key for update, _ in ENTRY for key in update} == set(Artifact.model_fields)


def test_the_contact_sheet_is_of_its_pictures_in_their_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    before = recipes.of_contact_sheet([one, two])
    assert recipes.of_contact_sheet([two, one]) != before
    two.write_bytes(b"3")
    assert recipes.of_contact_sheet([one, two]) != before
