"""Two-turn questions and their judge, against a small endpoint on this machine."""

import json
import math
import random
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from scripts.common.errors import UserError
from scripts.components.templates import Fixed
from scripts.evaluation.evaluate import judge_variables
from scripts.evaluation.harness import Harness
from scripts.evaluation.mt_bench import ATTEMPTS, Grader
from scripts.study.load import load_study
from tests.evaluation.conftest import greedy_tokens, sentence, write_records
from tests.standins.judge import Answer, JudgeServer, Messages

JUDGE = {"model": "judge-1", "temperature": 0.5, "url_variable": "SOME_JUDGE", "key_variable": "SOME_KEY"}
SETTINGS = {"mt_bench": {"task": "mt_bench", "judge": JUDGE, "max_new_tokens": 12}}


def questions(count: int) -> list[dict[str, Any]]:
    rng = random.Random(count)
    return [
        {
            "question_id": 80 + i,
            "category": rng.choice(["writing", "math"]),
            "turns": [sentence(rng, 6), sentence(rng, 4)],
        }
        for i in range(count)
    ]


def grader(server: JudgeServer, **changes: Any) -> Grader:
    plain = Grader(server.url, None, "judge-1", 0.0, wait=lambda _: pytest.fail("nothing to wait for"))
    return replace(plain, **changes)


def in_turn(*answers: Answer) -> Callable[[Messages], Answer]:
    rest: Iterator[Answer] = iter(answers)
    return lambda _: next(rest)


def test_both_turns_are_written_greedily_and_graded(
    base: Path,
    model64: Any,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = questions(5)
    records = write_records(tmp_path, {"mt_bench": items})

    def grade(messages: Messages) -> str:
        return f"Fine.\nGRADE: {len(messages[0]['content']) % 10 + 1}"

    with JudgeServer(grade) as server:
        monkeypatch.setenv("SOME_JUDGE", f"{server.url}/")
        monkeypatch.setenv("SOME_KEY", "secret")
        result = Harness(SETTINGS, records, base).score(None, None, ["mt_bench"])["mt_bench"]
        asked = server.requests
    assert len(asked) == 10
    for request in asked:
        assert request["path"] == "/v1/chat/completions"
        assert request["headers"]["Authorization"] == "Bearer secret"
        assert request["headers"]["Content-Type"] == "application/json"
        assert (request["body"]["model"], request["body"]["temperature"]) == ("judge-1", 0.5)
    texts = [request["body"]["messages"][0]["content"] for request in asked]

    def written(prompt: str) -> str:
        text = tokenizer.decode(greedy_tokens(model64, tokenizer, prompt, 12), skip_special_tokens=True)
        return text.partition("\nQuestion:")[0]

    scores = []
    for number, (item, sample) in enumerate(zip(items, result["samples"], strict=True)):
        first, second = item["turns"]
        prompt = f"Question: {first}\nAnswer:"
        answers = [written(prompt)]
        answers.append(written(f"{prompt} {answers[0].strip()}\n\nQuestion: {second}\nAnswer:"))
        assert sample["completions"] == answers
        assert (sample["item"], sample["question_id"], sample["category"]) == (
            number,
            str(80 + number),
            item["category"],
        )
        # the judge of the first turn knows nothing of the second
        (of_first,) = (text for text in texts if answers[0].strip() in text and first in text and second not in text)
        (of_second,) = (text for text in texts if first in text and second in text)
        assert of_second.index(first) < of_second.index(second) < len(of_second) - len(answers[1].strip())
        assert of_second.endswith(answers[1].strip())
        assert sample["scores"] == [len(of_first) % 10 + 1, len(of_second) % 10 + 1]
        assert sample["judgements"] == [f"Fine.\nGRADE: {score}" for score in sample["scores"]]
        scores += sample["scores"]
    assert len(set(scores)) > 2
    assert (result["metric"], result["items"]) == ("score", 5)
    assert result["metrics"] == {"score": result["value"]}
    assert result["value"] == pytest.approx(np.mean(scores))
    # over all grades, as in the error bars of figure S4
    assert result["stderr"] == pytest.approx(np.std(scores, ddof=1) / math.sqrt(10))
    assert json.loads(json.dumps(result)) == result
    assert "secret" not in json.dumps(result)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Good.\nGRADE: 7", 7),
        ("GRADE: 10", 10),
        ("**GRADE: 3**", 3),
        ("grade: 4.\n", 4),
        ("GRADE: 8/10", 8),
        ("I first thought of\nGRADE: 2\nbut no.\nGRADE: 9", 9),
        ("GRADE: 0", None),
        ("GRADE: 11", None),
        ("GRADE: 7.5", None),
        ("GRADE: -3", None),
        ("GRADE: good", None),
        ("The grade is 7", None),
        ("", None),
    ],
)
def test_a_grade_is_a_last_line_from_1_to_10(reply: str, score: int | None) -> None:
    with JudgeServer(lambda _: reply) as server:
        if score is None:
            with pytest.raises(
                UserError, match=r"^the judge judge-1 gave no grade from 1 to 10 in 3 replies about .*'a\?'"
            ):
                grader(server).grade([[("a?", "b")]])
            assert len(server.requests) == 3
        else:
            (grade,) = grader(server).grade([[("a?", "b")]])
            assert (grade.score, grade.judgement) == (score, reply)


def test_a_judge_that_forgot_the_grade_is_reminded() -> None:
    with JudgeServer(in_turn("It is a nice answer.", "Sorry.", "GRADE: 6")) as server:
        (grade,) = grader(server).grade([[("a?", "b"), ("c?", "d")]])
    assert grade == (6, "GRADE: 6")
    first, second, third = (request["body"]["messages"] for request in server.requests)
    assert [message["role"] for message in third] == ["user", "assistant", "user", "assistant", "user"]
    assert (third[:3], second[:1]) == (second, first)
    assert third[1]["content"] == "It is a nice answer."


def test_grades_come_in_the_order_of_the_conversations() -> None:
    def answer(messages: Messages) -> str:
        found = re.search(r"answer number (\d)", messages[0]["content"])
        return f"GRADE: {found[1]}"  # type: ignore[index]

    with JudgeServer(answer) as server:
        grades = grader(server).grade([[("a?", f"answer number {i}")] for i in (3, 1, 9, 4, 5, 2, 8)])
        assert server.requests[0]["headers"].get("Authorization") is None
    assert [grade.score for grade in grades] == [3, 1, 9, 4, 5, 2, 8]


def test_a_busy_or_broken_endpoint_is_asked_again_after_longer_waits() -> None:
    busy = [(429, {}, "slow down"), (503, {}, ""), (500, {}, "oops"), (429, {"Retry-After": "30"}, "")]
    waits: list[float] = []
    with JudgeServer(in_turn(*busy, "GRADE: 5")) as server:
        (grade,) = grader(server, wait=waits.append).grade([[("a?", "b")]])
        assert len(server.requests) == 5
    assert grade.score == 5
    assert waits == [1, 2, 4, 30]


def test_what_does_not_get_better_is_an_error() -> None:
    waits: list[float] = []
    with (
        JudgeServer(lambda _: (503, {}, "down for\nrepair")) as server,
        pytest.raises(
            UserError, match=rf"no answer of the judge judge-1 in {ATTEMPTS} .* HTTP 503 \(down for repair\)$"
        ),
    ):
        grader(server, wait=waits.append).grade([[("a?", "b")]])
    assert len(waits) == ATTEMPTS - 1
    assert waits == sorted(waits)
    assert max(waits) <= 60


def test_an_endpoint_that_is_not_there_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=f"^{url}/chat/completions: no answer .* refused"):
            Grader(url, None, "judge-1", 0.0, wait=lambda _: None).grade([[("a?", "b")]])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {}, '{"error": "no such key"}'), r'refused with HTTP 401 \(\{"error": "no such key"\}\)$'),
        ((404, {}, "no such model"), r"the judge judge-1 refused with HTTP 404 \(no such model\)$"),
        ((200, {}, "<html>"), "did not answer in the format .* but '<html>'$"),
        ((200, {}, '{"choices": []}'), "did not answer in the format"),
        ((200, {}, '{"choices": [{"message": {"content": null}}]}'), "did not answer in the format"),
    ],
)
def test_what_waiting_does_not_help_is_an_error_at_once(answer: Answer, message: str) -> None:
    with JudgeServer(lambda _: answer) as server, pytest.raises(UserError, match=message) as raised:
        grader(server, key="secret").grade([[("a?", "b")]])
    assert len(server.requests) == 1
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("url", "message"), [(None, "is not set: mt_bench .* needs a judge"), ("judge:80", "http")])
def test_a_missing_judge_is_said_before_any_model_is_loaded(
    url: str | None, message: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_JUDGE", raising=False)
    if url:
        monkeypatch.setenv("SOME_JUDGE", url)
    harness = Harness(SETTINGS, write_records(tmp_path, {"mt_bench": questions(2)}), base)
    with pytest.raises(UserError, match=f"^the environment variable SOME_JUDGE .*{message}"):
        harness.score(tmp_path / "no such run", "full", ["mt_bench"])


@pytest.mark.parametrize(
    "item",
    [
        {"question_id": 1, "category": "math", "turns": ["one?"]},
        {"question_id": 1, "category": "math", "turns": ["one?", 2]},
        {"category": "math", "turns": ["one?", "two?"]},
        {"question_id": 1, "turns": ["one?", "two?"]},
    ],
)
def test_records_of_another_form(item: dict[str, Any], base: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path, {"mt_bench": [*questions(2), item]})
    with pytest.raises(UserError, match=r"mt_bench\.jsonl, line 3: is no item of mt_bench"):
        Harness(SETTINGS, records, base)


def test_a_conversation_reads_as_the_text_of_instruction_finetuning(base: Path) -> None:
    """Nothing of the first answer's tokens changes when it stands in the second prompt."""
    from scripts.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base)
    first = Fixed().conversation([], "the old tree?")
    second = Fixed().conversation([("the old tree?", "a small box")], "one cat?")
    answer = tokenizer.encode(" a small box")
    assert tokenizer.encode(second)[: len(tokenizer.encode(first)) + len(answer)] == tokenizer.encode(first) + answer


def test_the_stand_in_by_hand_grades_the_same_every_time() -> None:
    conversations = [[("a?", text)] for text in ("b", "c", "b")]
    with JudgeServer() as server:
        first, other, again = grader(server).grade(conversations)
    assert first == again
    assert 1 <= other.score <= 10


def test_the_way_to_the_judge_is_the_studys_and_not_the_specs() -> None:
    def launch(study: str) -> Any:
        return SimpleNamespace(grid=SimpleNamespace(study=load_study(study), name=study))

    asked = load_study("paper").evaluation.tasks.of("mt_bench")
    spec = {"task": "mt_bench", **asked.asked()}
    assert set(spec["judge"]) == {"model", "temperature"}
    assert judge_variables(launch("paper"), spec) == {"judge": asked.judge.model_dump()}
    assert judge_variables(launch("paper"), {"task": "gsm8k"}) == {}
    with pytest.raises(UserError, match=r"^study 'smoke' has no evaluation\.tasks\.mt_bench"):
        judge_variables(launch("smoke"), spec)
