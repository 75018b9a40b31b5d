"""Tasks that a study declares by itself: scored as lm-eval scores its own on the same records, programs in the sandbox.

The records are real ones, of PIQA, OpenBookQA, BoolQ (validation), MBPP and MATH-500 (test).
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from matplotlib.text import Text
from pydantic import ValidationError

from scripts.artifacts.points import read_points
from scripts.common.errors import UserError
from scripts.components.asking import task_files
from scripts.components.foreign import LmEval
from scripts.evaluation.harness import Harness
from scripts.plan.registry import find_artifact
from tests.conftest import House
from tests.evaluation.conftest import CannedLM, write_records

RECORDS: dict[str, list[dict[str, Any]]] = {
    "piqa": [
        {"goal": "peeler", "sol1": "can be used as a decoration on a television ",
         "sol2": "can be used as a decoration on a sock ", "label": 0},
        {"goal": "To prepare carrots before cooking with them, you can",
         "sol1": "Run them in the sink under boiling water", "sol2": "Run them in the sink under cold water",
         "label": 1},
        {"goal": "To fill a bucket with sand",
         "sol1": "Take a smaller pail and fill it with sand. Dump it on the ground. Repeat until the bucket is full.",
         "sol2": "Take a smaller pail and fill it with sand. Dump it into the bucket. Repeat until the bucket is full.",
         "label": 1},
    ],
    "openbookqa": [
        {"id": "8-376", "question_stem": "Frilled sharks and angler fish live far beneath the surface of the ocean, "
         "which is why they are known as", "choices": {"text": ["Deep sea animals", "fish", "Long Sea Fish",
         "Far Sea Animals"], "label": ["A", "B", "C", "D"]}, "answerKey": "A"},
        {"id": "7-131", "question_stem": "When vapor condenses overnight it often ends up on",
         "choices": {"text": ["bees", "clothing", "rosebuds", "people"], "label": ["A", "B", "C", "D"]},
         "answerKey": "C"},
        {"id": "1282", "question_stem": "What is the source of energy for physical cycles on Earth?",
         "choices": {"text": ["clouds that are heavy with rain", "a thinner ozone layer",
         "a medium-sized star which our planet orbits", "heat from stars at night"],
         "label": ["A", "B", "C", "D"]}, "answerKey": "C"},
    ],
    "boolq": [
        {"question": "is there a sequel to the movie the golden compass", "passage": "In 2011, Philip Pullman remarked "
         "at the British Humanist Association annual conference that due to the first film's disappointing sales in "
         "the United States, there would not be any sequels made.", "label": 0},
        {"question": "is the liver part of the excretory system", "passage": "The liver detoxifies and breaks down "
         "chemicals, poisons and other toxins that enter the body.", "label": 1},
        {"question": "do penguins have feathers arising from the epidermis", "passage": "Contour feathers are not "
         "uniformly distributed on the skin of the bird except in some groups such as the penguins.", "label": 1},
    ],
    "mbpp": [
        {"task_id": 11, "text": "Write a python function to remove first and last occurrence of a given character from "
         "the string.", "code": "", "test_list": ['assert remove_Occ("hello","l") == "heo"',
         'assert remove_Occ("abcda","a") == "bcd"', 'assert remove_Occ("PHP","P") == "H"'], "test_setup_code": "",
         "challenge_test_list": []},
        {"task_id": 12, "text": "Write a function to sort a given matrix in ascending order according to the sum of "
         "its rows.", "code": "def sort_matrix(M):\r\n    result = sorted(M, key=sum)\r\n    return result",
         "test_list": ["assert sort_matrix([[1, 2, 3], [2, 4, 5], [1, 1, 1]])==[[1, 1, 1], [1, 2, 3], [2, 4, 5]]",
         "assert sort_matrix([[1, 2, 3], [-2, 4, -5], [1, -1, 1]])==[[-2, 4, -5], [1, -1, 1], [1, 2, 3]]",
         "assert sort_matrix([[5,8,9],[6,4,3],[2,1,4]])==[[2, 1, 4], [6, 4, 3], [5, 8, 9]]"], "test_setup_code": "",
         "challenge_test_list": []},
        {"task_id": 12, "text": "The same once more.", "code": "", "test_list": [
         "assert sort_matrix([[1, 2, 3], [2, 4, 5], [1, 1, 1]])==[[1, 1, 1], [1, 2, 3], [2, 4, 5]]", "assert True",
         "assert True"], "test_setup_code": "", "challenge_test_list": []},
    ],
    "hendrycks_math500": [
        {"problem": "Compute: $1-2+3-4+5- \\dots +99-100$.", "solution": "$(1-2)+(3-4)+ \\dots +(97-98)+(99-100) = "
         "50(-1) = \\boxed{-50}.$", "answer": "-50", "subject": "Algebra", "level": 1, "unique_id": "a"},
        {"problem": "Evaluate $(1+2i)6-3i$.", "solution": "Distribute the factor of 6 and simplify to obtain "
         "$(1+2i)6-3i=6+12i-3i=\\boxed{6+9i}$.", "answer": "6+9i", "subject": "Algebra", "level": 3, "unique_id": "b"},
        {"problem": "Simplify $\\sqrt{242}$.", "solution": "Factor 242 as $11^2 \\cdot 2$. Then $\\sqrt{242} = "
         "\\sqrt{11^2} \\cdot \\sqrt2 = \\boxed{11\\sqrt2}$.", "answer": "11\\sqrt{2}", "subject": "Prealgebra",
         "level": 4, "unique_id": "c"},
    ],
}  # fmt: skip
MINE = """\
include: shared.yaml
task: mine
doc_to_text: "Q: {{goal}}\\nA:"
"""
SHARED = """\
dataset_path: nowhere/at_all
output_type: multiple_choice
validation_split: validation
process_docs: !function mine.prepared
doc_to_target: label
doc_to_choice: "{{[sol1, sol2]}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
MODULE = """\
def prepared(docs):
    return docs.map(lambda doc: {**doc, "goal": doc["goal"].upper()})
"""


def asked(name: str, **more: Any) -> dict[str, Any]:
    """What a spec has of a task that stands under its own name in a study."""
    own = LmEval.model_validate(
        {"task": "lm_eval", "dataset": "items", **({} if "file" in more else {"name": name}), **more}
    )
    said = own.asked()
    return {"task": name, **said, **({"file": own.file} if own.file else {})}


def written(tmp_path: Path, name: str, records: Iterable[dict[str, Any]] | None = None) -> Path:
    return write_records(tmp_path, {name: list(records or RECORDS[name])})[name]


def theirs(name: str, records: Path, model: Path) -> list[dict[str, Any]]:
    """What lm-eval logs of each item: its own model, and its own task but for where the records lie."""
    manager = TaskManager(include_path=str(task_files.of_name(name).path.parent), include_defaults=False)
    local = {
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"validation": str(records), "test": str(records), "train": str(records)},
                           "cache_dir": str(records.parent / "cache")},
    }  # fmt: skip
    lm = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=1)
    (task,) = manager.load([{"group": "theirs", "task": [local]}])["tasks"].values()
    found = lm_eval.evaluate(lm, {name: task}, bootstrap_iters=0)
    assert found is not None
    return sorted(found["samples"][name], key=lambda one: int(one["doc_id"]))


@pytest.mark.parametrize("name", ["piqa", "openbookqa", "boolq"])
def test_likelihoods_are_those_of_lm_evals_own_task(name: str, base: Path, tmp_path: Path) -> None:
    records = written(tmp_path, name)
    ours = Harness({name: asked(name)}, {name: records}, base).score(None, None, [name])[name]
    others = theirs(name, records, base)
    assert ours["metric"] == "acc"
    assert set(ours["metrics"]) == ({"acc"} if name == "boolq" else {"acc", "acc_norm"})
    for sample, other in zip(ours["samples"], others, strict=True):
        assert sample["prompts"] == [context for context, _ in other["arguments"]]
        assert sample["completions"] == [continuation for _, continuation in other["arguments"]]
        assert sample["loglikelihoods"] == pytest.approx([value for value, _ in other["filtered_resps"]], rel=1e-4)
        for metric in ours["metrics"]:
            assert sample[metric] == other[metric]
    for metric, value in ours["metrics"].items():
        assert value == pytest.approx(sum(other[metric] for other in others) / len(others))


def test_answers_are_read_as_lm_eval_reads_them(base: Path, tmp_path: Path) -> None:
    """MATH-500: right, wrong, and right in another spelling that the task's own rules make equal."""
    name = "hendrycks_math500"
    records = written(tmp_path, name)
    harness = Harness({name: asked(name, max_new_tokens=16)}, {name: records}, base)
    lm = CannedLM(texts=["It is $-50$.", "$6-9i$", "so $11\\sqrt{2}$"])
    result = harness.score_lm(lm, [name])[name]
    assert [text for text, _ in lm.asked] == [f"Problem: {one['problem']}\nAnswer:" for one in RECORDS[name]]
    assert all(arguments["max_gen_toks"] == 16 for _, arguments in lm.asked)
    assert [sample["exact_match"] for sample in result["samples"]] == [1.0, 0.0, 1.0]
    assert (result["metric"], result["value"]) == ("exact_match", pytest.approx(2 / 3))


def test_programs_are_run_in_the_sandbox(base: Path, tmp_path: Path) -> None:
    """MBPP: none of them runs in this process, though lm-eval's own metric would have run them here."""
    records, trace = written(tmp_path, "mbpp"), tmp_path / "ran"
    right = "def sort_matrix(M):\n    return sorted(M, key=sum)\n"
    texts = [
        f"import builtins\nbuiltins.open({str(trace)!r}, 'w').close()\ndef remove_Occ(s, c):\n    return s",
        right,
        "def sort_matrix(M):\n    while True:\n        pass\n",
    ]
    harness = Harness({"mbpp": asked("mbpp", max_new_tokens=16, timeout_seconds=1.0)}, {"mbpp": records}, base)
    lm = CannedLM(texts=texts)
    result = harness.score_lm(lm, ["mbpp"])["mbpp"]
    assert not trace.exists()
    first = lm.asked[0][0]
    assert first.count("[BEGIN]") == 4  # three shots of lm-eval's own, and the problem
    assert first.endswith('assert remove_Occ("PHP","P") == "H"\n[BEGIN]\n')
    assert (result["metric"], result["value"]) == ("pass_at_1", pytest.approx(1 / 3))
    assert [sample["pass_at_1"] for sample in result["samples"]] == [0.0, 1.0, 0.0]
    assert [list(sample["verdicts"]) for sample in result["samples"]][1:] == [["passed"], ["timed_out"]]
    assert result["verdicts"].keys() >= {"passed", "timed_out"}
    assert sum(result["verdicts"].values()) == 3


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for name, text in {"mine.yaml": MINE, "shared.yaml": SHARED, "mine.py": MODULE}.items():
        (tmp_path / name).write_text(text)
    return tmp_path / "mine.yaml"


def test_a_file_of_ones_own(mine: Path, base: Path, tmp_path: Path) -> None:
    """With a file that it includes, a function of its own, and shots from another dataset."""
    records = written(tmp_path, "piqa")
    shots = write_records(tmp_path, {"shots": [RECORDS["piqa"][0]]})["shots"]
    chosen = asked("mine", file=str(mine), shots=1, shots_from="shots", metric="acc_norm")
    chosen = {key: value for key, value in chosen.items() if key != "shots_from"}
    harness = Harness({"mine": chosen}, {"mine": records}, base, shots={"mine": shots})
    lm = CannedLM(loglikelihoods=[-1.0, -9.0] * 3)
    result = harness.score_lm(lm, ["mine"])["mine"]
    example = "Q: PEELER\nA: can be used as a decoration on a television \n\n"
    assert lm.asked[2][0] == f"{example}Q: TO PREPARE CARROTS BEFORE COOKING WITH THEM, YOU CAN\nA:"
    assert (result["metric"], list(result["metrics"])) == ("acc_norm", ["acc_norm", "acc"])
    assert result["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["mine.yaml", "shared.yaml", "mine.py"])
def test_what_a_file_is_made_of_is_what_it_is(name: str, mine: Path, base: Path, tmp_path: Path) -> None:
    before = asked("mine", file=str(mine))
    (tmp_path / "other.py").write_text("")
    assert asked("mine", file=str(mine)) == before
    (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
    assert asked("mine", file=str(mine))["lm_eval"]["sha256"] != before["lm_eval"]["sha256"]
    with pytest.raises(UserError, match=r"mine\.yaml: it or a module beside it has changed since the launch"):
        Harness({"mine": before}, {"mine": written(tmp_path, "piqa")}, base)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda one: one.pop("sol2"), r"piqa\.jsonl, line 2: it has no sol2, which the doc_to_choice of the task piqa"),
        (lambda one: one.pop("label"), r"piqa\.jsonl, line 2: it has no label, which the doc_to_target"),
        (lambda one: one.update(label=-1), r"item 2: the right answer must be the number of one of its 2 choices"),
    ],
)
def test_records_that_are_not_as_the_task_needs_them(change: Any, sentence: str, base: Path, tmp_path: Path) -> None:
    records = [dict(one) for one in RECORDS["piqa"]]
    change(records[1])
    with pytest.raises(UserError, match=sentence):
        Harness({"piqa": asked("piqa")}, {"piqa": written(tmp_path, "piqa", records)}, base).score_lm(
            CannedLM(loglikelihoods=[-1.0] * 6), ["piqa"]
        )


def test_records_that_a_tasks_own_functions_cannot_take(base: Path, tmp_path: Path) -> None:
    records = [{"question": "1 + 1?", "answer": "2"}] * 2
    name = "hendrycks_math500"
    with pytest.raises(UserError, match=r"hendrycks_math500\.yaml cannot ask the records .* \(KeyError: 'problem'\)"):
        Harness({name: asked(name, max_new_tokens=8)}, {name: written(tmp_path, name, records)}, base)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"name": "piqqa"}, "has no task 'piqqa'; close ones are piqa"),
        ({"name": "mmlu"}, "lm-eval's mmlu is a group of tasks, .* name one of them"),
        ({"name": "minerva_math500"}, "needs antlr4, math_verify, which envs/requirements.lock does not have"),
        ({"name": "wikitext"}, "output_type 'loglikelihood_rolling'"),
        ({"name": "squadv2"}, "is a class of Python"),
        ({"name": "cola"}, "metric: must be one that the task records as a mean over items: none"),
        ({"name": "piqa", "metric": "f1"}, "metric: must be one that the task records .*: acc, acc_norm"),
        ({"name": "piqa", "max_new_tokens": 8}, "max_new_tokens must not stand"),
        ({"name": "piqa", "shots": 2}, "shots_from must name the dataset that the 2 shots are taken from"),
        ({"name": "piqa", "shots_from": "train"}, "shots_from must not stand: shots is 0"),
        ({"name": "mbpp", "max_new_tokens": 8, "shots_from": "train"}, "the task has shots of its own"),
        ({"name": "mbpp"}, "max_new_tokens must stand"),
        ({"name": "piqa", "memory_mb": 8}, "timeout_seconds and memory_mb must not stand: no program is run"),
        ({"name": "piqa", "file": "mine.yaml"}, "exactly one of name and file"),
        ({"file": "nowhere.yaml"}, "nowhere.yaml is not a file"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        LmEval.model_validate({"task": "lm_eval", "dataset": "items", **keys})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("task: [a, b]\ngroup: many\n", "is a group of tasks"),
        ("doc_to_text: a\n", "has no key `task`"),
        ("task: a: b\n", "cannot be read"),
        ("task: mine\ninclude: mine.yaml\n", "includes itself"),
        ("task: mine\ndoc_to_text: a\nunsafe_code: true\n", "would run outside the sandbox"),
        ("task: mine\ndoc_to_text: a\ngeneration_kwargs: {do_sample: true}\n", "draws its answers at random"),
        ("task: mine\ndoc_to_text: a\ngeneration_kwargs: {num_beams: 4}\n", "generation_kwargs.num_beams"),
        (
            "task: mine\ndoc_to_text: a\nmetric_list: [{metric: !function mine.code_eval}]\n",
            "must say `unsafe_code: true`",
        ),
    ],
)
def test_a_file_that_is_none_is_said_in_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "mine.py").write_text("import json\ndef code_eval(): ...\n")
    with pytest.raises(ValidationError, match=sentence):
        asked("mine", file=str(tmp_path / "mine.yaml"), max_new_tokens=8)


def test_tasks_are_read_as_lm_eval_reads_them() -> None:
    """The metrics that lm-eval records where a file does not say them, and how it makes scores of them."""
    from lm_eval.api import registry

    for kind, names in task_files._METRICS.items():
        assert [name for name in registry.DEFAULT_METRIC_REGISTRY[kind] if name != "perplexity"] == list(names)
    for name in task_files.MEANS:
        assert registry.is_higher_better(name) is True
        assert registry.get_metric_aggregation(name) is registry.get_aggregation("mean")
    for name in ("boolq", "arc_easy", "gsm8k", "mbpp_plus_instruct"):
        found = task_files.of_name(name)
        manager = TaskManager(include_path=str(found.path.parent), include_defaults=False)
        entry = manager.task_index[name]
        assert entry.yaml_path == found.path
        loaded = lm_eval.tasks._yaml_loader.load_yaml(found.path, resolve_func=False)
        for key in ("output_type", "num_fewshot", "doc_to_text", "unsafe_code"):
            assert loaded.get(key) == found.config.get(key)


def test_a_study_says_it_in_yaml_alone(tmp_path: Path) -> None:
    """What is planned of PIQA as forgetting and MBPP as learning; nothing heavy is imported for it."""
    study = yaml.safe_load(Path("config/studies/smoke.yaml").read_text())
    declare(study)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study))
    script = f"""
import json, sys
from pathlib import Path
from scripts.plan.grid import Grid
from scripts.store.codelock import read_code_lock
from scripts.study.load import load_study
study = load_study("mine", Path({str(tmp_path)!r}))
grid = Grid(study, "mine", {{name: entry["version"] for name, entry in read_code_lock().items()}}, {{}})
specs = [product.spec for product in grid if product.kind in ("samples", "evaluation")]
heavy = [name for name in ("lm_eval", "datasets", "torch", "transformers") if name in sys.modules]
print(json.dumps([specs, heavy]))
"""
    specs, heavy = json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert heavy == []
    version = next(
        line.removeprefix("lm-eval==").split()[0]
        for line in Path("envs/requirements.lock").read_text().splitlines()
        if line.startswith("lm-eval==")
    )
    piqa = [spec for spec in specs if spec["task"] == "piqa"]
    mbpp = [spec for spec in specs if spec["task"] == "mbpp"]
    assert {json.dumps(spec["lm_eval"], sort_keys=True) for spec in piqa} == {
        json.dumps({"name": "piqa", "version": version, "answers": "choice"}, sort_keys=True)
    }
    assert {spec["kind"] for spec in piqa} == {"evaluation"}
    assert {spec["kind"] for spec in mbpp} == {"samples", "evaluation"}
    assert all(("timeout_seconds" in spec) == ("sampled" in spec) for spec in mbpp)
    assert all(("max_new_tokens" in spec) == ("sampled" not in spec) for spec in mbpp)
    assert not any(spec["task"] == "winogrande" for spec in specs)


@pytest.mark.slow
def test_figures_call_them_by_their_labels(prepared: House, tmp_path: Path) -> None:
    """From the study's YAML to the pages, with stand-ins for what computes with models."""
    house = prepared.copy(tmp_path)
    (house.root / "mine").mkdir()
    write_records(house.root / "mine", {name: RECORDS[name] for name in ("piqa", "mbpp")})
    house.edit(declare)
    house.python("-m", "scripts.data.lock", "--study", "smoke")
    asked = house.run("results/figures/fig3.csv")
    assert sum(count for what, count in asked.items() if what.endswith(" piqa")) > 0
    csv = house.root / "results/figures/fig3.csv"
    artifact = find_artifact("fig3")
    points = read_points(csv, artifact.needs)
    assert points.averaged == ("hellaswag", "piqa")
    figure = importlib.import_module(f"scripts.artifacts.{artifact.kind}").draw(artifact, points, "abc1234")
    labels = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "mbpp, pass_at_1 (demo)" in labels
    assert "Forgetting average: 1/2 (HellaSwag + PIQA)" in " ".join(labels.split())


def declare(study: dict[str, Any]) -> None:
    """PIQA as forgetting, MBPP as learning of code, in a study's data."""
    for name in ("piqa", "mbpp"):
        study["datasets"][name] = {"source": "path", "path": f"mine/{name}.jsonl"}
    study["evaluation"]["tasks"] |= {
        "piqa": {"task": "lm_eval", "dataset": "piqa", "label": "PIQA"},
        "mbpp": {"task": "lm_eval", "dataset": "mbpp", "max_new_tokens": 16},
    }
    study["evaluation"]["forgetting"] = ["hellaswag", "piqa"]
    study["settings"]["code-cpt"]["learning"] = "mbpp"
    del study["settings"]["code-cpt"]["sweep"]
    del study["sweep"]["validation"]["humaneval"]
