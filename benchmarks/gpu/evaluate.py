"""Programs and likelihoods a second at the shape of Llama-2-7B, by the project's own way to write text.

Programs: prompts as HumanEval's, 50 samples of each, at temperature 0.2, none of which ends early; one batch, of as
many as an evaluation takes where a program may have 512 tokens. Likelihoods: items of four choices behind a prompt of
five shots. What both take of the device's memory stands beside what was planned.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance

from benchmarks.gpu.models import LLAMA_2_7B, TINY, Shape, free, network, peak_gigabytes
from benchmarks.gpu.part import Bench, Clock
from scripts.components.memory import written_bytes
from scripts.data.encoding import Encoding
from scripts.data.generators import code, math
from scripts.data.tokenizer import train_tokenizer
from scripts.evaluation import memory
from scripts.evaluation.harness import Harness
from scripts.evaluation.language_model import LanguageModel
from scripts.evaluation.tasks import quiet

SAMPLES, PROBLEMS, PROGRAM_TOKENS = 50, 164, 150
"""Of each problem, of HumanEval, and of a program as a finetuned model writes it."""
LONGEST = 512  # tokens of a program, as the paper's study allows
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
            made = Harness({}, {}, Path(where), precision=bench.precision)._models.model(None, None)
            bench.figure("the harness's device", {"device": made.device.type})
            if bench.is_cuda and (made.device.type, made.dtype) != ("cuda", bench.dtype):
                bench.fail(f"a study's evaluation computes on {made.device} in {made.dtype}")
            del made
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
    with quiet():
        return LanguageModel(made, encoding)


def programs(bench: Bench, lm: LanguageModel) -> None:
    tokens = 4 if bench.tiny else 64
    (record,) = code.instructions(1, 1, "test")
    prompt = len(lm.tok_encode(record["instruction"]))
    rows = 4 if bench.tiny else memory.rows_written(lm._shape, lm._free(), prompt, prompt + LONGEST)
    prompts = [record["instruction"] for record in code.instructions(1 + rows // SAMPLES, 1, "test")]
    asked = [prompts[row // SAMPLES] for row in range(rows)]
    settings = {"until": NEVER, "do_sample": True, "temperature": 0.2, "top_p": 0.95}
    write(lm, asked, settings | {"max_gen_toks": 2})
    free(bench)
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
    longest = max(len(lm.tok_encode(text)) for text in prompts)
    bytes_of_row = written_bytes(lm._shape, longest, longest + tokens)
    within_plan(bench, lm, "programs", rows * bytes_of_row)


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
    free(bench)
    planned = lm._free()
    clock = Clock(bench)
    score(lm, asked)
    clock.mark("all")
    seconds = clock.seconds()["all"]
    length = sum(len(lm.tok_encode(context + choice)) for context, choice in asked) / len(asked)
    bench.figure("likelihoods", {"items/s": items / seconds, "choices": CHOICES, "tokens of a choice's text": length})
    within_plan(bench, lm, "likelihoods", planned)


def within_plan(bench: Bench, lm: LanguageModel, name: str, planned: int) -> None:
    """Whether sequences took no more of the device's memory, since `free`, than the bytes planned for them."""
    peak = peak_gigabytes(bench)
    if peak is None:
        return
    weights = sum(value.nbytes for value in lm.model.parameters()) / 1e9
    bench.check(f"memory of {name}, GB", {"sequences": (peak - weights, planned / 1e9)})


def write(lm: LanguageModel, prompts: list[str], settings: dict[str, Any]) -> list[str]:
    return lm.generate_until([Instance("generate_until", {}, (text, {**settings}), 0) for text in prompts])


def score(lm: LanguageModel, pairs: list[tuple[str, str]]) -> list[float]:
    """The log likelihood of each second text behind the first, in nats."""
    found = lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])
    return [value for value, _ in found]
