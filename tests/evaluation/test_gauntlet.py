"""The gauntlet's form of multiple choice: beside texts written by hand, composer's draws and tokens, and float64."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from scripts.common.errors import UserError
from scripts.components.asking import gauntlet
from scripts.components.tasks import TASKS
from scripts.data.encoding import Encoding
from scripts.evaluation.harness import Harness, tokens_added
from tests.evaluation.conftest import CannedLM, sentence, write_records
from tests.vocabularies import FAMILIES

pytestmark = pytest.mark.arithmetic

# Records as the real sets have them, three of each, with what composer 0.17.2 asks about them by its own texts.
HELLASWAG = [
    {
        "activity_label": "Roof shingle removal",
        "ctx_a": "A man is sitting on a roof.",
        "ctx_b": "he",
        "endings": [
            "is using wrap to wrap a pair of skis.",
            "is ripping level tiles off.",
            "is holding a rubik's cube.",
            "starts pulling up roofing on a roof.",
        ],
        "label": "3",
    },
    {
        "activity_label": "Making tea",
        "ctx_a": "[header] How to make tea [title] Boil water.",
        "ctx_b": "",
        "endings": ["[step] Wait.", "Run.", "Sing.", "Fall asleep."],
        "label": "1",
    },
    {"activity_label": "Mowing", "ctx_a": "A cat mows.", "ctx_b": "it", "endings": ["is fast.", "sleeps."], "label": 0},
]
HELLASWAG_SOLVED = [
    "Roof shingle removal: A man is sitting on a roof. He starts pulling up roofing on a roof.",
    "Making tea: How to make tea. Boil water. Run.",
    "Mowing: A cat mows. It is fast.",
]
ARC = [
    {
        "question": "Which of these is heaviest? ",
        "choices": {"text": ["iron", "a feather"], "label": ["A", "B"]},
        "answerKey": "A",
    },
    {
        "question": "Snow, rain, hail, and fog are all forms of",
        "choices": {"text": ["gas.", "water.", "wind."], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    {
        "question": "At which temperature does water freeze?",
        "choices": {"text": ["0 degrees Celsius", "32 degrees Celsius"], "label": ["A", "B"]},
        "answerKey": "A",
    },
]
ARC_SOLVED = [
    "Question: Which of these is heaviest?\nAnswer: iron",
    "Question: Snow, rain, hail, and fog are all forms of\nAnswer: water.",
    "Question: At which temperature does water freeze?\nAnswer: 0 degrees Celsius",
]
WINOGRANDE = [
    {
        "sentence": "Sarah was a much better surgeon than Maria so _ always got the easier cases.",
        "option1": "Sarah",
        "option2": "Maria",
        "answer": "2",
    },
    {
        "sentence": "He went to the _ because his paper could wait.",
        "option1": "cafe",
        "option2": "library",
        "answer": "1",
    },
    {"sentence": "The drain is full of hair. The _ must go.", "option1": "drain", "option2": "hair", "answer": "2"},
]
WINOGRANDE_SOLVED = [
    "Sarah was a much better surgeon than Maria so Maria always got the easier cases.",
    "He went to the cafe because his paper could wait.",
    "The drain is full of hair. The hair must go.",
]
WINOGRAD = [
    {
        "text": "The city councilmen refused the demonstrators a permit because they feared violence.",
        "pronoun": "they",
        "pronoun_loc": 63,
        "options": ["The city councilmen", "The demonstrators"],
        "label": 0,
    },
    {
        "text": "There is a gap in the wall. You can see the garden through it.",
        "pronoun": "it",
        "pronoun_loc": 59,
        "options": ["The gap", "The wall"],
        "label": 0,
    },
    {
        "text": "The drain is clogged with hair. It has to be removed.",
        "pronoun": "It",
        "pronoun_loc": 32,
        "options": ["The drain", "The hair"],
        "label": 1,
    },
]
WINOGRAD_SOLVED = [
    "The city councilmen refused the demonstrators a permit because the city councilmen feared violence.",
    "There is a gap in the wall. You can see the garden through the gap .",
    "The drain is clogged with hair. The hair has to be removed.",
]
ASKED: dict[str, tuple[list[Any], list[str], tuple[str, list[str]]]] = {
    # records, each with its answer, and of the first what is asked at last
    "hellaswag": (
        HELLASWAG,
        HELLASWAG_SOLVED,
        (
            "Roof shingle removal: A man is sitting on a roof. He",
            [
                " is using wrap to wrap a pair of skis.",
                " is ripping level tiles off.",
                " is holding a rubik's cube.",
                " starts pulling up roofing on a roof.",
            ],
        ),
    ),
    "arc_challenge": (ARC, ARC_SOLVED, ("Question: Which of these is heaviest?\nAnswer:", [" iron", " a feather"])),
}
SCHEMAS: dict[str, tuple[list[Any], list[str], tuple[list[str], str]]] = {
    "winogrande": (
        WINOGRANDE,
        WINOGRANDE_SOLVED,
        (
            [
                "Sarah was a much better surgeon than Maria so Sarah",
                "Sarah was a much better surgeon than Maria so Maria",
            ],
            " always got the easier cases.",
        ),
    ),
    "winograd": (
        WINOGRAD,
        WINOGRAD_SOLVED,
        (
            [
                "The city councilmen refused the demonstrators a permit because the city councilmen",
                "The city councilmen refused the demonstrators a permit because the demonstrators",
            ],
            " feared violence.",
        ),
    ),
}


def settings(task: str, shots: int = 0) -> dict[str, Any]:
    return {"task": task, "shots": shots, "form": "gauntlet"}


def asked(task: str, records: list[Any], shots: int, base: Path, directory: Path) -> list[tuple[str, str]]:
    paths = write_records(directory, {task: records})
    choices = sum(len(record.get("endings") or record.get("choices", {}).get("text") or "12") for record in records)
    lm = CannedLM(loglikelihoods=[-1.0] * choices)
    Harness({task: settings(task, shots)}, paths, base).score_lm(lm, [task])
    return [(context, continuation) for context, continuation in lm.asked]


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("task", ASKED)
def test_answers_stand_behind_the_question(task: str, shots: int, base: Path, tmp_path: Path) -> None:
    """Two shots of three items are the two others, so nothing depends on how they are drawn."""
    records, solved, (question, answers) = ASKED[task]
    before = f"{solved[1]}\n{solved[2]}\n" if shots else ""
    found = asked(task, records, shots, base, tmp_path)
    assert found[: len(answers)] == [(before + question, answer) for answer in answers]
    last = (f"{solved[0]}\n{solved[1]}\n" if shots else "") + solved[2]
    assert found[-2][0] + found[-2][1] == last, "the first choice of the last item is right"


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("task", SCHEMAS)
def test_texts_go_on_behind_each_option(task: str, shots: int, base: Path, tmp_path: Path) -> None:
    records, solved, (texts, end) = SCHEMAS[task]
    before = f"{solved[1]}\n{solved[2]}\n" if shots else ""
    found = asked(task, records, shots, base, tmp_path)
    assert found[:2] == [(before + text, end) for text in texts]
    last = (f"{solved[0]}\n{solved[1]}\n" if shots else "") + solved[2]
    assert found[-1][0] + found[-1][1] == last, "the second option of the last item is right"


def test_shots_are_those_of_composer() -> None:
    """What composer 0.17.2 draws under CPython 3.11: `_get_fewshot_sample_idxs` with one `random.Random(1234)`."""
    assert list(gauntlet.drawn(8, 3)) == [
        [1, 6, 7], [0, 5, 6], [0, 1, 3], [0, 6, 7], [2, 5, 7], [0, 1, 7], [0, 1, 7], [0, 1, 4],
    ]  # fmt: skip
    assert list(gauntlet.drawn(100, 3))[:5] == [[56, 99, 14], [0, 74, 11], [88, 4, 85], [10, 12, 98], [2, 45, 30]]
    assert list(gauntlet.drawn(1172, 25))[3] == [
        896, 1153, 771, 900, 523, 790, 1063, 563, 699, 1085, 958, 964, 715, 974, 211, 852, 348, 92, 605, 993, 244, 1015,
        253, 380, 893,
    ]  # fmt: skip


@given(st.integers(1, 40).flatmap(lambda items: st.tuples(st.just(items), st.integers(0, items - 1))))
def test_no_item_is_its_own_shot(sizes: tuple[int, int]) -> None:
    items, shots = sizes
    found = list(gauntlet.drawn(items, shots))
    assert len(found) == items
    for item, chosen in enumerate(found):
        assert len(set(chosen)) == len(chosen) == shots
        assert set(chosen) <= set(range(items)) - {item}


def mean_cross_entropies(
    model64: Any, tokenizer: PreTrainedTokenizerFast, context: str, choices: list[str]
) -> tuple[list[float], list[int]]:
    """As composer: context and choice are encoded apart, and the mean is over the tokens of the choice."""
    first, means, counts = tokenizer.encode(context), [], []
    for choice in choices:
        second = tokenizer.encode(choice)
        with torch.no_grad():
            logits = model64(torch.tensor([first + second])).logits[0].numpy()
        logs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        means.append(-float(np.mean([logs[len(first) + i - 1, token] for i, token in enumerate(second)])))
        counts.append(len(second))
    return means, counts


def test_the_lowest_mean_cross_entropy_of_a_token_is_the_answer(
    base: Path, model64: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rng = random.Random(6)
    items = [
        {
            "question": f"{sentence(rng, 4)}?",
            # digits have a token each, letters share one: neither characters nor their sum tell how many
            "choices": {"text": ["7391", "saw " * 3 + "it", sentence(rng, 5), "9"], "label": list("ABCD")},
            "answerKey": rng.choice("ABCD"),
        }
        for _ in range(24)
    ]
    paths = write_records(tmp_path, {"arc_challenge": items})
    labels: dict[str, dict[str, Any]] = {"gauntlet": settings("arc_challenge"), "lm-eval": {"task": "arc_challenge"}}
    labels["lm-eval"]["shots"] = 0
    harness = Harness(labels, dict.fromkeys(labels, paths["arc_challenge"]), base)
    result, other = harness.score(None, None, list(labels)).values()
    right = []
    for item, sample in zip(items, result["samples"], strict=True):
        context, choices = f"Question: {item['question']}\nAnswer:", item["choices"]["text"]
        means, counts = mean_cross_entropies(model64, tokenizer, context, [f" {choice}" for choice in choices])
        assert sample["tokens"] == counts
        assert sample["loglikelihoods"] == pytest.approx([-m * c for m, c in zip(means, counts, strict=True)], rel=1e-4)
        right.append(float(means.index(min(means)) == "ABCD".index(item["answerKey"])))
        assert sample["acc_token"] == right[-1]
    assert 0 < np.mean(right) < 1
    for name in ("acc", "acc_norm"):
        assert [one[name] for one in other["samples"]] != right, f"the items cannot tell acc_token from {name}"
    assert (result["metric"], list(result["metrics"])) == ("acc_token", ["acc_token", "acc"])
    assert result["value"] == pytest.approx(np.mean(right))
    assert result["metrics"]["acc"] == other["metrics"]["acc"]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_s_tokens_are_those_of_composer(family: str, tmp_path: Path) -> None:
    """Which encodes an answer alone, with a space before it where the tokenizer has a token for that and a letter."""
    FAMILIES[family](tmp_path)
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        return list(alone.encode(text, add_special_tokens=False).ids)

    needs_space = len(ids(" a")) == 1
    texts = ["Question: Who?\nAnswer:", "You can see the garden through the wall"] * 4
    answers = ["0 degrees Celsius", ".", "is fast.", "'s hat", "Größe é", "(a) 12.5%", "had\nbeen", "a"]
    found = tokens_added(
        Encoding.read(tmp_path), [(text, f" {answer}") for text, answer in zip(texts, answers, strict=True)]
    )
    assert found == [len(ids(f" {answer}" if needs_space else answer)) for answer in answers]


def test_spaces_at_the_end_of_a_text_belong_to_what_follows(base: Path) -> None:
    assert tokens_added(Encoding.read(base), [("the cat ", "sat"), ("the cat", " sat")]) == [1, 1]


def test_where_shots_come_from() -> None:
    of = TASKS["hellaswag"].settings
    assert of is not None
    assert of(dataset="a", shots=3, form="gauntlet").asked() == {  # type: ignore[call-arg]
        **{"dataset": "a", "shots": 3, "shots_from": None, "form": "gauntlet"},
    }
    plain = {"dataset": "a", "shots": 0, "shots_from": None}
    assert of(**plain).asked() == of(**plain, form="lm-eval").asked() == plain
    with pytest.raises(ValueError, match="shots_from must not stand where form is gauntlet"):
        of(dataset="a", shots=3, shots_from="b", form="gauntlet")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="exactly when shots is above 0"):
        of(dataset="a", shots=3)  # type: ignore[call-arg]


def test_items_must_be_more_than_their_shots(base: Path, tmp_path: Path) -> None:
    paths = write_records(tmp_path, {"arc_challenge": ARC})
    message = (
        r"evaluation\.tasks\.arc_challenge\.shots: 3 shots .* need as many other items, .*arc_challenge.jsonl has 2"
    )
    with pytest.raises(UserError, match=message):
        Harness({"arc_challenge": settings("arc_challenge", 3)}, paths, base)


def test_samples_are_plain(base: Path, tmp_path: Path) -> None:
    """A label that is a number in one record and a text in another is read too."""
    paths = write_records(tmp_path, {"hellaswag": HELLASWAG})
    result = Harness({"hellaswag": settings("hellaswag", 1)}, paths, base).score(None, None, ["hellaswag"])["hellaswag"]
    assert json.loads(json.dumps(result)) == result
    assert [len(sample["tokens"]) for sample in result["samples"]] == [4, 4, 2]
