"""The generated data sets: formats, truth of the answers, and that no test item is in training data."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from scripts.data.generators import GENERATORS

SETTINGS = (
    "everyday-documents",
    "code-documents",
    "math-documents",
    "code-instructions",
    "math-instructions",
    "chat-instructions",
)
TASKS = (
    "humaneval",
    "gsm8k",
    "hellaswag",
    "arc-challenge",
    "winogrande",
    "mmlu",
    "lambada",
    "winograd",
    "mt-bench",
)


@cache
def records(name: str, count: int = 200, seed: int = 0, split: str = "test") -> tuple[dict[str, Any], ...]:
    return tuple(GENERATORS[name](count, seed, split))


@cache
def training_text() -> str:
    parts = []
    for name in SETTINGS:
        for record in records(name, 8000, 0, "train"):
            parts.append(record.get("text") or f"{record['instruction']}\n{record['response']}")
    return "\n\n".join(parts)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("everyday-documents", {"text"}),
        ("code-documents", {"text"}),
        ("math-documents", {"text"}),
        ("code-instructions", {"instruction", "response"}),
        ("math-instructions", {"instruction", "response"}),
        ("chat-instructions", {"instruction", "response"}),
        ("humaneval", {"task_id", "prompt", "entry_point", "test", "canonical_solution"}),
        ("gsm8k", {"question", "answer"}),
        ("hellaswag", {"ind", "activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"}),
        ("arc-challenge", {"id", "question", "choices", "answerKey"}),
        ("winogrande", {"sentence", "option1", "option2", "answer"}),
        ("mmlu", {"subject", "question", "choices", "answer"}),
        ("lambada", {"text"}),
        ("winograd", {"text", "pronoun", "pronoun_loc", "quote", "quote_loc", "options", "label", "source"}),
        ("mt-bench", {"question_id", "category", "turns"}),
    ],
)
def test_records_have_the_keys_of_the_real_set(name: str, keys: set[str]) -> None:
    for split in ("train", "test", "validation"):
        made = records(name, 100, 0, split)
        assert len(made) == 100
        assert all(set(record) == keys for record in made)


def test_every_generator_is_covered_here() -> None:
    assert set(GENERATORS) == {*SETTINGS, *TASKS}


@pytest.mark.parametrize("name", [*SETTINGS, *TASKS])
def test_same_arguments_give_the_same_records(name: str) -> None:
    assert list(GENERATORS[name](50, 3, "train")) == list(GENERATORS[name](50, 3, "train"))
    assert list(GENERATORS[name](50, 3, "train")) != list(GENERATORS[name](50, 4, "train"))
    assert list(GENERATORS[name](50, 3, "train")) != list(GENERATORS[name](50, 3, "test"))


def test_another_process_makes_the_same_bytes() -> None:
    """Whatever the seed of its hashes: the order of a set's elements must be nowhere in a record."""
    script = (
        "import hashlib, json; from scripts.data.generators import GENERATORS; "
        "texts = [json.dumps([*make(150, 0, 'test')]) for make in GENERATORS.values()]; "
        "print(*(hashlib.sha256(text.encode()).hexdigest() for text in texts))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(set(found.pop().split())) == len(GENERATORS)


@pytest.mark.parametrize("name", [*SETTINGS, *TASKS])
def test_more_records_go_on_where_fewer_end(name: str) -> None:
    assert list(GENERATORS[name](20, 0, "train")) == list(GENERATORS[name](40, 0, "train"))[:20]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'dev' is not one of"):
        next(GENERATORS["gsm8k"](1, 0, "dev"))


@pytest.mark.parametrize("name", TASKS)
def test_no_item_comes_twice(name: str) -> None:
    made = [
        str(sorted((k, str(v)) for k, v in record.items() if k not in ("ind", "task_id", "question_id")))
        for record in records(name)
    ]
    assert len(set(made)) == len(made)


# What makes an item: the rules that it combines, without the label, the numbers or the order of choices.


def _code_items(text: str) -> Iterator[str]:
    for words, argument in re.findall(r"(?:[Rr]eturns?) (the .*? (?:in|below)) (\w+)\.", text):
        assert argument
        yield words


def _math_items(text: str) -> Iterator[str]:
    """Stories up to the question or the end, without numbers and sums."""
    for line in text.split("\n"):
        story = re.sub(r" Now it is [^.]*\.", "", line.removeprefix("Question: "))
        if re.match(r"[A-Z][a-z]+ has \d+ \w+\. (She|He) ", story):
            yield re.sub(r"\d+", "#", re.split(r" How many| In the end", story)[0])


def _twin_key(sentence: str, things: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    for thing in things:
        sentence = re.sub(rf"\b{thing}\b", "*", sentence)
    return re.sub(r"^[A-Z][a-z]+ bought", "bought", sentence).rsplit(" ", 1)[0], tuple(sorted(things))


def _twin_items(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for sentence in re.findall(r"[A-Z][^.\n]* the \w+ [^.\n]*\.", text) + re.findall(r"The \w+ [^.\n]*\.", text):
        found = re.match(
            r"The (\w+) (?:did not fit in|could not carry|and) the (\w+) .* the (?:\1|\2) "
            r"|[A-Z]\w+ bought the (\w+) and the (\w+) and for",
            sentence,
        )
        if found:
            first, second = (word for word in found.groups() if word)
            yield _twin_key(sentence, (first, second))


@pytest.mark.parametrize("held_out", ["test", "validation"])
class TestNoItemIsTrainedOn:
    def test_humaneval(self, held_out: str) -> None:
        trained = set(_code_items(training_text()))
        assert len(trained) > 500
        asked = {item for record in records("humaneval", 999, 0, held_out) for item in _code_items(record["prompt"])}
        assert len(asked) > 60
        assert not asked & trained

    def test_gsm8k(self, held_out: str) -> None:
        trained = set(_math_items(training_text()))
        assert len(trained) > 2000
        asked = {item for record in records("gsm8k", 300, 0, held_out) for item in _math_items(record["question"])}
        assert len(asked) == 300
        assert not asked & trained

    def test_hellaswag(self, held_out: str) -> None:
        trained = set(re.findall(r"^(\w+ the [\w ]+: \w+)", training_text(), re.MULTILINE))
        assert len(trained) > 500
        asked = {
            f"{record['activity_label']}: {record['ctx_a'].split()[0]}"
            for record in records("hellaswag", 9999, 0, held_out)
        }
        assert len(asked) > 100
        assert not asked & trained

    def test_arc(self, held_out: str) -> None:
        trained = set(re.findall(r"^Question: (.*\?)$", training_text(), re.MULTILINE))
        asked = {record["question"] for record in records("arc-challenge", 9999, 0, held_out)}
        assert len(asked) > 100
        assert not asked & trained

    def test_winogrande(self, held_out: str) -> None:
        trained = set(_twin_items(training_text()))
        assert len(trained) > 500
        asked = {
            _twin_key(record["sentence"].replace("_", record["option1"]), (record["option1"], record["option2"]))
            for record in records("winogrande", 300, 0, held_out)
        }
        assert len(asked) == 300
        assert not asked & trained

    def test_mmlu(self, held_out: str) -> None:
        trained = set(re.findall(r"^(?:Question: )?([^:\n]*\?)$", training_text(), re.MULTILINE))
        asked = {record["question"] for record in records("mmlu", 9999, 0, held_out)}
        assert len(asked) > 200
        assert not asked & trained
        assert {record["question"] for record in records("mmlu", 9999, 0, "train")} & trained

    def test_lambada(self, held_out: str) -> None:
        """What stands before the last word was never followed by anything: it is not in the training text at all."""
        text = training_text()
        asked = records("lambada", 300, 0, held_out)
        assert len(asked) == 300
        assert not any(record["text"].rpartition(" ")[0] in text for record in asked)

    def test_winograd(self, held_out: str) -> None:
        trained = set(_twin_items(training_text()))
        asked = set()
        for record in records("winograd", 300, 0, held_out):
            before, after = record["text"][: record["pronoun_loc"]], record["text"][record["pronoun_loc"] + 2 :]
            first, second = (option.removeprefix("the ") for option in record["options"])
            asked.add(_twin_key(f"{before}the {first}{after}", (first, second)))
        assert len(asked) == 300
        assert not asked & trained

    def test_mt_bench(self, held_out: str) -> None:
        """Neither turn asks for what training text or an instruction of it has."""
        text, instructions = training_text(), {record["instruction"] for record in _trained_instructions()}
        functions, stories = set(_code_items(text)), set(_math_items(text))
        for record in records("mt-bench", 100, 0, held_out):
            first, second = record["turns"]
            if record["category"] == "coding":
                assert not {*_code_items(first), *_code_items(second)} & functions
                assert len({*_code_items(first), *_code_items(second)}) == 2
            elif record["category"] == "math":
                story = first.split(" How many")[0]
                whole = f"{story} {second}"
                assert len({*_math_items(story), *_math_items(whole)}) == 2
                assert not {*_math_items(story), *_math_items(whole)} & stories
            elif record["category"] == "knowledge":
                assert not any(turn in text for turn in (first, second))
            else:
                other = second.removeprefix("Now tell the same of ").removesuffix(".")
                assert not {first, re.sub(r"Tell how \w+", f"Tell how {other}", first)} & instructions

    def test_chat_instructions(self, held_out: str) -> None:
        trained = {record["instruction"] for record in _trained_instructions()}
        asked = {record["instruction"] for record in records("chat-instructions", 2000, 0, held_out)}
        kinds = Counter(re.match(r"\w+", instruction)[0] for instruction in asked)  # type: ignore[index]
        assert {"Write", "Tell", "The", "Where", "Anna"} <= set(kinds)
        shared = asked & trained
        # nothing but numbers distinguishes math problems: their rules are compared below
        assert not {instruction for instruction in shared if "How many" not in instruction}
        stories = {item for instruction in asked for item in _math_items(instruction)}
        assert len(stories) > 100
        assert not stories & set(_math_items(training_text()))


@cache
def _trained_instructions() -> tuple[dict[str, Any], ...]:
    return tuple(record for name in SETTINGS if "instructions" in name for record in records(name, 8000, 0, "train"))


def _passes(program: str) -> bool:
    try:
        exec(program, {})
    except Exception:
        return False
    return True


def test_canonical_solutions_pass_and_other_solutions_do_not() -> None:
    problems = records("humaneval", 80)
    for problem in problems:
        check = f"\n{problem['test']}\ncheck({problem['entry_point']})"
        assert _passes(problem["prompt"] + problem["canonical_solution"] + check)
        assert not _passes(problem["prompt"] + "    return None\n" + check)
    confused = 0
    for problem, other in pairwise(problems):
        argument = re.search(r"\((\w+)\)", problem["prompt"])[1]  # type: ignore[index]
        its = re.search(r"\((\w+)\)", other["prompt"])[1]  # type: ignore[index]
        body = re.sub(rf"\b{its}\b", argument, other["canonical_solution"])
        confused += _passes(f"{problem['prompt']}{body}\n{problem['test']}\ncheck({problem['entry_point']})")
    assert confused <= 2


@pytest.mark.parametrize("name", ["gsm8k", "math-instructions"])
def test_answers_are_what_the_story_tells(name: str) -> None:
    for record in records(name):
        question, answer = record.values()
        start, *events = re.findall(r"(has|buys|finds|gets|loses|sells|gives away) (\d+)", question)
        total = int(start[1])
        for verb, amount in events:
            total += int(amount) * (1 if verb in ("buys", "finds", "gets") else -1)
            assert total >= 0
        assert len(events) == answer.count("=") == len(answer.split("\n")) - 1
        assert answer.endswith(f"\n#### {total}")
        for left, sign, right, result in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", answer):
            assert int(result) == (int(left) + int(right) if sign == "+" else int(left) - int(right))


def test_hellaswag_answers_are_what_training_tells() -> None:
    told: dict[str, set[str]] = {}
    for record in records("everyday-documents", 30000, 0, "train"):
        label, colon, script = record["text"].partition(": ")
        if colon and re.match(r"\w+ the ", label):
            told.setdefault(label, set()).add(re.sub(r"^\w+ |(?<=\. )(She|He) ", "", script))
    assert all(len(scripts) == 1 for scripts in told.values())
    known = 0
    for record in records("hellaswag"):
        if scripts := told.get(record["activity_label"]):
            before = re.sub(r"^\w+ |(?<=\. )(She|He) ", "", record["ctx_a"])
            going_on = [ending for ending in record["endings"] if next(iter(scripts)).startswith(f"{before} {ending}")]
            assert going_on == [record["endings"][int(record["label"])]]
            known += 1
    assert known > 100


def test_arc_answers_are_what_training_tells() -> None:
    told: dict[tuple[str, str], set[str]] = {}
    kinds = {
        "color": "color",
        "eat": "food",
        "food": "food",
        "live": "home",
        "place": "home",
        "do what": "skill",
        "do well": "skill",
        "skill": "skill",
    }
    for record in records("everyday-documents", 30000, 0, "train"):
        for question, answer in re.findall(r"Question: (.*)\nAnswer: (\w+)", record["text"]):
            if "How many" not in question:
                animal = re.findall(r"[Tt]he (\w+ \w+)", question)[-1]
                kind = next(
                    kinds[word] for word in re.findall(r"color|eat|food|live|place|do what|do well|skill", question)
                )
                told.setdefault((animal, kind), set()).add(answer)
    assert len(told) > 300
    assert all(len(answers) == 1 for answers in told.values())
    known = 0
    for record in records("arc-challenge"):
        animal = re.findall(r"[Tt]he (\w+ \w+)", record["question"])[-1]
        kind = next(
            kinds[word] for word in re.findall(r"color|eat|food|live|place|do what|do well|skill", record["question"])
        )
        if answers := told.get((animal, kind)):
            assert record["choices"]["text"]["ABCD".index(record["answerKey"])] == next(iter(answers))
            known += 1
    assert known > 100


def _animal_facts(text: str) -> dict[str, str]:
    """Question to answer, as stated anywhere in it."""
    return dict(re.findall(r"^Question: (.*\?)\nAnswer: (\w+)$", text, re.MULTILINE))


def test_mmlu_answers_are_what_training_tells() -> None:
    told = _animal_facts("\n".join(record["text"] for record in records("everyday-documents", 30000, 0, "train")))
    known = Counter[str]()
    for record in records("mmlu", 2000, 0, "train"):
        assert len(record["choices"]) == 4
        if record["question"] in told:
            assert record["choices"][record["answer"]] == told[record["question"]]
            known[record["subject"]] += 1
    assert len(known) >= 4
    assert min(known.values()) > 50
    # the subjects in turn: every one has items however few are asked for
    assert {record["subject"] for record in records("mmlu", 4)} == set(known)
    assert max(Counter(record["subject"] for record in records("mmlu", 100)).values()) == 25


def test_lambada_is_the_last_word_of_an_everyday_document() -> None:
    text = "\n".join(record["text"] for record in records("everyday-documents", 30000, 0, "train"))
    found = 0
    for record in records("lambada", 300, 0, "train"):
        context, word = record["text"].rsplit(" ", 1)
        assert word.isalpha()
        after = {match[1] for match in re.finditer(re.escape(context) + r" (\w+)", text)}
        assert after <= {word}
        found += bool(after)
    assert found > 30


def test_winograd_is_winogrande_with_a_pronoun() -> None:
    """What a pronoun means is what the same sentence with a blank is filled with."""
    filled = {
        record["sentence"].replace("_", record[f"option{record['answer']}"])
        for record in records("winogrande", 5000, 0, "train")
    }
    known = 0
    for record in records("winograd", 5000, 0, "train"):
        place, end = record["pronoun_loc"], record["pronoun_loc"] + len(record["pronoun"])
        assert record["text"][place:end] == record["pronoun"]
        assert record["text"][record["quote_loc"] :].startswith(record["quote"])
        right, wrong = (
            record["text"][:place] + record["options"][which] + record["text"][end:]
            for which in (record["label"], 1 - record["label"])
        )
        assert wrong not in filled
        known += right in filled
    assert known > 500


def test_chat_is_a_mix_of_code_math_and_everyday_questions() -> None:
    made = records("chat-instructions", 2000)
    shares = Counter(
        "code" if "def " in record["response"] else "math" if "####" in record["response"] else "everyday"
        for record in made
    )
    assert min(shares.values()) > 500
    assert set(shares) == {"code", "math", "everyday"}
    told = {record["text"].partition(": ")[2] for record in records("everyday-documents", 20000, 0, "test")}
    scripts = [record["response"] for record in made if record["instruction"].startswith("Tell how")]
    assert sum(script in told for script in scripts) > len(scripts) / 4
    programs = [record["response"] for record in made if "def " in record["response"]]
    assert all(_passes(program) for program in programs)


def test_mt_bench_asks_in_every_category_in_turn() -> None:
    made = records("mt-bench", 12)
    assert [record["question_id"] for record in made] == list(range(1, 13))
    assert len({record["category"] for record in made}) == 4
    assert [record["category"] for record in made[:4]] * 3 == [record["category"] for record in made]
    assert all(len(record["turns"]) == 2 for record in made)
    # an exhausted category ends the items; it does not go on drawing for ever
    assert 100 < len(list(GENERATORS["mt-bench"](100_000, 0, "validation"))) < 100_000


@pytest.mark.parametrize(
    ("name", "choices"), [("hellaswag", 4), ("arc-challenge", 4), ("winogrande", 2), ("mmlu", 4), ("winograd", 2)]
)
def test_choices_differ_and_labels_are_balanced(name: str, choices: int) -> None:
    made = records(name, 400)
    labels = Counter[str | int]()
    for record in made:
        if name == "hellaswag":
            options, label = record["endings"], record["label"]
        elif name == "arc-challenge":
            options, label = record["choices"]["text"], record["answerKey"]
            assert record["choices"]["label"] == ["A", "B", "C", "D"]
        elif name == "mmlu":
            options, label = record["choices"], record["answer"]
        elif name == "winograd":
            options, label = record["options"], record["label"]
        else:
            options, label = [record["option1"], record["option2"]], record["answer"]
            assert record["sentence"].count("_") == 1
        assert len(set(options)) == choices
        labels[label] += 1
    expected = len(made) / choices
    # Chi-square with at most three degrees of freedom stays under 16 with probability 0.999.
    assert sum((labels[label] - expected) ** 2 / expected for label in labels) < 16
    assert len(labels) == choices


def test_winogrande_is_not_answered_by_place_or_word() -> None:
    made = records("winogrande", 1000)
    first = Counter[str]()
    for record in made:
        options = sorted((record["option1"], record["option2"]), key=record["sentence"].index)
        right = record["option1"] if record["answer"] == "1" else record["option2"]
        first[f"{record['sentence'].split()[-1]} {options.index(right)}"] += 1
    compared = ("wide", "narrow", "loud", "soft", "high", "low")
    for word in compared:
        place = first[f"{word}. 0"]
        assert 0.3 < place / (place + first[f"{word}. 1"]) < 0.7


@pytest.mark.parametrize("vocab_size", [400, 1024])
def test_prompts_end_where_tokens_end(tmp_path: Any, vocab_size: int) -> None:
    from scripts.data.tokenizer import load_tokenizer, train_tokenizer

    train_tokenizer(
        (record["text"] for name in SETTINGS[:3] for record in records(name, 500, 0, "train")), vocab_size, tmp_path
    )
    tokenizer = load_tokenizer(tmp_path)

    def pairs() -> Iterator[tuple[str, str]]:
        for record in records("humaneval", 40):
            yield record["prompt"], record["canonical_solution"]
        for record in records("gsm8k", 40):
            yield f"Question: {record['question']}\nAnswer:", f" {record['answer']}"
        for record in records("arc-challenge", 40):
            yield f"Question: {record['question']}\nAnswer:", f" {record['choices']['text'][0]}"
        for record in records("hellaswag", 40):
            yield (
                f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}",
                f" {record['endings'][0]}",
            )
        for record in records("winogrande", 40):
            before, after = record["sentence"].split("_")
            yield before + record["option1"], after
        for record in records("mmlu", 40):
            yield f"Question: {record['question']}\nAnswer:", f" {record['choices'][0]}"
        for record in records("lambada", 40):
            context, word = record["text"].rsplit(" ", 1)
            yield context, f" {word}"
        for record in records("winograd", 40):
            end = record["pronoun_loc"] + len(record["pronoun"])
            yield record["text"][: record["pronoun_loc"]] + record["options"][0], record["text"][end:]
        for record in records("chat-instructions", 40):
            yield f"Question: {record['instruction']}\nAnswer:", f" {record['response']}"

    for prompt, answer in pairs():
        whole = tokenizer(prompt + answer)["input_ids"]
        assert tokenizer(prompt)["input_ids"] + tokenizer(answer)["input_ids"] == whole
        assert tokenizer.decode(whole) == prompt + answer
