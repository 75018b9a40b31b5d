"""What a figure or table says of itself follows from the study: no text of the registry names what another one has."""

import importlib
import re
from pathlib import Path

import pytest

from scripts.artifacts import draw, tables, words
from scripts.artifacts.points import read_points
from scripts.common.errors import UserError
from scripts.components.tasks import TASKS
from scripts.launch.launch import launch_by_hand
from scripts.plan.registry import OF_THE_STUDY, load_registry
from scripts.store.store import Store
from tests.artifacts import kinds
from tests.artifacts.conftest import REGISTRY, Row, base_row, footer, tuned_row, write

BRACES = re.compile(r"\{(\w*)\}")
STUDIES = ("demo", "tour", "tour-v1", "paper", "paper-v1", "released")


def rows(**of_forgetting: str) -> list[Row]:
    """A setting whose learning task is not the one that the paper has in it, and a forgetting average."""
    common = {"regime": "ift", "domain": "law", "learning_task": "gsm8k"}
    return [
        base_row("forgetting", 0.6, **of_forgetting),
        base_row("gsm8k", 0.1),
        *(tuned_row("code-cpt", "full", "64K", "forgetting", seed, **common, **of_forgetting) for seed in (0, 1)),
        *(tuned_row("code-cpt", "full", "64K", "gsm8k", seed, **common) for seed in (0, 1)),
    ]


@pytest.mark.parametrize(
    ("tasks", "averaged", "listed"),
    [
        ("hellaswag", "HellaSwag alone", "HellaSwag"),
        ("winogrande;hellaswag", "1/2 (WinoGrande + HellaSwag)", "WinoGrande and HellaSwag"),
    ],
)
@pytest.mark.parametrize("name", ["fig2", "fig3", "v1/fig3", "tableS2", "frontier", "released"])
def test_the_forgetting_average_is_the_studys(
    name: str, tasks: str, averaged: str, listed: str, tmp_path: Path
) -> None:
    artifact, csv = REGISTRY[name], write(tmp_path / "some.csv", rows(tasks=tasks))
    kind = importlib.import_module(f"scripts.artifacts.{artifact.kind}")
    if artifact.is_table:
        said = tables.markdown(kind.table(artifact, csv, "abc1234")).replace("\\", "")
        assert said.startswith("# Table S2. Forgetting in instruction finetuning on law\n")
    else:
        points = read_points(csv, artifact.needs, artifact.by_rate)
        said = footer(kind.draw(artifact, points, "abc1234"))
        subject = draw.metadata(words.of_points(artifact, points), points, "abc1234")["Subject"]
        assert (f"Mean accuracy on {listed}" in subject) == ("{forgetting}" in artifact.caption)
        assert not BRACES.search(subject)
    assert f"Forgetting average: {averaged}" in said
    assert "ARC" not in said


def test_a_csv_has_one_forgetting_average(tmp_path: Path) -> None:
    mixed = [{**row, "tasks": "hellaswag"} if row.get("seed") == 1 else row for row in rows()]
    with pytest.raises(UserError, match="tasks: must be the same for forgetting in every row"):
        read_points(write(tmp_path / "some.csv", mixed), ["forgetting"])
    with pytest.raises(UserError, match="tasks: no task is called 'hella'"):
        read_points(write(tmp_path / "some.csv", rows(tasks="hella")), ["forgetting"])


def test_the_csv_says_what_the_study_averages(tmp_path: Path) -> None:
    study = kinds.grid().study
    two = study.model_copy(
        update={"evaluation": study.evaluation.model_copy(update={"forgetting": ["winogrande", "hellaswag"]})}
    )
    made = kinds.launch(tmp_path)
    made.grid = kinds.grid_of(two)
    store: Store = made.store
    for condition in made.grid.conditions("grid"):
        if not condition.is_base:
            kinds.put(store, condition.product, {"tokens": 1000})
        for task in ("winogrande", "hellaswag"):
            kinds.put(store, condition.evaluations[task], {"value": 0.5, "stderr": 0.1, "items": 10})
    found = kinds.collected(made, "tableS2", tmp_path / "tableS2.csv")
    assert {row["tasks"] for row in found if row["metric"] == "forgetting"} == {"winogrande;hellaswag"}
    assert {row["tasks"] for row in found if row["metric"] == "hellaswag"} == {"hellaswag"}
    # the paper's average is of three tasks, and lies over no other one
    drawn = kinds.collected(made, "fig2", tmp_path / "fig2.csv")
    assert {row["source"] for row in drawn} == {"trained"}
    assert read_points(tmp_path / "fig2.csv", ["forgetting"]).averaged == ("winogrande", "hellaswag")


@pytest.mark.parametrize("study", STUDIES)
def test_every_text_can_be_said_of_every_study(study: str) -> None:
    known = launch_by_hand(study, "nowhere").grid.study
    for artifact in REGISTRY.values():
        told = words.of_study(artifact, known)
        for text in (told.title, told.caption):
            assert not BRACES.search(text), text
            assert "  " not in text
            assert not text.startswith(" ")


def test_words_of_the_study_stand_where_they_are_told() -> None:
    """A kind that reads a CSV of its own has no scores, and so no such words."""
    raw = load_registry("config/artifacts.yaml")
    shown = {name: set(BRACES.findall(f"{one.title} {one.caption}")) for name, one in raw.items()}
    assert set().union(*shown.values()) == set(OF_THE_STUDY)
    for name, found in shown.items():
        kind = importlib.import_module(f"scripts.artifacts.{raw[name].kind}")
        scores = not hasattr(kind, "read") and raw[name].kind not in ("dataset_table", "memory_table")
        assert scores or not found, name


def test_no_text_names_the_task_that_a_setting_happens_to_have() -> None:
    """What is learned is the setting's choice, and what is forgotten the study's."""
    for artifact in REGISTRY.values():
        if "learning" in artifact.needs or "forgetting" in artifact.needs:
            fixed = {need for need in artifact.needs if need in TASKS}
            fixed |= {"lambada", "hellaswag", "winograd", "winogrande"} if artifact.name == "figS2" else set()
            for task in set(TASKS) - fixed:
                assert TASKS[task].shown.label not in f"{artifact.title} {artifact.caption}", artifact.name


@pytest.mark.parametrize("text", ["{hellaswag.nothing}", "{0}", "{}", "{unknown}", "{"])
def test_what_cannot_stand_in_braces_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "artifacts.yaml"
    path.write_text(f"fig1: {{title: '{text}', caption: c, edition: v2, kind: tradeoff, needs: [learning]}}\n")
    with pytest.raises(UserError, match=r"fig1.title: .*in braces") as raised:
        load_registry(path)
    assert "\n" not in str(raised.value)
