"""pass@k, MMLU, LAMBADA and Winograd, recomputed by hand and beside the real tasks of lm-eval."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
import yaml
from lm_eval.tasks.wsc273 import utils as real_wsc
from lm_eval.utils import apply_template
from transformers import PreTrainedTokenizerFast

from scripts.common.errors import UserError
from scripts.components.asking.items import read
from scripts.components.tasks import TASKS, winograd
from scripts.data.generators import GENERATORS
from scripts.evaluation import judging
from scripts.evaluation.diversity import distinct_generations
from scripts.evaluation.harness import Harness
from tests.evaluation.conftest import (
    WORDS,
    CannedLM,
    LengthRunner,
    greedy_tokens,
    loglikelihood,
    sentence,
    write_records,
)

pytestmark = pytest.mark.arithmetic

PASS_AT_K = {
    "task": "pass_at_k",
    "samples": 8,
    "temperature": 0.8,
    "top_p": 0.95,
    "max_new_tokens": 12,
    "timeout_seconds": 5.0,
    "memory_mb": 256,
}


def problems(count: int) -> list[dict[str, Any]]:
    return [
        {"task_id": str(i), "prompt": f"def f{i}(xs):\n", "entry_point": f"f{i}", "test": f"def check(f):\n    {i}"}
        for i in range(count)
    ]


def subject_items(seed: int, counts: dict[str, int]) -> list[dict[str, Any]]:
    """In mixed order, as in a file that was put together from several."""
    rng = random.Random(seed)
    items = [
        {
            "subject": subject,
            "question": f" {sentence(rng, rng.randint(2, 8))}?",
            "choices": [sentence(rng, rng.randint(1, 4)) for _ in range(4)],
            "answer": rng.randrange(4),
        }
        for subject, count in counts.items()
        for _ in range(count)
    ]
    rng.shuffle(items)
    return items


SUBJECTS = {"old_trees": 3, "mats": 11, "cats": 6}
ITEMS = subject_items(1, SUBJECTS)
SOLVED = subject_items(2, {"cats": 4, "mats": 3, "old_trees": 5, "boxes": 2})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    rng = random.Random(4)
    text = [{"text": sentence(rng, rng.randint(4, 9))} for _ in range(60)]
    return write_records(
        tmp_path_factory.mktemp("records"),
        {"pass_at_k": problems(9), "mmlu": ITEMS, "solved": SOLVED, "lambada": text, "winograd": SCHEMAS},
    )


# -- pass@k ---------------------------------------------------------------------------------------------------


def test_pass_at_every_power_of_two(base: Path, files: dict[str, Path]) -> None:
    rng = random.Random(0)
    runner = LengthRunner()
    harness = Harness({"pass_at_k": PASS_AT_K}, files, base, runner=runner)
    completions = [rng.choice(["\n    return 1", "\n    return 22", "\n    return 22\n"]) for _ in range(72)]
    lm = CannedLM(completions)
    result = harness.score_lm(lm, ["pass_at_k"])["pass_at_k"]
    assert len(lm.asked) == 72
    assert (lm.asked[0][1]["temperature"], lm.asked[0][1]["top_p"]) == (0.8, 0.95)
    scores: dict[str, list[float]] = {f"pass@{k}": [] for k in (1, 2, 4, 8)}
    for number, sample in enumerate(result["samples"]):
        assert sample["completions"] == completions[8 * number : 8 * number + 8]
        passed = [outcome == "passed" for outcome in sample["verdicts"]]
        for k in (1, 2, 4, 8):
            choices = list(itertools.combinations(passed, k))
            scores[f"pass@{k}"].append(sum(map(any, choices)) / len(choices))
            assert sample[f"pass@{k}"] == pytest.approx(scores[f"pass@{k}"][-1])
    assert 0 < min(scores["pass@1"]) < max(scores["pass@1"])
    assert (result["metric"], result["items"]) == ("pass@1", 9)
    assert list(result["metrics"]) == list(result["errors"]) == list(scores)
    for metric, values in scores.items():
        assert result["metrics"][metric] == pytest.approx(np.mean(values))
        assert result["errors"][metric] == pytest.approx(np.std(values, ddof=1) / 3)
    assert (result["value"], result["stderr"]) == (result["metrics"]["pass@1"], result["errors"]["pass@1"])
    for found, sample in zip(distinct_generations(result["samples"]), result["samples"], strict=True):
        assert found.passed + found.failed == 8
        assert found.passing + found.failing == len(set(sample["completions"]))


@pytest.mark.parametrize(
    ("samples", "ks"),
    [(1, [1]), (3, [1, 2]), (4, [1, 2, 4]), (256, [1, 2, 4, 8, 16, 32, 64, 128, 256]), (255, [2**i for i in range(8)])],
)
def test_which_k_there_are(samples: int, ks: list[int]) -> None:
    assert TASKS["pass_at_k"].metrics_of(PASS_AT_K | {"samples": samples}) == tuple(f"pass@{k}" for k in ks)


def test_programs_are_those_of_humaneval(base: Path, files: dict[str, Path]) -> None:
    settings = PASS_AT_K | {"samples": 3}
    labels = {"pass_at_k": settings, "humaneval": settings | {"task": "humaneval"}}
    records = dict.fromkeys(labels, files["pass_at_k"])
    results = Harness(labels, records, base, runner=LengthRunner()).score(None, None, list(labels))
    of_k, of_one = results["pass_at_k"], results["humaneval"]
    assert [sample["completions"] for sample in of_k["samples"]] == [
        sample["completions"] for sample in of_one["samples"]
    ]
    assert (of_k["value"], of_k["stderr"]) == (of_one["value"], of_one["stderr"])
    assert "errors" not in of_one
    assert list(of_one["metrics"]) == ["pass@1"]


def test_programs_go_to_the_sandbox_in_pieces(
    base: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    completions = [f"\n    return {i // 3}" for i in range(72)]

    def judged(at_once: int) -> tuple[Any, list[int], LengthRunner]:
        sizes: list[int] = []

        class Counting(LengthRunner):
            def run(self, programs: Any, **limits: Any) -> Any:
                sizes.append(len(programs))
                return super().run(programs, **limits)

        monkeypatch.setattr(judging, "RUN_AT_ONCE", at_once)
        runner = Counting()
        harness = Harness({"pass_at_k": PASS_AT_K}, files, base, runner=runner)
        return harness.score_lm(CannedLM(completions), ["pass_at_k"])["pass_at_k"], sizes, runner

    whole, one, _ = judged(10_000)
    pieces, several, runner = judged(7)
    assert pieces == whole
    assert len(one) == 1
    assert max(several) == 7
    assert sum(several) == one[0] == len(set(runner.asked)) < 72


# -- MMLU -----------------------------------------------------------------------------------------------------


def real_task(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((Path(lm_eval.tasks.__file__).parent / "mmlu" / path).read_text())
    return found


@pytest.mark.parametrize("shots", [0, 2])
def test_letters_are_asked_as_lm_eval_asks_them(shots: int, base: Path, files: dict[str, Path]) -> None:
    """The description and the first examples of an item's own subject, then the question with its choices."""
    real, anatomy = real_task("default/_default_template_yaml"), real_task("default/mmlu_anatomy.yaml")
    assert real["fewshot_config"] == {"sampler": "first_n"}
    expected = []
    for item in ITEMS:
        context = anatomy["description"].replace("anatomy", item["subject"].replace("_", " "))
        of_subject = [example for example in SOLVED if example["subject"] == item["subject"]]
        for example in of_subject[:shots]:
            letter = real["doc_to_choice"][example[real["doc_to_target"]]]
            context += f"{apply_template(real['doc_to_text'], example)} {letter}\n\n"
        context += apply_template(real["doc_to_text"], item)
        expected += [(context, f" {letter}") for letter in real["doc_to_choice"]]
    settings = {"task": "mmlu", "shots": shots}
    harness = Harness({"mmlu": settings}, files, base, shots={"mmlu": files["solved"]} if shots else None)
    lm = CannedLM(loglikelihoods=[-1.0] * len(expected))
    harness.score_lm(lm, ["mmlu"])
    assert lm.asked == expected


@pytest.mark.parametrize("answers", ["letters", "texts"])
def test_mmlu_is_the_mean_over_subjects(
    answers: str, base: Path, files: dict[str, Path], model64: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = {"task": "mmlu", "shots": 0} | ({"answers": answers} if answers == "texts" else {})
    result = Harness({"mmlu": settings}, files, base).score(None, None, ["mmlu"])["mmlu"]
    by_subject: dict[str, list[float]] = {subject: [] for subject in SUBJECTS}
    for item, sample in zip(ITEMS, result["samples"], strict=True):
        question = item["question"].strip()
        if answers == "letters":
            listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", item["choices"], strict=True))
            subject = item["subject"].replace("_", " ")
            heading = f"The following are multiple choice questions (with answers) about {subject}."
            context, choices = f"{heading}\n\n{question}\n{listed}Answer:", list("ABCD")
        else:
            context, choices = f"Question: {question}\nAnswer:", item["choices"]
        expected = [loglikelihood(model64, tokenizer, context, f" {choice}") for choice in choices]
        assert sample["loglikelihoods"] == pytest.approx(expected, rel=1e-4)
        assert sample["acc"] == float(expected.index(max(expected)) == item["answer"])
        assert sample["subject"] == item["subject"]
        by_subject[item["subject"]].append(sample["acc"])
    means = [np.mean(values) for values in by_subject.values()]
    assert result["value"] == pytest.approx(np.mean(means))
    assert result["value"] != pytest.approx(np.mean([acc for values in by_subject.values() for acc in values]))
    variances = [np.var(values, ddof=1) / len(values) for values in by_subject.values()]
    assert result["stderr"] == pytest.approx(math.sqrt(sum(variances)) / len(SUBJECTS))
    assert (result["metric"], result["metrics"]) == ("acc", {"acc": result["value"]})
    assert result["items"] == sum(SUBJECTS.values())


def test_shots_of_texts_are_solved_questions(base: Path, files: dict[str, Path]) -> None:
    settings = {"task": "mmlu", "shots": 1, "answers": "texts"}
    harness = Harness({"mmlu": settings}, files, base, shots={"mmlu": files["solved"]})
    lm = CannedLM(loglikelihoods=[-1.0] * 80)
    harness.score_lm(lm, ["mmlu"])
    item = ITEMS[0]
    example = next(example for example in SOLVED if example["subject"] == item["subject"])
    solved = f"Question: {example['question'].strip()}\nAnswer: {example['choices'][example['answer']]}\n\n"
    context = f"{solved}Question: {item['question'].strip()}\nAnswer:"
    assert lm.asked[:4] == [(context, f" {choice}") for choice in item["choices"]]


@pytest.mark.parametrize(
    ("change", "shots", "message"),
    [
        ({"choices": ["a", "b", "c"]}, 0, r"mmlu\.jsonl, line 21: is no item of mmlu \(choices must be 4, and are 3\)"),
        ({"answer": 4}, 0, "line 21: is no item .* the number of the right one of 4, from 0, and is 4"),
        ({"answer": "B"}, 0, "line 21: is no item .*answer must be a whole number, and is text"),
        ({"subject": None}, 0, "line 21: is no item .*subject must be text, and is null"),
        ({"subject": "dogs"}, 0, "at least two items of each subject, 'dogs' has 1"),
        ({}, 4, r"solved\.jsonl: 4 shots need as many records of 'mats', it has 3"),
    ],
)
def test_records_that_are_not_mmlu(
    change: dict[str, Any], shots: int, message: str, base: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    records = write_records(tmp_path, {"mmlu": [*ITEMS, ITEMS[0] | change]})
    with pytest.raises(UserError, match=message):
        Harness({"mmlu": {"task": "mmlu", "shots": shots}}, records, base, shots={"mmlu": files["solved"]})


# -- LAMBADA --------------------------------------------------------------------------------------------------


def test_the_last_word_counts_where_greedy_writing_gives_it(
    base: Path, model64: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Half of the items end in what the model writes next, where that is the beginning of a word."""
    rng = random.Random(7)
    items, right = [], []
    while right.count(1.0) < 4 or right.count(0.0) < 4:
        context = sentence(rng, rng.randint(3, 12))
        written = tokenizer.decode(greedy_tokens(model64, tokenizer, context, 1))
        word = written[1:] if written[:1] == " " and written[1:].isalpha() else rng.choice(WORDS)
        if tokenizer.encode(context) + tokenizer.encode(f" {word}") != tokenizer.encode(f"{context} {word}"):
            continue
        tokens = tokenizer.encode(f" {word}")
        items.append({"text": f"{context} {word}"})
        right.append(float(greedy_tokens(model64, tokenizer, context, len(tokens)) == tokens))
    records = write_records(tmp_path, {"lambada": items})
    harness = Harness({"lambada": {"task": "lambada", "shots": 0}}, records, base)
    result = harness.score(None, None, ["lambada"])["lambada"]
    assert [sample["acc"] for sample in result["samples"]] == right
    for item, sample in zip(items, result["samples"], strict=True):
        context, word = item["text"].rsplit(" ", 1)
        assert sample["loglikelihood"] == pytest.approx(
            loglikelihood(model64, tokenizer, context, f" {word}"), rel=1e-4
        )
    assert (result["metric"], result["value"]) == ("acc", pytest.approx(np.mean(right)))
    assert result["stderr"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(right)))


def test_lambada_is_asked_as_lm_eval_asks_it(base: Path, files: dict[str, Path]) -> None:
    real = yaml.safe_load((Path(lm_eval.tasks.__file__).parent / "lambada/lambada_openai.yaml").read_text())
    items = read(files["lambada"])
    lm = CannedLM(loglikelihoods=[-1.0] * 60)
    Harness({"lambada": {"task": "lambada", "shots": 0}}, files, base).score_lm(lm, ["lambada"])
    assert lm.asked == [
        (apply_template(real["doc_to_text"], item), apply_template(real["doc_to_target"], item)) for item in items
    ]


# -- Winograd -------------------------------------------------------------------------------------------------


def schema(text: str, pronoun: str, options: list[str], label: int) -> dict[str, Any]:
    """`text` has the pronoun in brackets."""
    place = text.index("[")
    return {
        "text": text.replace("[", "").replace("]", ""),
        "pronoun": pronoun,
        "pronoun_loc": place,
        "quote": "",
        "quote_loc": place,
        "options": options,
        "label": label,
        "source": "test",
    }


SCHEMAS = [
    schema("The cat did not fit in the box because [it] was small.", "it", ["The cat", "The box"], 1),
    schema("Ann thanked Eve for the box [she] had given.", "she", ["Ann", "Eve"], 1),
    schema("The cat and the dog sat on a mat. [It] was old.", "It", ["The cat", "The mat"], 1),
    schema("Ann asked Eve about [her] cat.", "her", ["Ann", "Eve"], 0),
    schema("A box hit the tree and I could lift [it].", "it", ["A box", "The tree"], 0),
    schema("The old man saw the boy. But [he] sat.", "he", ["The old man", "The boy"], 0),
]
FILLED = [
    ("The cat did not fit in the box because the cat", "The cat did not fit in the box because the box", " was small."),
    ("Ann thanked Eve for the box Ann", "Ann thanked Eve for the box Eve", " had given."),
    ("The cat and the dog sat on a mat. The cat", "The cat and the dog sat on a mat. The mat", " was old."),
    ("Ann asked Eve about Ann's", "Ann asked Eve about Eve's", " cat."),
    ("A box hit the tree and I could lift a box", "A box hit the tree and I could lift the tree", "."),
    ("The old man saw the boy. But the old man", "The old man saw the boy. But the boy", " sat."),
]


def test_options_stand_in_the_place_of_the_pronoun(
    base: Path, files: dict[str, Path], model64: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    result = Harness({"winograd": {"task": "winograd", "shots": 0}}, files, base).score(None, None, ["winograd"])
    right = []
    for item, (first, second, after), sample in zip(SCHEMAS, FILLED, result["winograd"]["samples"], strict=True):
        expected = [loglikelihood(model64, tokenizer, context, after) for context in (first, second)]
        assert sample["loglikelihoods"] == pytest.approx(expected, rel=1e-4)
        right.append(float(expected.index(max(expected)) == item["label"]))
    assert result["winograd"]["metrics"] == {"acc": pytest.approx(np.mean(right))}


def test_winograd_texts_are_those_of_lm_eval() -> None:
    """But for the space that lm-eval puts before the one that is there."""
    real = yaml.load(
        (Path(lm_eval.tasks.__file__).parent / "wsc273/default.yaml").read_text().replace("!function", ""),
        yaml.SafeLoader,
    )

    class Documents(list[dict[str, Any]]):
        def map(self, function: Any) -> list[dict[str, Any]]:
            return [function(item | {"options": list(item["options"])}) for item in self]

    for item, theirs in zip(SCHEMAS, real_wsc.process_doc(Documents(SCHEMAS)), strict=True):
        choices = [theirs["text"][: theirs["pronoun_loc"]] + option for option in theirs["options"]]
        assert winograd.contexts(item) == choices
        assert winograd.continuation(item) == apply_template(real["doc_to_target"], theirs)
        assert winograd.answer(item) == item["label"]


def test_shots_of_winograd_are_whole_texts(base: Path, files: dict[str, Path]) -> None:
    settings = {"winograd": {"task": "winograd", "shots": 1}, "lambada": {"task": "lambada", "shots": 1}}
    shots = {"winograd": files["winograd"], "lambada": files["lambada"]}
    harness = Harness(settings, files, base, shots=shots)
    choices, words = CannedLM(loglikelihoods=[-1.0] * 12), CannedLM(loglikelihoods=[-1.0] * 60)
    harness.score_lm(choices, ["winograd"])
    harness.score_lm(words, ["lambada"])
    whole = {row[item["label"]] + row[2] for item, row in zip(SCHEMAS, FILLED, strict=True)}
    assert all(context.split("\n\n")[0] in whole for context, _ in choices.asked)
    texts = {item["text"] for item in read(files["lambada"])}
    assert all(context.split("\n\n")[0] in texts for context, _ in words.asked)


# -- the little world -----------------------------------------------------------------------------------------


def test_generated_items_are_read(base: Path, tmp_path: Path) -> None:
    """The records of the generators have the form that the tasks read."""
    made = {
        "mmlu": "mmlu",
        "lambada": "lambada",
        "winograd": "winograd",
        "pass_at_k": "humaneval",
        "mt_bench": "mt-bench",
    }
    records = write_records(
        tmp_path, {task: list(GENERATORS[generator](8, 0, "test")) for task, generator in made.items()}
    )
    settings: dict[str, dict[str, Any]] = {
        "mmlu": {"task": "mmlu", "shots": 2, "answers": "texts"},
        "lambada": {"task": "lambada", "shots": 0},
        "winograd": {"task": "winograd", "shots": 0},
        "pass_at_k": PASS_AT_K,
        "mt_bench": {"task": "mt_bench", "judge": {"model": "judge-1"}, "max_new_tokens": 4},
    }
    training = write_records(tmp_path, {"solved": list(GENERATORS["mmlu"](40, 0, "train"))})
    harness = Harness(settings, records, base, shots={"mmlu": training["solved"]}, runner=LengthRunner())
    labels = ["mmlu", "lambada", "winograd", "pass_at_k"]
    assert [result["items"] for result in harness.score(None, None, labels).values()] == [8, 8, 8, 8]
