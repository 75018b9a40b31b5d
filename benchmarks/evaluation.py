"""Evaluation on the CPU beside lm-eval's own command line: programs that are sampled, and likelihoods of choices.

python -m benchmarks.evaluation            writes results/evaluation.json

Both are given the same models, records and task files: HumanEval with 20 samples to a problem, and HellaSwag,
ARC-Challenge and WinoGrande without shots, of the demo's generated items. The models have random weights: one of the
demo's shape, and one of 15M parameters with Llama-2's vocabulary. Random models never write a stop sequence, so the
logit of eos is set so high that texts end at lengths of their own, as programs do.

Each tool is a process of one thread that does all of it; the tools take turns, ROUNDS times. What is measured is the
work, from requests to answers: seconds of wall time and of the CPU's own time, which what else the machine does
disturbs less, and the most memory above what the process had when the work began. A ratio is the median over the rounds
of lm-eval's over ours, of memory ours over lm-eval's. lm-eval must be told how large its batches are: with 32 it is
about as fast as with 128, and takes less memory.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.training import peak, settle
from scripts.common.errors import run
from scripts.training.throughput import describe_device

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "evaluation.json"
ROUNDS = 3
SAMPLES, TEMPERATURE, TOP_P = 20, 0.2, 0.95
TOOLS = ("ours", "lm-eval")
WORKS = {"generate_until": "programs", "loglikelihood": "likelihoods"}


@dataclass(frozen=True)
class Shape:
    """A model, how many items of each task it is asked, and how long its programs are.

    `batch` is what lm-eval's command line is given.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    problems: int
    items: int
    new_tokens: int
    usual_tokens: int
    batch: int


SHAPES = {
    "the demo's": Shape(1024, 128, 320, 3, 4, 256, problems=40, items=300, new_tokens=128, usual_tokens=48, batch=32),
    "15M": Shape(32000, 288, 768, 6, 6, 512, problems=12, items=100, new_tokens=192, usual_tokens=64, batch=32),
}
TINY = Shape(300, 32, 48, 2, 2, 256, problems=2, items=4, new_tokens=6, usual_tokens=3, batch=4)


# -- what both are given ----------------------------------------------------------------------------------------------


def prepare(shape: Shape, directory: Path) -> None:
    """A model with its tokenizer in ``base``, and lm-eval's files of the tasks with their records in ``tasks``."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from scripts.data.generators import code, everyday
    from scripts.data.tokenizer import load_tokenizer, train_tokenizer

    base, tasks = directory / "base", directory / "tasks"
    tasks.mkdir()
    train_tokenizer(texts(shape), shape.vocab_size, base)
    tokenizer = load_tokenizer(base)
    set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_hidden_layers, num_attention_heads=shape.num_attention_heads,
            max_position_embeddings=shape.max_position_embeddings, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
        )
    )  # fmt: skip
    records = {
        "humaneval": list(code.humaneval(shape.problems, 0, "test")),
        "hellaswag": list(everyday.hellaswag(shape.items, 0, "test")),
        "arc_challenge": list(everyday.arc(shape.items, 0, "test")),
        "winogrande": list(everyday.winogrande(shape.items, 0, "test")),
    }
    make_it_end(model, tokenizer([one["prompt"] for one in records["humaneval"]]).input_ids, shape.usual_tokens)
    model.save_pretrained(base)
    for name, items in records.items():
        (tasks / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        task: dict[str, Any] = {
            "include": str(ROOT / "config" / "evaluations" / f"{name}.yaml"),
            "dataset_kwargs": {"test": str(tasks / f"{name}.jsonl")},
            "num_fewshot": 0,
        }
        if name == "humaneval":
            stops = {"until": ["\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"]}
            sampling = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P}
            task |= {"repeats": SAMPLES, "generation_kwargs": stops | sampling | {"max_gen_toks": shape.new_tokens}}
        (tasks / f"{name}.yaml").write_text(json.dumps(task))


def texts(shape: Shape) -> list[str]:
    """What a tokenizer of that many tokens can be trained on: the items' world, and for more Python's own library."""
    from scripts.data.generators import code, everyday

    made = [*code.documents(600, 0, "train"), *everyday.documents(600, 0, "train")]
    found = [record["text"] for record in made]
    if shape.vocab_size > 2000:
        found += [file.read_text("utf-8") for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    return found


def make_it_end(model: Any, prompts: list[list[int]], tokens: int) -> None:
    """Lets the model end a text at any token with a chance of 1 in `tokens`, on average behind the prompts' tokens.

    One number of every token's vector is about the same, and only the logit of eos depends on it. The other logits
    are scaled, so that samples have few likely tokens, as a trained model's.
    """
    import torch

    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        head = model.lm_head.weight
        head *= 20 * TEMPERATURE
        head[:, 0] = 0
        head[model.config.eos_token_id] = 0
        hidden = torch.cat([model.model(torch.tensor([ids])).last_hidden_state[0] for ids in prompts[:20]])
        others = torch.logsumexp(hidden @ head.T / TEMPERATURE, dim=-1)
        low, high = 0.0, 1e3
        for _ in range(60):
            middle = (low + high) / 2
            chance = torch.sigmoid(middle * hidden[:, 0] / TEMPERATURE - others).mean()
            low, high = (low, middle) if chance > 1 / tokens else (middle, high)
        head[model.config.eos_token_id, 0] = low


# -- the tools, each in a process of its own --------------------------------------------------------------------------


def timed(owner: Any, name: str, found: dict[str, dict[str, float]]) -> None:
    """Has a method note what it takes."""
    method = getattr(owner, name)

    def noting(self: Any, requests: list[Any], *rest: Any, **named: Any) -> Any:
        before, wall, cpu = settle(), time.perf_counter(), time.process_time()
        answers = method(self, requests, *rest, **named)
        found[WORKS[name]] = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_bytes": peak() - before,
            "characters": sum(map(len, answers)) if name == "generate_until" else 0,
            "nats": 0 if name == "generate_until" else sum(value for value, _ in answers),
        }
        return answers

    setattr(owner, name, noting)


def ours(directory: Path, names: list[str], _: int) -> None:
    """As the harness asks a model."""
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM

    from scripts.data.encoding import Encoding
    from scripts.evaluation.language_model import LanguageModel

    tasks = TaskManager(include_path=str(directory / "tasks"), include_defaults=False).load(names)["tasks"]
    model = AutoModelForCausalLM.from_pretrained(directory / "base").eval()
    evaluate(LanguageModel(model, Encoding.read(directory / "base")), tasks, bootstrap_iters=0)


def lm_eval_s(directory: Path, names: list[str], batch: int) -> None:
    from lm_eval.__main__ import cli_evaluate

    sys.argv = [
        "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", str(batch),
        "--model_args", f"pretrained={directory / 'base'},dtype=float32",
        "--include_path", str(directory / "tasks"), "--tasks", ",".join(names),
        "--log_samples", "--output_path", str(directory / "out"),
    ]  # fmt: skip
    cli_evaluate()


def one(tool: str, directory: Path, names: list[str], batch: int) -> None:
    """A tool does all of it in this process, and prints what it took."""
    import torch
    from lm_eval.models.huggingface import HFLM

    from scripts.evaluation.language_model import LanguageModel

    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    act: Callable[[Path, list[str], int], None] = ours if tool == "ours" else lm_eval_s
    for name in WORKS:
        timed(LanguageModel if tool == "ours" else HFLM, name, found)
    with redirect_stdout(sys.stderr):
        act(directory, names, batch)
    print(json.dumps(found))


# -- measuring --------------------------------------------------------------------------------------------------------


def measure(tool: str, directory: Path, shape: Shape, names: list[str]) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.evaluation", "--one", tool, str(directory), str(shape.batch), *names]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | offline, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    print(tool, json.dumps(found), file=sys.stderr, flush=True)
    return found


def summary(rounds: list[dict[str, dict[str, dict[str, float]]]]) -> dict[str, Any]:
    """Of the measurements of each round by tool and work: each tool's medians, and the medians of the ratios."""
    rows: dict[str, Any] = {}
    for work in rounds[0]["ours"]:
        pairs = [(found["ours"][work], found["lm-eval"][work]) for found in rounds]
        rows[work] = {
            **{
                tool: {
                    key: float(f"{statistics.median(found[tool][work][key] for found in rounds):.4g}") for key in one
                }
                for tool, one in zip(TOOLS, pairs[0], strict=True)
            },
            "times as fast": round(statistics.median(theirs["seconds"] / mine["seconds"] for mine, theirs in pairs), 2),
            "times as fast, CPU time": round(
                statistics.median(theirs["cpu_seconds"] / mine["cpu_seconds"] for mine, theirs in pairs), 2
            ),
            "memory of lm-eval's": round(
                statistics.median(mine["peak_bytes"] / theirs["peak_bytes"] for mine, theirs in pairs), 2
            ),
        }
    return rows


def table(models: dict[str, Any]) -> None:
    print(f"{'':14}{'':14}{'CPU s':>8}{'lm-eval':>9}{'MB':>6}{'lm-eval':>9}{'times as fast':>15}{'CPU time':>10}")
    for name, rows in models.items():
        for work, row in rows.items():
            mine, theirs = row["ours"], row["lm-eval"]
            print(
                f"{name:14}{work:14}{mine['cpu_seconds']:>8.1f}{theirs['cpu_seconds']:>9.1f}"
                f"{mine['peak_bytes'] / 1e6:>6.0f}{theirs['peak_bytes'] / 1e6:>9.0f}"
                f"{row['times as fast']:>15}{row['times as fast, CPU time']:>10}"
            )


def compare(shape: Shape, rounds: int, names: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as where:
        prepare(shape, Path(where))
        return summary([{tool: measure(tool, Path(where), shape, names) for tool in TOOLS} for _ in range(rounds)])


def main(arguments: argparse.Namespace) -> None:
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "lm_eval")}
    described: dict[str, Any] = {
        "device": describe_device()[0],
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **packages,
    }
    models = {name: compare(SHAPES[name], arguments.rounds, arguments.tasks) for name in arguments.models}
    table(models)
    if vars(arguments) == vars(PARSER.parse_args([])):
        described["load after"] = round(os.getloadavg()[0], 1)
        shapes = {name: vars(SHAPES[name]) for name in models}
        result = {"machine": described, "rounds": ROUNDS, "samples": SAMPLES, "shapes": shapes, "models": models}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


TASKS = ("humaneval", "hellaswag", "arc_challenge", "winogrande")
PARSER = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
PARSER.add_argument("--models", nargs="+", choices=tuple(SHAPES), default=list(SHAPES), help="fewer, to try it")
PARSER.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="fewer, to try it")
PARSER.add_argument("--rounds", type=int, default=ROUNDS, help="fewer, to try it")

if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]), sys.argv[5:], int(sys.argv[4]))
    else:
        run(main, PARSER)
