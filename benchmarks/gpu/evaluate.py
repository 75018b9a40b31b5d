"""Programs and likelihoods a second at the shape of Llama-2-7B, by the project's own way to write text.

Programs: prompts as HumanEval's, 50 samples of each in batches of the harness's size, at temperature 0.2, none of which
ends early. Likelihoods: items of four choices behind a prompt of five shots.

A study's evaluation leaves its models on the CPU so far. The part says so as long as it is so, and puts the model on
the device by hand.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance

from benchmarks.gpu.models import LLAMA_2_7B, TINY, Shape, free, network
from benchmarks.gpu.part import Bench, Clock
from scripts.data.encoding import Encoding
from scripts.data.generators import code, math
from scripts.data.tokenizer import train_tokenizer
from scripts.evaluation.harness import BATCH_SIZE, Harness, _quiet
from scripts.evaluation.language_model import LanguageModel

SAMPLES, PROBLEMS, PROGRAM_TOKENS = 50, 164, 150
"""Of each problem, of HumanEval, and of a program as a finetuned model writes it."""
NEVER = ["<file_sep>"]  # as long as the longest of HumanEval's stop sequences, and never written here
CHOICES = 4
GOAL = 8_400
"""Tokens of programs a second of one H100; vLLM publishes 12,553 of a model of 8B parameters."""
WORDS = 1024  # of the tokenizer


def main(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as where:
        encoding = made_tokenizer(Path(where))
        with bench.attempt("the harness's device"):
            network(replace(TINY, vocab_size=WORDS), torch.device("cpu"), torch.float32).save_pretrained(where)
            device = Harness({}, {}, Path(where))._load(None, None).device
            bench.figure("the harness's device", {"device": str(device)})
            if device.type != bench.device.type:
                bench.note(
                    "a study's evaluation does not use the GPU: the harness leaves its models on the CPU; what follows "
                    "has the model put there by hand"
                )
    free(bench)
    shape = replace(TINY, vocab_size=WORDS, length=1024) if bench.tiny else LLAMA_2_7B
    with torch.inference_mode():
        lm = language_model(shape, bench.device, bench.dtype, encoding)
        with bench.attempt("programs"):
            programs(bench, lm)
        with bench.attempt("likelihoods"):
            likelihoods(bench, lm)


def made_tokenizer(directory: Path) -> Encoding:
    records = [*code.instructions(100, 0, "train"), *math.instructions(100, 0, "train")]
    train_tokenizer((record[key] for record in records for key in ("instruction", "response")), WORDS, directory)
    return Encoding.read(directory)


def language_model(shape: Shape, device: torch.device, dtype: torch.dtype, encoding: Encoding) -> LanguageModel:
    """As the harness has it, of a model that lies in no directory.

    Words that the tokenizer does not have, and eos, have logits of 0: none of them is likely.
    """
    made = network(shape, device, dtype).eval()
    with torch.no_grad():
        made.lm_head.weight[encoding.size :] = 0
        made.lm_head.weight[encoding.eos] = 0
    with _quiet():
        return LanguageModel(made, encoding, batch_size=BATCH_SIZE)


def programs(bench: Bench, lm: LanguageModel) -> None:
    rows, tokens = (4, 4) if bench.tiny else (BATCH_SIZE, 64)
    prompts = [record["instruction"] for record in code.instructions(1 + rows // SAMPLES, 1, "test")]
    asked = [prompts[row // SAMPLES] for row in range(rows)]
    settings = {"until": NEVER, "do_sample": True, "temperature": 0.2, "top_p": 0.95}
    write(lm, asked, settings | {"max_gen_toks": 2})
    clock = Clock(bench)
    write(lm, asked, settings | {"max_gen_toks": tokens})
    clock.mark("all")
    speed = rows * tokens / clock.seconds()["all"]
    found: dict[str, Any] = {"tokens/s": speed, "rows": rows, "tokens of a row": tokens}
    if not bench.tiny:
        found |= {"goal": GOAL, "reached": speed >= GOAL}
        found[f"seconds of {PROBLEMS} x {SAMPLES} programs of {PROGRAM_TOKENS} tokens"] = (
            PROBLEMS * SAMPLES * PROGRAM_TOKENS / speed
        )
    bench.figure("programs", found)


def likelihoods(bench: Bench, lm: LanguageModel) -> None:
    items, shots = (2, 1) if bench.tiny else (32, 5)
    records = list(math.instructions(items * (shots + CHOICES), 1, "test"))
    texts = [f"Question: {record['instruction']}\nAnswer: {record['response']}\n\n" for record in records]
    asked = []
    for item in range(items):
        first = item * (shots + CHOICES)
        context = "".join(texts[first : first + shots])
        asked += [(context, record["response"]) for record in records[first + shots : first + shots + CHOICES]]
    score(lm, asked[:CHOICES])
    clock = Clock(bench)
    score(lm, asked)
    clock.mark("all")
    seconds = clock.seconds()["all"]
    length = sum(len(lm.tok_encode(context + choice)) for context, choice in asked) / len(asked)
    bench.figure("likelihoods", {"items/s": items / seconds, "choices": CHOICES, "tokens of a choice's text": length})


def write(lm: LanguageModel, prompts: list[str], settings: dict[str, Any]) -> list[str]:
    return lm.generate_until([Instance("generate_until", {}, (text, {**settings}), 0) for text in prompts])


def score(lm: LanguageModel, pairs: list[tuple[str, str]]) -> list[float]:
    """The log likelihood of each second text behind the first, in nats."""
    found = lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])
    return [value for value, _ in found]
