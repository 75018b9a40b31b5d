"""The harness against models recomputed by hand, in float64 and one text at a time, and against known answers."""

import json
import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks.hellaswag import utils as real_hellaswag
from lm_eval.tasks.winogrande import preprocess_winogrande as real_winogrande
from lm_eval.utils import apply_template
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from scripts.common.errors import UserError
from scripts.components.tasks import arc_challenge, hellaswag, winogrande
from scripts.data.encoding import Encoding
from scripts.evaluation import placement
from scripts.evaluation.harness import Harness
from scripts.evaluation.language_model import LanguageModel, sample_nucleus
from scripts.evaluation.results import Result
from scripts.evaluation.tasks import TASK_FILES
from tests.evaluation.conftest import (
    WORDS,
    CannedLM,
    LengthRunner,
    greedy_tokens,
    loglikelihood,
    make_model,
    sentence,
    write_records,
)

pytestmark = pytest.mark.arithmetic

SETTINGS: dict[str, dict[str, Any]] = {
    "humaneval": {
        "task": "humaneval",
        "samples": 3,
        "temperature": 0.8,
        "top_p": 0.9,
        "max_new_tokens": 12,
        "timeout_seconds": 20.0,
        "memory_mb": 512,
    },
    "gsm8k": {"task": "gsm8k", "shots": 0, "max_new_tokens": 16},
    "hellaswag": {"task": "hellaswag", "shots": 0},
    "arc_challenge": {"task": "arc_challenge", "shots": 0},
    "winogrande": {"task": "winogrande", "shots": 0},
    "source_loss": {"task": "source_loss"},
    "target_loss": {"task": "target_loss"},
}
CHOICE_TASKS = ("hellaswag", "arc_challenge", "winogrande")


def make_records(count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    rng = random.Random(seed)

    def text(low: int, high: int) -> str:
        return sentence(rng, rng.randint(low, high))

    return {
        "humaneval": [
            {
                "task_id": f"Test/{i}",
                "prompt": f'def f{i}(xs):\n    """{text(2, 9)}"""\n',
                "entry_point": f"f{i}",
                "test": f"def check(candidate):\n    assert candidate([1]) == {i}",
                "canonical_solution": f"    return {i}\n",
            }
            for i in range(count)
        ],
        "gsm8k": [{"question": f"{text(3, 12)}?", "answer": f"1 + {i} = {1 + i}\n#### {1 + i}"} for i in range(count)],
        "hellaswag": [
            {
                "ind": i,
                "activity_label": text(1, 2),
                "ctx_a": f"{text(4, 9)}.",
                "ctx_b": text(1, 4),
                "ctx": "",
                "endings": [text(2, 7) for _ in range(4)],
                "label": str(rng.randrange(4)),
            }
            for i in range(count)
        ],
        "arc_challenge": [
            {
                "id": str(i),
                "question": f"{text(4, 9)}?",
                "choices": {"text": [text(1, 5) for _ in range(4)], "label": list("ABCD")},
                "answerKey": rng.choice("ABCD"),
            }
            for i in range(count)
        ],
        "winogrande": [
            {
                "sentence": f"{text(2, 8)} _ {text(2, 8)}.",
                "option1": rng.choice(WORDS),
                "option2": text(2, 3),
                "answer": rng.choice("12"),
            }
            for i in range(count)
        ],
        # With letters of several bytes. The last ones have several times the tokens that the model can hold.
        "source_loss": [{"text": f"{text(1, 4)} für ein Café 茶 {sentence(rng, 2 + 45 * i)}"} for i in range(count)],
        "target_loss": [{"instruction": f"{text(3, 20)}?", "response": f"Größe {text(1, 30)}"} for _ in range(count)],
    }


RECORDS = make_records(9, seed=0)
TRAINING_RECORDS = make_records(5, seed=100)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_records(tmp_path_factory.mktemp("records"), RECORDS)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_records(tmp_path_factory.mktemp("training-records"), TRAINING_RECORDS)


@pytest.fixture(scope="module")
def harness(base: Path, records: dict[str, Path]) -> Harness:
    return Harness(SETTINGS, records, base, runner=LengthRunner())


def until(text: str, stop: Sequence[str]) -> str:
    return text[: min((text.index(s) for s in stop if s in text), default=len(text))]


def choice_requests(name: str, item: dict[str, Any]) -> list[tuple[str, str]]:
    """Context and continuation of each choice, as written in the descriptions of the benchmarks."""
    if name == "hellaswag":
        context = f"{item['activity_label']}: {item['ctx_a']} {item['ctx_b'].capitalize()}"
        return [(context, " " + ending) for ending in item["endings"]]
    if name == "arc_challenge":
        return [(f"Question: {item['question']}\nAnswer:", " " + choice) for choice in item["choices"]["text"]]
    before, after = item["sentence"].split("_")
    return [(before + option, " " + after.strip()) for option in (item["option1"], item["option2"])]


def right_choice(name: str, item: dict[str, Any]) -> int:
    if name == "hellaswag":
        return int(item["label"])
    return "ABCD".index(item["answerKey"]) if name == "arc_challenge" else int(item["answer"]) - 1


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_multiple_choice_against_each_choice_scored_alone(
    name: str, harness: Harness, model64: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    result = harness.score(None, None, [name])[name]
    acc, acc_norm = [], []
    for item, sample in zip(RECORDS[name], result["samples"], strict=True):
        requests = choice_requests(name, item)
        expected = [loglikelihood(model64, tokenizer, *request) for request in requests]
        assert sample["loglikelihoods"] == pytest.approx(expected, rel=1e-4)
        per_character = [
            value / (len(continuation) - 1) for value, (_, continuation) in zip(expected, requests, strict=True)
        ]
        acc.append(float(expected.index(max(expected)) == right_choice(name, item)))
        acc_norm.append(float(per_character.index(max(per_character)) == right_choice(name, item)))
    recorded = {"acc": sum(acc) / len(acc)}
    if name != "winogrande":
        assert acc != acc_norm, "the items cannot tell acc from acc_norm"
        recorded["acc_norm"] = sum(acc_norm) / len(acc_norm)
    assert result["metrics"] == pytest.approx(recorded)
    assert result["metric"] == ("acc" if name == "winogrande" else "acc_norm")
    assert result["value"] == result["metrics"][result["metric"]]
    assert result["items"] == len(RECORDS[name])
    p = result["value"]
    assert result["stderr"] == pytest.approx((p * (1 - p) / (result["items"] - 1)) ** 0.5)


def test_greedy_answers_against_a_loop_by_hand(
    harness: Harness, model64: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    result = harness.score(None, None, ["gsm8k"])["gsm8k"]
    for item, sample in zip(RECORDS["gsm8k"], result["samples"], strict=True):
        prompt = f"Question: {item['question']}\nAnswer:"
        text = tokenizer.decode(greedy_tokens(model64, tokenizer, prompt, 16), skip_special_tokens=True)
        assert sample["completions"] == [until(text, ["Question:", "</s>", "<|im_end|>"])]


@pytest.mark.parametrize("free", [0, 700_000, 2**31])
def test_text_and_stops_are_those_of_lm_eval(base: Path, tokenizer: PreTrainedTokenizerFast, free: int) -> None:
    """Greedy, with stop sequences that begin and end within tokens, in rows that end at different steps."""
    model = AutoModelForCausalLM.from_pretrained(base)
    prompts = [item["prompt"].strip() for item in RECORDS["humaneval"]]

    def requests(stop: list[str]) -> list[Instance]:
        arguments = {"until": stop, "max_gen_toks": 30, "do_sample": False}
        return [Instance("generate_until", {}, (prompt, arguments), 0) for prompt in prompts]

    ours = LanguageModel(model, Encoding.read(base), free=lambda: free)
    unstopped = ours.generate_until(requests(["~~~"]))
    middles = [text[len(text) // 3 : len(text) // 3 + 3] for text in unstopped[::2]]
    stopped = ours.generate_until(requests(list(middles)))
    assert len({len(text) for text in stopped}) > 2
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    assert unstopped == theirs.generate_until(requests(["~~~"]), disable_tqdm=True)
    assert stopped == theirs.generate_until(requests(list(middles)), disable_tqdm=True)


def test_text_ends_at_the_eos_token(base: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The same model with two tokens renamed, so that one that it writes, and never read before, is called eos."""
    model = AutoModelForCausalLM.from_pretrained(base)
    prompt = "the cat sat"
    ids = greedy_tokens(model, tokenizer, prompt, 8)
    seen = tokenizer.encode(prompt)
    end = next(i for i in range(1, 8) if ids[i] not in seen + ids[:i])
    swapped = [tokenizer.eos_token_id, ids[end]]
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[swapped] = embeddings[swapped[::-1]]
    arguments = {"until": ["~~~"], "max_gen_toks": 8, "do_sample": False}
    lm = LanguageModel(model, Encoding.read(base))
    found = lm.generate_until([Instance("generate_until", {}, (prompt, arguments), 0)])
    assert found == [tokenizer.decode(ids[:end])]


def test_a_row_is_read_no_further_than_its_stop(base: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """One row stops in its third token, within a stop sequence of two; its copy with another prompt runs on."""
    model = AutoModelForCausalLM.from_pretrained(base)
    short, long = RECORDS["humaneval"][0]["prompt"], RECORDS["humaneval"][1]["prompt"]
    pieces = [tokenizer.decode(token) for token in greedy_tokens(model, tokenizer, short, 3)]
    stop = pieces[1][-1] + pieces[2]
    assert stop not in tokenizer.decode(greedy_tokens(model, tokenizer, long, 9))
    shapes: list[tuple[int, ...]] = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, ids: shapes.append(tuple(ids[0].shape)))
    lm = LanguageModel(model, Encoding.read(base))
    arguments = {"until": [stop], "max_gen_toks": 9, "do_sample": False}
    requests = [Instance("generate_until", {}, (prompt, arguments), 0) for prompt in (short, long, short)]
    first, _, third = lm.generate_until(requests)
    assert first == third == "".join(pieces).removesuffix(stop)
    longest = max(len(tokenizer.encode(prompt)) for prompt in (short, long))
    # Two different prompts, then three rows for two more tokens, then one row; the last token is not read.
    assert shapes == [(2, longest), (3, 1), (3, 1), *[(1, 1)] * 6]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.0, 0.5, 4.0, 30.0]),
    temperature=st.sampled_from([0.2, 0.8, 1.5]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
)
def test_the_nucleus_is_that_of_transformers(seed: int, spread: float, temperature: float, top_p: float) -> None:
    """Evenly spaced noise must meet every token as often as its probability says, within one space."""
    points, vocabulary = 4000, 90
    logits = spread * torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))
    kept = TemperatureLogitsWarper(temperature)(None, logits[None].clone())
    kept = TopPLogitsWarper(top_p)(None, kept)
    expected = torch.softmax(kept[0].double(), dim=-1)
    noise = (torch.arange(points) + 0.5) / points
    tokens = sample_nucleus(logits.expand(points, -1), temperature, top_p, noise)
    found = torch.bincount(tokens, minlength=vocabulary) / points
    # Among equally likely tokens it is free which are in the nucleus.
    assert found.sort().values == pytest.approx(expected.sort().values, abs=1.5 / points)
    if spread:
        assert found == pytest.approx(expected, abs=1.5 / points)


def test_the_ends_of_the_noise_stay_in_the_nucleus() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, -1.0]]).repeat(2, 1)
    # probabilities 0.70, 0.26, 0.03, 0.01: two tokens have the mass 0.8
    assert sample_nucleus(logits, 1.0, 0.8, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 2]


def test_narrow_wide_and_tied_nuclei_are_sampled_together_as_alone() -> None:
    """One token, 90 of which each is likelier than the one before or behind it, and 81 of 90 that are as likely."""
    ids, points = torch.arange(100.0), 40
    logits = torch.stack([-5 * ids, 1e-5 * ids, torch.where(ids < 10, -30.0, 0.0), -1e-5 * ids])
    noise = (torch.arange(points) + 0.5) / points
    alone = [sample_nucleus(row.expand(points, -1), 1.0, 0.9, noise).tolist() for row in logits]
    together = [sample_nucleus(logits, 1.0, 0.9, number.expand(4)).tolist() for number in noise]
    assert [list(row) for row in zip(*together, strict=True)] == alone
    evenly = [int(90 * number) for number in noise.tolist()]
    assert alone[0] == [0] * points
    assert alone[1] == [10 + number for number in evenly]
    assert min(alone[2]) >= 10
    assert alone[3] == evenly


@torch.no_grad()
def nats(model64: Any, context: list[int], continuation: list[int]) -> float:
    """-log P(continuation | context), in one forward pass over token ids that the model can hold."""
    ids = torch.tensor([context + continuation])
    assert ids.shape[1] <= 161
    logits = model64(ids[:, :-1]).logits[0, len(context) - 1 :]
    return float(torch.nn.functional.cross_entropy(logits, ids[0, len(context) :], reduction="sum"))


def assert_is_loss(result: Result, records: list[dict[str, Any]], losses: list[float], texts: list[str]) -> None:
    """`losses` in nats, one for each record, as `texts` of which the loss is."""
    sizes = [len(text.encode()) for text in texts]
    assert sum(sizes) > sum(map(len, texts)), "the records cannot tell bytes from characters"
    assert [sample["item"] for sample in result["samples"]] == list(range(len(records)))
    assert [sample["loglikelihood"] for sample in result["samples"]] == pytest.approx([-x for x in losses], rel=1e-4)
    assert [sample["bytes"] for sample in result["samples"]] == sizes
    bits = torch.tensor(losses, dtype=torch.float64) / torch.tensor(2.0, dtype=torch.float64).log()
    value = float(bits.sum()) / sum(sizes)
    assert (result["metric"], result["items"]) == ("bits_per_byte", len(records))
    assert result["metrics"] == {"bits_per_byte": result["value"]}
    assert result["value"] == pytest.approx(value, rel=1e-4)
    assert result["value"] == pytest.approx(
        lm_eval.api.metrics.bits_per_byte(list(zip([-x for x in losses], sizes, strict=True))), rel=1e-4
    )
    residuals = bits - value * torch.tensor(sizes)
    assert result["stderr"] == pytest.approx(float(residuals.std()) / (sum(sizes) * len(sizes) ** -0.5), rel=1e-3)


def test_loss_of_documents(harness: Harness, model64: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Each after an eos token. Where the model cannot hold all, windows follow each other, the last one filled up
    with what stands before it.
    """
    losses = []
    for item in RECORDS["source_loss"]:
        ids = tokenizer.encode(item["text"])
        loss = nats(model64, [tokenizer.eos_token_id], ids[:160])
        for start in range(160, len(ids), 160):
            end = min(start + 160, len(ids))
            loss += nats(model64, ids[end - 161 : start], ids[start:end])
        losses.append(loss)
    assert max(len(tokenizer.encode(item["text"])) for item in RECORDS["source_loss"]) > 320
    texts = [item["text"] for item in RECORDS["source_loss"]]
    assert_is_loss(harness.score(None, None, ["source_loss"])["source_loss"], RECORDS["source_loss"], losses, texts)


def test_every_token_of_a_document_counts_once(base: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A model without attention knows one token at a time: then windows make no difference, and a table says all."""
    model = make_model(tokenizer, seed=4)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    model.save_pretrained(tmp_path / "run")
    with torch.no_grad():
        table = torch.log_softmax(model.double()(torch.arange(len(tokenizer))[:, None]).logits[:, 0], dim=-1)
    words = tokenizer.encode(" the cat sat on a mat" * 100)
    # the middle two differ in their last token alone, and the last two not at all
    texts = [tokenizer.decode(words[:count]) for count in (1, 2, 159, 160, 161, 319, 320, 321, 400)]
    texts += ["a cat\n", "a cat", "a cat?", "the old tree", "the old tree"]
    records = write_records(tmp_path, {"source_loss": [{"text": text} for text in texts]})
    harness = Harness({"source_loss": SETTINGS["source_loss"]}, records, base)
    samples = harness.score(tmp_path / "run", "full", ["source_loss"])["source_loss"]["samples"]
    for text, sample in zip(texts, samples, strict=True):
        ids = tokenizer.encode(text)
        expected = float(table[[tokenizer.eos_token_id, *ids[:-1]], ids].sum())
        assert sample["loglikelihood"] == pytest.approx(expected, rel=1e-5)


def test_loss_of_responses(harness: Harness, model64: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """The tokens that training learns from, without the eos token behind them."""
    losses = []
    for item in RECORDS["target_loss"]:
        prompt, response = f"Question: {item['instruction']}\nAnswer:", f" {item['response']}"
        losses.append(nats(model64, tokenizer.encode(prompt), tokenizer.encode(response)))
    texts = [f" {item['response']}" for item in RECORDS["target_loss"]]
    assert_is_loss(harness.score(None, None, ["target_loss"])["target_loss"], RECORDS["target_loss"], losses, texts)


def test_a_prompt_that_leaves_no_room_loses_its_beginning(
    base: Path, model64: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    items = [{"instruction": "the old tree " * 80, "response": "a mat"}, *RECORDS["target_loss"][:1]]
    records = write_records(tmp_path, {"target_loss": items})
    harness = Harness({"target_loss": SETTINGS["target_loss"]}, records, base)
    sample = harness.score(None, None, ["target_loss"])["target_loss"]["samples"][0]
    response = tokenizer.encode(" a mat")
    prompt = tokenizer.encode(f"Question: {items[0]['instruction']}\nAnswer:")[-(161 - len(response)) :]
    assert sample["loglikelihood"] == pytest.approx(-nats(model64, prompt, response), rel=1e-4)


def test_a_task_can_be_asked_of_several_record_sets(base: Path, tmp_path: Path) -> None:
    """Each label has its own records, settings and results, and none depends on the others."""
    quick = SETTINGS["humaneval"] | {"timeout_seconds": 1.0}
    asked = {
        "test": (SETTINGS["humaneval"], RECORDS["humaneval"]),
        "validation": (SETTINGS["humaneval"], RECORDS["humaneval"][::-1][:4]),
        "quick": (quick, RECORDS["humaneval"]),
        "documents": (SETTINGS["target_loss"], RECORDS["source_loss"]),
        "instructions": (SETTINGS["target_loss"], RECORDS["target_loss"]),
    }
    records = write_records(tmp_path, {label: items for label, (_, items) in asked.items()})
    settings = {label: chosen for label, (chosen, _) in asked.items()}
    runner = LengthRunner()
    together = Harness(settings, records, base, runner=runner).score(None, None, list(asked))
    assert [limits["timeout_seconds"] for limits in runner.limits] == [20.0, 20.0, 1.0]
    assert [together[label]["items"] for label in asked] == [9, 4, 9, 9, 9]
    for label in asked:
        alone = Harness({label: settings[label]}, {label: records[label]}, base, runner=LengthRunner())
        assert alone.score(None, None, [label])[label] == together[label]
    assert together["documents"]["value"] != together["instructions"]["value"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"text": "one"}, {"text": None}], r"line 2: is no document \(text must be text, and is null\)"),
        (
            [{"text": "one"}, {"instruction": "two?", "response": "two"}],
            r"line 2: is no document \(it has no text",
        ),
        ([{"instruction": "two?", "response": "cat " * n} for n in (1, 200)], "at most the 160 tokens .*; the longest"),
    ],
)
def test_records_that_have_no_loss(items: list[dict[str, Any]], message: str, base: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path, {"source_loss": items})
    with pytest.raises(UserError, match=message):
        Harness({"source_loss": SETTINGS["source_loss"]}, records, base)


def test_programs_are_sampled_from_the_seed_alone(base: Path, records: dict[str, Path]) -> None:
    def outputs(seed: int, names: list[str]) -> list[list[str]]:
        torch.manual_seed(random.randrange(99))
        result = Harness(SETTINGS, records, base, seed=seed, runner=LengthRunner()).score(None, None, names)
        return [sample["completions"] for sample in result["humaneval"]["samples"]]

    first = outputs(0, ["humaneval"])
    assert first == outputs(0, ["gsm8k", "winogrande", "humaneval"])
    assert first != outputs(1, ["humaneval"])
    assert all(len(row) == 3 for row in first)
    assert any(len(set(row)) > 1 for row in first), "three samples of one problem must not be one sample thrice"


def test_scoring_leaves_the_callers_random_numbers_alone(harness: Harness) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    harness.score(None, None, ["humaneval"])
    assert torch.equal(torch.rand(3), expected)


def test_each_program_is_judged_once_and_pass_at_1_is_the_mean_share(base: Path, records: dict[str, Path]) -> None:
    runner = LengthRunner()
    harness = Harness(SETTINGS, records, base, runner=runner)
    completions = [random.Random(i).choice(["\n    return 1", "\n    return 22\n\n"]) for i in range(27)]
    result = harness.score_lm(CannedLM(completions), ["humaneval"])["humaneval"]
    shares = []
    for i, item in enumerate(RECORDS["humaneval"]):
        row = completions[3 * i : 3 * i + 3]
        programs = [item["prompt"].rstrip("\n") + text.rstrip("\n") + "\n" for text in row]
        check = f"{item['test']}\ncheck({item['entry_point']})"
        assert {(program, check) for program in programs} <= set(runner.asked)
        passed = ["passed" if len(program) % 2 == 0 else "wrong" for program in programs]
        assert result["samples"][i]["verdicts"] == passed
        assert result["samples"][i]["completions"] == row
        shares.append(passed.count("passed") / 3)
    assert 0 < sum(shares) < len(shares)
    assert len(set(runner.asked)) == len(runner.asked)
    assert result["value"] == pytest.approx(sum(shares) / 9)
    assert result["stderr"] == pytest.approx(torch.tensor(shares).std().item() / 3)
    asked = len(runner.asked)
    harness.score_lm(CannedLM(completions), ["humaneval"])
    assert len(runner.asked) == asked


def test_right_programs_pass_in_the_sandbox_and_wrong_ones_do_not(base: Path, records: dict[str, Path]) -> None:
    harness = Harness({"humaneval": SETTINGS["humaneval"]}, records, base)
    right = ["\n" + item["canonical_solution"] for item in RECORDS["humaneval"]]
    completions = [text for solution in right for text in (solution, "\n    return -1", "\n    return (")]
    result = harness.score_lm(CannedLM(completions), ["humaneval"])["humaneval"]
    assert [sample["verdicts"] for sample in result["samples"]] == [["passed", "wrong", "error"]] * 9
    assert result["value"] == pytest.approx(1 / 3)
    assert result["stderr"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        (" 1 + 1 = 2\n#### 2", "2", True),
        ("#### 2", "2", True),
        ("#### 2 The answer is: 2", "2", True),
        ("#### 2.", "2", True),
        ("#### 1,234", "1234", True),
        ("#### 1234", "1,234", True),
        ("#### -3", "-3", True),
        ("#### 0.5", "0.5", True),
        ("#### 3\n#### 4", "3", True),
        ("#### 3\n#### 4", "4", False),
        ("#### -3", "3", False),
        ("#### 2.0", "2", False),
        ("#### 02", "2", False),
        ("####2", "2", False),
        ("####  2", "2", False),
        ("#### $2", "2", False),
        ("### 2", "2", False),
        ("The answer is 2", "2", False),
        ("2", "2", False),
        ("", "2", False),
    ],
)
def test_strict_match(output: str, gold: str, right: bool, base: Path, tmp_path: Path) -> None:
    items = [{"question": "How many?", "answer": f"Some words.\n#### {gold}"}, *RECORDS["gsm8k"][:1]]
    harness = Harness({"gsm8k": SETTINGS["gsm8k"]}, write_records(tmp_path, {"gsm8k": items}), base)
    result = harness.score_lm(CannedLM([output, ""]), ["gsm8k"])["gsm8k"]
    assert result["samples"][0]["exact_match"] == float(right)
    assert result["value"] == float(right) / 2


@pytest.mark.parametrize(
    ("output", "strict", "flexible"),
    [
        ("9 * 2 = 18\n#### 18", "18", "18"),
        ("#### 18\nThe answer is: 18", "18", "18"),
        ("The answer is 18.", None, "18."),
        ("He pays $18", None, "$18"),
        ("#### 17 and not 18", "17", "18"),
        ("#### 18, of 20", "18,", "20"),
        ("Eighteen", None, None),
    ],
)
def test_strict_and_flexible_answers(
    output: str, strict: str | None, flexible: str | None, base: Path, tmp_path: Path
) -> None:
    """What each of lm-eval's filters finds; the strict one counts. A comma, a dollar and a full stop do not."""
    items = [{"question": "How many?", "answer": "He has 9 * 2 = 18.\n#### 18"}, *RECORDS["gsm8k"][:2]]
    harness = Harness({"gsm8k": SETTINGS["gsm8k"]}, write_records(tmp_path, {"gsm8k": items}), base)
    result = harness.score_lm(CannedLM([output, "", "It is 1 + 1 = 2."]), ["gsm8k"])["gsm8k"]
    first, second, third = result["samples"]
    assert (first["answer"], first["flexible_answer"]) == (strict or "[invalid]", flexible or "[invalid]")
    right = [bool(found) and found.strip("$.,") == "18" for found in (strict, flexible)]
    assert [first["exact_match"], first["flexible"]] == right
    assert (second["exact_match"], second["flexible"]) == (0, 0)
    assert (third["exact_match"], third["flexible"]) == (0, 1)
    assert (result["metric"], result["items"]) == ("exact_match", 3)
    assert result["value"] == pytest.approx(right[0] / 3)
    assert result["metrics"] == pytest.approx({"exact_match": right[0] / 3, "flexible": (right[1] + 1) / 3})


def test_what_is_asked_of_a_model(harness: Harness) -> None:
    """The texts, word by word, and the ways in which text is written."""
    lm = CannedLM([""] * 27)
    harness.score_lm(lm, ["humaneval"])
    prompt, arguments = lm.asked[0]
    assert prompt == RECORDS["humaneval"][0]["prompt"].removesuffix("\n")
    stop = ["\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"]
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "max_gen_toks": 12}
    assert arguments == {"until": stop, **sampling}
    lm = CannedLM([""] * 9)
    harness.score_lm(lm, ["gsm8k"])
    assert lm.asked[0][0] == f"Question: {RECORDS['gsm8k'][0]['question']}\nAnswer:"
    stop = ["Question:", "</s>", "<|im_end|>"]
    assert lm.asked[0][1] == {"until": stop, "do_sample": False, "max_gen_toks": 16}
    for name in CHOICE_TASKS:
        expected = [request for item in RECORDS[name] for request in choice_requests(name, item)]
        lm = CannedLM(loglikelihoods=[-1.0] * len(expected))
        harness.score_lm(lm, [name])
        assert lm.asked == expected
    lm = CannedLM(loglikelihoods=[-1.0] * 9)
    harness.score_lm(lm, ["target_loss"])
    first = RECORDS["target_loss"][0]
    assert lm.asked[0] == (f"Question: {first['instruction']}\nAnswer:", f" {first['response']}")


def test_the_long_choice_can_win_by_acc_norm_only(base: Path, tmp_path: Path) -> None:
    item = RECORDS["arc_challenge"][0] | {
        "choices": {"text": ["ab", "abcdefgh", "abc"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    }
    paths = write_records(tmp_path, {"arc_challenge": [item, item]})
    harness = Harness({"arc_challenge": SETTINGS["arc_challenge"]}, paths, base)
    # per character: -1.5, -0.5, -1.3 and -1.0, -0.5, -0.3
    lm = CannedLM(loglikelihoods=[-3.0, -4.0, -3.9, -2.0, -4.0, -0.9])
    result = harness.score_lm(lm, ["arc_challenge"])["arc_challenge"]
    assert [(sample["acc"], sample["acc_norm"]) for sample in result["samples"]] == [(0, 1), (0, 0)]
    assert (result["metric"], result["value"], result["metrics"]["acc"]) == ("acc_norm", 0.5, 0)


def real_task(path: str) -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Leaves functions as their names."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    task: dict[str, Any] = yaml.load((Path(lm_eval.tasks.__file__).parent / path).read_text(), Loader)
    return task


def test_texts_are_those_of_the_real_tasks() -> None:
    marks = {
        "activity_label": " Making tea",
        "ctx_a": "[header] How to make tea [title] Boil water. [step] Then  wait.",
        "ctx_b": "the Tea",
        "endings": ["is [substeps] hot.", " [title] Done.  Now drink."],
        "label": "1",
    }
    for item in [marks, *RECORDS["hellaswag"]]:
        context = item["activity_label"] + ": " + item["ctx_a"] + " " + item["ctx_b"].capitalize()
        assert hellaswag.context(item) == real_hellaswag.preprocess(context)
        assert hellaswag.endings(item) == [real_hellaswag.preprocess(text) for text in item["endings"]]
    for item in RECORDS["winogrande"]:
        assert winogrande.answer(item) == real_winogrande.doc_to_text(item)
        assert winogrande.contexts(item) == real_winogrande.doc_to_choice(item)
        assert winogrande.continuation(item) == real_winogrande.doc_to_target(item)
    arc = real_task("arc/arc_easy.yaml")
    for item in RECORDS["arc_challenge"]:
        assert str(arc_challenge.answer(item)) == apply_template(arc["doc_to_target"], item)
        assert str(arc_challenge.choices(item)) == apply_template(arc["doc_to_choice"], item)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gsm8k", "gsm8k/gsm8k.yaml"),
        ("hellaswag", "hellaswag/hellaswag.yaml"),
        ("arc_challenge", "arc/arc_easy.yaml"),
        ("winogrande", "winogrande/default.yaml"),
    ],
)
def test_task_files_score_as_the_real_tasks(name: str, path: str) -> None:
    ours, real = real_task(str(TASK_FILES / f"{name}.yaml")), real_task(path)
    keys = ["output_type", "metric_list", "metadata"]
    if name == "gsm8k":
        keys += ["doc_to_text", "doc_to_target"]
        assert ours["generation_kwargs"]["until"] == real["generation_kwargs"]["until"]
        assert ours["filter_list"] == real["filter_list"]
    if name == "arc_challenge":
        keys += ["doc_to_text"]
    assert {key: ours[key] for key in keys} == {key: real[key] for key in keys}


def test_shots_come_from_the_training_records(base: Path, records: dict[str, Path], shots: dict[str, Path]) -> None:
    def asked(seed: int) -> list[str]:
        settings = {
            "gsm8k": {"task": "gsm8k", "shots": 2, "max_new_tokens": 4},
            "winogrande": {"task": "winogrande", "shots": 1},
        }
        harness = Harness(settings, records, base, seed=seed, shots=shots)
        answers, choices = CannedLM([""] * 9), CannedLM(loglikelihoods=[-1.0] * 18)
        harness.score_lm(answers, ["gsm8k"])
        harness.score_lm(choices, ["winogrande"])
        again = CannedLM([""] * 9)
        harness.score_lm(again, ["gsm8k"])
        assert again.asked == answers.asked, "every model must see the same shots"
        return [arguments[0] for arguments in answers.asked + choices.asked]

    first = asked(0)
    answered = {f"Question: {item['question']}\nAnswer: {item['answer']}" for item in TRAINING_RECORDS["gsm8k"]}
    for prompt, item in zip(first[:9], RECORDS["gsm8k"], strict=True):
        *examples, question = prompt.split("\n\n")
        assert len(examples) == len(set(examples)) == 2
        assert set(examples) <= answered
        assert question == f"Question: {item['question']}\nAnswer:"
    filled = {re.sub("_", item[f"option{item['answer']}"], item["sentence"]) for item in TRAINING_RECORDS["winogrande"]}
    assert all(context.split("\n\n")[0] in filled for context in first[9:])
    assert first != asked(1)


@pytest.mark.parametrize(
    ("name", "settings", "count", "message"),
    [
        ("gsm8k", {"shots": 5, "max_new_tokens": 4}, 9, r"evaluation\.tasks\.gsm8k\.shots: 5 shots need"),
        ("gsm8k", {"shots": 0, "max_new_tokens": 160}, 9, r"gsm8k\.max_new_tokens: must be less than the 160"),
        ("winogrande", {"shots": 0}, 1, "at least two items, there are 1"),
        ("source_loss", {}, 1, "at least two items, there are 1"),
    ],
)
def test_what_a_person_can_put_right(
    name: str, settings: dict[str, Any], count: int, message: str, base: Path, tmp_path: Path
) -> None:
    paths = write_records(tmp_path, {name: RECORDS[name][:count]})
    with pytest.raises(UserError, match=message):
        Harness({name: {"task": name, **settings}}, paths, base)


def test_the_model_of_a_run_is_scored_in_silence(
    base: Path,
    harness: Harness,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_model(tokenizer, seed=9).save_pretrained(tmp_path)
    model64 = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    capfd.readouterr()
    monkeypatch.setattr(placement, "CPU_BYTES", 2_000_000)  # more than one batch
    labels = ["winogrande", "gsm8k", "source_loss", "target_loss"]
    results = harness.score(tmp_path, "full", labels)
    assert list(results) == labels
    for item, sample in zip(RECORDS["winogrande"], results["winogrande"]["samples"], strict=True):
        expected = [loglikelihood(model64, tokenizer, *r) for r in choice_requests("winogrande", item)]
        assert sample["loglikelihoods"] == pytest.approx(expected, rel=1e-4)
    assert json.loads(json.dumps(results)) == results
    assert capfd.readouterr() == ("", "")
    base_again = harness.score(None, None, ["winogrande"])["winogrande"]
    assert base_again["samples"] != results["winogrande"]["samples"]


def test_as_many_shots_as_records_are_too_many_where_lm_eval_draws_one_more(base: Path, tmp_path: Path) -> None:
    items, pool = (tmp_path / name for name in ("items", "pool"))
    items.mkdir()
    pool.mkdir()
    records = write_records(items, {"winogrande": RECORDS["winogrande"][:3]})
    for count, ok in ((2, False), (3, True)):
        drawn = write_records(pool, {"winogrande": TRAINING_RECORDS["winogrande"][:count]})
        ask = partial(Harness, {"winogrande": {"task": "winogrande", "shots": 2}}, records, base, shots=drawn)
        if ok:
            ask().score_lm(CannedLM(loglikelihoods=[-1.0] * 6), ["winogrande"])
        else:
            with pytest.raises(UserError, match=r"winogrande\.shots: 2 shots are drawn from at least 3 records, there"):
                ask()
