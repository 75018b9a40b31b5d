"""What tests of the evaluation share: a small random model, models that give prepared answers, and sums by hand."""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.data.tokenizer import load_tokenizer, train_tokenizer
from scripts.evaluation.sandbox import ProgramResult

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "then",
    "it",
    "saw",
    "one",
    "small",
    "box",
    "near",
    "old",
    "tree",
]


class LengthRunner:
    """Passes programs whose text has an even length, and remembers what it was asked and within which limits."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.limits: list[dict[str, Any]] = []

    def run(self, programs: Sequence[tuple[str, str]], **limits: Any) -> list[ProgramResult]:
        self.asked += programs
        self.limits.append(limits)
        return [ProgramResult("passed" if len(program) % 2 == 0 else "wrong", "") for program, _ in programs]


class CannedLM(LM):  # type: ignore[misc]
    """Gives prepared texts, or loglikelihoods, to whatever it is asked, and remembers the questions."""

    def __init__(self, texts: Iterable[str] = (), loglikelihoods: Iterable[float] = ()) -> None:
        super().__init__()
        self._texts = list(texts)
        self._loglikelihoods = list(loglikelihoods)
        self.asked: list[tuple[Any, ...]] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += [request.args for request in requests]
        return self._texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.asked += [request.args for request in requests]
        return [(value, False) for value in self._loglikelihoods]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def write_records(directory: Path, records: dict[str, list[dict[str, Any]]]) -> dict[str, Path]:
    paths = {name: directory / f"{name}.jsonl" for name in records}
    for name, path in paths.items():
        path.write_text("".join(json.dumps(record) + "\n" for record in records[name]))
    return paths


def random_llama(seed: int, **config: Any) -> LlamaForCausalLM:
    """A tiny model with random weights; the rest of its configuration is the caller's."""
    torch.manual_seed(seed)
    shape = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=True,
        **config,
    )
    return LlamaForCausalLM(shape).eval()


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A random model that is sure of itself: with ordinary initial weights all tokens would be about as likely."""
    return random_llama(
        seed,
        vocab_size=len(tokenizer),
        max_position_embeddings=160,
        initializer_range=0.4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("base")
    rng = random.Random(2)
    texts = [f"Question: {sentence(rng, 20)}?\nAnswer: {rng.randrange(99)}\n    return xs" for _ in range(60)]
    train_tokenizer(texts, 360, directory)
    make_model(load_tokenizer(directory), seed=3).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer(base: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(base)


@pytest.fixture(scope="session")
def model64(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, attn_implementation="eager")


@torch.no_grad()
def loglikelihood(model64: Any, tokenizer: PreTrainedTokenizerFast, context: str, continuation: str) -> float:
    """log P(continuation | context) by the chain rule, one text in one forward pass."""
    start = len(tokenizer.encode(context))
    ids = torch.tensor([tokenizer.encode(context + continuation)])
    logs = torch.log_softmax(model64(ids).logits[0], dim=-1)
    return sum(float(logs[t - 1, ids[0, t]]) for t in range(start, ids.shape[1]))


@torch.no_grad()
def greedy_tokens(model: Any, tokenizer: PreTrainedTokenizerFast, prompt: str, count: int) -> list[int]:
    """The likeliest continuation, token by token without a cache, until the eos token."""
    ids = tokenizer.encode(prompt)
    start = len(ids)
    while len(ids) < start + count and tokenizer.eos_token_id not in ids[start:]:
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]
