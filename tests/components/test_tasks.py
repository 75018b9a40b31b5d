"""What every task has to say of itself, with its real task file and items as the generators make them."""

import json
import re
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from pydantic import ValidationError

from scripts.common.errors import UserError
from scripts.components.asking.answers import Conversations, Programs, Scored, by_item
from scripts.components.measures import MEASURES, SHOWN
from scripts.components.tasks import AVERAGE, BENCHMARKS, COMPOSITE, TASKS, Given, Task
from scripts.components.tasks.humaneval import HumanEval
from scripts.data.generators import GENERATORS
from scripts.evaluation.tasks import TASK_FILES
from scripts.study.load import load_study
from scripts.study.schema import Study, Tasks
from tests.evaluation.conftest import write_records

ITEMS = 48
GENERATOR = {"pass_at_k": "humaneval", "source_loss": "code-documents", "target_loss": "code-instructions"}
"""Of the tasks whose generator has another name."""
EACH = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
OTHER_FORMS: dict[str, dict[str, Any]] = {
    "texts": {"answers": "texts"},
    "gauntlet": {"form": "gauntlet"},
    "lm-eval": {"preset": "lm-eval"},
}
"""Settings that a task may have beside those of `settings`, and with which another file asks it."""


class AnyLM(LM):  # type: ignore[misc]
    """Answers whatever it is asked."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [(-float(len(continuation)), False) for _, continuation in (request.args for request in requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [-float(len(request.args[0])) for request in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return ["    return 1\n#### 1" for _ in requests]


def settings(task: Task) -> dict[str, Any]:
    return {"task": task.name, "shots": 0, "samples": 4}


@pytest.fixture
def records(task: Task, tmp_path: Path) -> Path:
    generator = GENERATOR.get(task.name, task.name.replace("_", "-"))
    return write_records(tmp_path, {task.name: list(GENERATORS[generator](ITEMS, 0, "test"))})[task.name]


def asked(file: str, records: Path) -> Any:
    """The task of lm-eval."""
    manager = TaskManager(include_path=str(TASK_FILES), include_defaults=False)
    member = {"task": file, "dataset_kwargs": {"test": str(records)}}
    (loaded,) = manager.load([{"group": "study", "task": [member]}])["tasks"].values()
    return loaded


def test_a_study_can_ask_every_task_but_the_losses() -> None:
    assert set(Tasks.model_fields) == set(BENCHMARKS) == TASKS.keys() - {"source_loss", "target_loss"}
    assert not any(key.is_required() for key in Tasks.model_fields.values())
    assert {"humaneval", "gsm8k", *AVERAGE} <= {name for name, task in TASKS.items() if task.measures}


@EACH
def test_figures_and_tables_can_show_it(task: Task) -> None:
    assert task.name == task.name.lower()
    assert task.shown.label.strip()
    assert task.shown.axis.strip()
    assert task.shown.least < task.shown.most


def test_no_two_look_alike() -> None:
    for texts in ([shown.label for shown in SHOWN.values()], [shown.axis for shown in SHOWN.values()]):
        assert len(set(texts)) == len(texts)


@EACH
def test_lm_eval_loads_its_file_and_its_answers_become_samples(task: Task, records: Path) -> None:
    metrics, file = task.metrics_of(settings(task)), task.file_of(settings(task), records)
    if isinstance(task.answers, Conversations):
        assert file is None
        return
    assert file is not None
    loaded = asked(file, records)
    logged = by_item(lm_eval.evaluate(AnyLM(), {"tasks": {task.name: loaded}}, bootstrap_iters=0)["samples"][task.name])
    assert len(logged) == ITEMS
    rising = {str(metric["metric"]): metric["higher_is_better"] for metric in loaded.config.metric_list}
    if isinstance(task.answers, Programs):
        assert metrics[0] == "pass@1"
        for item in logged:
            (programs,) = item["filtered_resps"]
            assert programs == ["return 1" in program and program for program in programs]
            compile(item["target"], "check", "exec")
        return
    assert isinstance(task.answers, Scored)
    assert metrics
    assert metrics[0] in rising
    assert all(rising[metric] is not task.shown.lower_is_better for metric in metrics if metric in rising)
    for number, item in enumerate(logged):
        sample = task.answers.sample(item, metrics)
        assert json.loads(json.dumps(sample)) == sample
        assert sample["item"] == number
        requests = [("", *request) if len(request) == 1 else request for request in item["arguments"]]
        if not task.writes:
            assert list(zip(sample["prompts"], sample["completions"], strict=True)) == requests
        if metrics == ("bits_per_byte",):
            assert sample["bytes"] >= -sample["loglikelihood"] > 0, "AnyLM says one nat for each character"
        else:
            assert all(sample[metric] in (0.0, 1.0) for metric in metrics)


@EACH
def test_generated_records_pass_its_check(task: Task, records: Path) -> None:
    if task.check:
        task.check(
            Given(
                settings=settings(task),
                records=records,
                shots=None,
                tokenizer=records.parent,
                positions=100,
                longest=lambda pairs: max(len(response.split()) for _, response in pairs),
                lengths=lambda prompts: [len(prompt.split()) for prompt in prompts],
            )
        )


def test_every_task_file_is_asked(tmp_path: Path) -> None:
    lines = {"documents": [{"text": "a"}], "instructions": [{"instruction": "a", "response": "b"}]}
    paths = write_records(tmp_path, lines).values()
    found = {
        task.file_of(settings(task) | more, path)
        for task in BENCHMARKS.values()
        for more in ({}, *OTHER_FORMS.values())
        for path in paths
    }
    found |= {TASKS["target_loss"].file_of({}, path) for path in paths}
    assert found - {None} == {path.stem for path in TASK_FILES.glob("*.yaml")}
    for path in TASK_FILES.glob("*.yaml"):
        functions = path.read_text().replace("!function ", "")
        assert yaml.safe_load(functions)["task"] == path.stem, "lm-eval finds it by its name"


def test_records_without_a_loss_are_no_documents(tmp_path: Path) -> None:
    path = write_records(tmp_path, {"documents": [{"text": 1}]})["documents"]
    with pytest.raises(UserError, match="the records of source_loss must all have"):
        TASKS["source_loss"].file_of({"task": "source_loss"}, path)


@pytest.mark.parametrize(("task", "key"), [("gsm8k", "settings.math-"), ("arc_challenge", "evaluation.forgetting.1")])
def test_what_counts_must_be_asked(task: str, key: str) -> None:
    study = load_study("paper")
    without = study.evaluation.tasks.model_copy(update={task: None})
    parts = vars(study) | {"evaluation": study.evaluation.model_copy(update={"tasks": without})}
    with pytest.raises(ValidationError, match=f"{re.escape(key)}.* needs evaluation.tasks.{task}"):
        Study(**parts)


def test_the_composite_and_the_average_are_of_tasks() -> None:
    assert COMPOSITE.keys() | set(AVERAGE) <= BENCHMARKS.keys()
    assert MEASURES["language_understanding"].tasks == ("lambada", "hellaswag", "winograd", "winogrande")
    assert MEASURES["diversity"].tasks == ("humaneval",)


def test_the_sandbox_has_limits_that_a_study_need_not_say() -> None:
    """They are those of the study of the paper, and a spec says them either way."""
    said = load_study("paper").evaluation.tasks.of("humaneval").asked()
    unsaid = {key: value for key, value in said.items() if key not in ("timeout_seconds", "memory_mb")}
    assert HumanEval(**unsaid).asked() == said == unsaid | {"timeout_seconds": 3.0, "memory_mb": 2048}
    assert HumanEval(**unsaid, timeout_seconds=5.0).asked()["timeout_seconds"] == 5.0
    with pytest.raises(ValidationError):
        HumanEval(**unsaid, timeout_seconds=0.0)
