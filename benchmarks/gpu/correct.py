"""Whether what is computed on the device is what the CPU computes, on a small Llama with grouped keys and values.

* LoRA's dropout: the same masks, bit for bit.
* The first step's loss and gradients, against those of the CPU in fp32: full and LoRA with dropout, attention across
  and within documents, layers checkpointed and not, compiled and not. The bounds are relative, of gradients by their
  norm: in fp32 sums come in another order, in bf16 every product is rounded to 8 bits.
* A run that SIGTERM ends saves a checkpoint, and goes on from it to the weights of an undisturbed one, bit for bit.
* Text that is written greedily is the same, and likelihoods are, to a bound.
"""

import os
import signal
import tempfile
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.models import FULL, OPTIMIZER, TINY, Shape, lora, network, trainable
from benchmarks.gpu.part import Bench
from benchmarks.gpu.runner import lacking, missing
from scripts.data.batches import write_cpt_rows
from scripts.training import execution, loop
from scripts.training.attention import use_varlen
from scripts.training.dropout import drop, dropout_of, keep_mask
from scripts.training.objective import Objective, backward
from scripts.training.parallel import decoder_layers

SMALL = Shape(512, 256, 640, 4, 4, 2, length=256, rows=4)
BOUNDS = {"fp32": {"loss": 1e-5, "gradient": 5e-5}, "bf16": {"loss": 1e-3, "gradient": 0.03}}
LIKELIHOOD_BOUND = 1e-4  # nats of a token, in fp32
METHODS = {"lora-r16-dropout-0.05": lora(16, 0.05), "full": FULL}
LEAST_SECONDS = 12  # that must be left, for what compiles to be begun
SEED, STEP = 3, 5
STEPS = 6  # of a run, which is disturbed after half of them


def main(bench: Bench) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, before a run here would set it
    shape = replace(TINY, num_hidden_layers=2, num_key_value_heads=2) if bench.tiny else SMALL
    main_precision, *others = ("bf16", "fp32") if bench.is_cuda else ("fp32",)
    truths: dict[tuple[str, bool], tuple[float, Tensor]] = {}
    undone = []

    def cases(compiled: bool, checkpointed: bool, within: bool, precision: str) -> None:
        for name in METHODS:
            case = f"{name}, {'within' if within else 'across'}, {precision}"
            case += ", checkpointed" * checkpointed + ", compiled" * compiled
            if bench.left() < LEAST_SECONDS * compiled:
                undone.append(case)
                continue
            with bench.attempt(case):
                if (name, within) not in truths:
                    truths[name, within] = first_step(shape, torch.device("cpu"), name, within)
                found = first_step(shape, bench.device, name, within, precision, checkpointed, compiled)
                compare(bench, case, found, truths[name, within], BOUNDS[precision])

    with bench.attempt("dropout"):
        masks(bench, shape)
    for precision, within, checkpointed in product((main_precision, *others), (False, True), (False, True)):
        cases(False, checkpointed, within, precision)
    answers(bench)
    # as a GPU trains: each of these compiles
    cases(True, False, False, main_precision)
    resumes(bench, shape, undone)
    cases(True, False, True, main_precision)
    if undone:
        bench.fail(f"not done, for lack of time: {'; '.join(undone)}")
    if bench.tiny:
        return
    undone.clear()
    for within in (False, True):
        cases(True, True, within, main_precision)
    for precision, within, checkpointed in product(others, (False, True), (False, True)):
        cases(True, checkpointed, within, precision)
    if undone:
        bench.note(f"not done, for lack of time: {'; '.join(undone)}")


def masks(bench: Bench, shape: Shape) -> None:
    """Those of a whole module, and what the device's own kernel drops with them."""
    x = torch.randn(shape.rows, shape.length, shape.hidden_size)
    differ = 0
    for number in range(shape.num_hidden_layers):
        module = f"model.layers.{number}.mlp.up_proj"
        found = {}
        for device in (torch.device("cpu"), bench.device):
            places = torch.arange(shape.rows, device=device)[:, None], torch.arange(shape.length, device=device)
            with dropout_of(SEED, STEP, *places):
                dropped = drop(module, 0.05, x.to(device), x.to(device).bfloat16())
            mask = keep_mask(SEED, STEP, module, *places, shape.hidden_size, 0.05)
            found[device.type] = [part.cpu() for part in (*dropped, mask)]
        expected, given = found["cpu"], found[bench.device.type]
        differ += sum(int((one != other).sum()) for one, other in zip(expected, given, strict=True))
    bench.check("dropout's masks and what they leave", {"elements that differ": (differ, 0)})


def first_step(
    shape: Shape, device: torch.device, name: str, within: bool, precision: Any = "fp32", checkpointed: bool = False,
    compiled: bool = False,
) -> tuple[float, Tensor]:  # fmt: skip
    """Loss and gradient of a batch, on the CPU."""
    model = trainable(network(shape, torch.device("cpu"), torch.float32), METHODS[name], precision)
    drawn = torch.Generator().manual_seed(1)
    for parameter_name, value in model.named_parameters():
        if "lora_B" in parameter_name:  # with B = 0, A would have no gradient
            torch.nn.init.normal_(value, std=0.05, generator=drawn)
    tokens = torch.randint(3, shape.vocab_size, (shape.rows, shape.length), generator=drawn)
    segments = (torch.rand(tokens.shape, generator=drawn) < 0.02).cumsum(1) if within else None
    layers = decoder_layers(model)
    if compiled:
        torch._dynamo.reset()  # no other case's graphs
        execution.prepare_model(model, device, precision)
        if device.type == "cpu":  # which compiles nothing by itself
            for layer in layers:
                layer.compile(backend="aot_eager")
    elif precision == "bf16":
        execution.halve_frozen(model)
        use_varlen(model)
    objective = Objective(model.to(device), precision)
    execution._checkpoint(layers, len(layers) if checkpointed else 0)
    loss, _ = backward(
        objective, tokens, tokens, 2, segments=segments, seed=SEED, step=STEP, pass_tokens=2 * shape.length
    )
    found = [value.grad.float().cpu().flatten() for value in model.parameters() if value.requires_grad]
    return float(loss), torch.cat(found)


def compare(
    bench: Bench, case: str, found: tuple[float, Tensor], truth: tuple[float, Tensor], bounds: dict[str, float]
) -> None:
    (loss, gradient), (true_loss, true_gradient) = found, truth
    errors = {
        "loss": abs(loss - true_loss) / true_loss,
        "gradient": float((gradient - true_gradient).norm() / true_gradient.norm()),
    }
    bench.check(case, {key: (error, bounds[key]) for key, error in errors.items()})


def resumes(bench: Bench, shape: Shape, undone: list[str]) -> None:
    loop.REPORT_SECONDS = 0.0  # a report after each step, which the signal is sent in
    with tempfile.TemporaryDirectory() as where:
        base, rows = Path(where) / "base", Path(where) / "rows"
        network(shape, torch.device("cpu"), torch.float32).save_pretrained(base)
        rows.mkdir()
        drawn = torch.Generator().manual_seed(0)
        documents = torch.randint(3, shape.vocab_size, (4 * STEPS, shape.length), generator=drawn).tolist()
        write_cpt_rows(
            documents, rows, sequence_length=shape.length, batch_rows=shape.rows, group_rows=2, eos=1, pad=2,
            vocab_size=shape.vocab_size, seed=0,
        )  # fmt: skip
        for name in METHODS:
            if bench.left() < LEAST_SECONDS:
                undone.append(f"{name}, resume")
                continue
            with bench.attempt(f"{name}, resume"), warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                resume(bench, name, base, rows, Path(where) / name)
            said = {str(one.message).partition("\n")[0][:200] for one in warned if "determinis" in str(one.message)}
            for sentence in sorted(said):
                bench.note(f"{name}: torch warns: {sentence}")


def resume(bench: Bench, name: str, base: Path, rows: Path, where: Path) -> None:
    def job(run: str) -> loop.Fit:
        torch._dynamo.reset()  # as in a process of its own
        out = where / run / "out"
        out.mkdir(parents=True, exist_ok=True)
        return loop.Fit(
            method=METHODS[name], optimizer=OPTIMIZER | {"learning_rate": 1e-3},
            schedule={"name": "trapezoid", "warmup_batches": 0, "batches": None, "cooldown_batches": None}, seed=0,
            precision=bench.precision, base=base, rows=rows, start=None, start_step=0, stop_step=STEPS, out=out,
            checkpoints=where / run / "checkpoints", keep_optimizer=True, checkpoint_seconds=1e9,
        )  # fmt: skip

    def interrupts(event: dict[str, Any]) -> None:
        if event["step"] == STEPS // 2:
            os.kill(os.getpid(), signal.SIGTERM)

    loop.fit(job("undisturbed"), lambda _: None)
    status: object = "it went on to the end"
    try:
        loop.fit(job("disturbed"), interrupts)
    except SystemExit as stopped:
        status = stopped.code
    saved = (where / "disturbed" / "checkpoints" / f"step-{STEPS // 2:06d}").is_dir()
    begins: list[int] = []
    loop.fit(job("disturbed"), lambda event: begins.append(event["resumed_at"]))
    files = sorted(path.name for path in (where / "undisturbed" / "out").glob("*.safetensors"))
    differ = [
        file
        for file in files
        if (where / "undisturbed" / "out" / file).read_bytes() != (where / "disturbed" / "out" / file).read_bytes()
    ]
    found = {"status after SIGTERM": status, "saved": saved, "went on from": begins[0], "files that differ": differ}
    bench.figure(f"{name}, resume", found)
    if found != {"status after SIGTERM": 75, "saved": True, "went on from": STEPS // 2, "files that differ": []}:
        bench.fail(f"{name}: a run that SIGTERM ended does not come to the same weights")


def answers(bench: Bench) -> None:
    if lacks := missing(("lm-eval", "datasets")):
        bench.note(f"written text and likelihoods were not compared: that {lacking(lacks)}")
        return
    from benchmarks.gpu.evaluate import NEVER, WORDS, language_model, made_tokenizer, score, write

    shape = replace(TINY, vocab_size=WORDS, length=512)
    pairs = [(f"Question: {number} times {number + 2}?\n", f"Answer: {number * 7}") for number in range(12)]
    with bench.attempt("answers"), tempfile.TemporaryDirectory() as where:
        encoding = made_tokenizer(Path(where))
        texts, values = {}, {}
        for device in (torch.device("cpu"), bench.device):
            lm = language_model(shape, device, torch.float32, encoding)
            settings = {"until": NEVER, "do_sample": False, "max_gen_toks": 12}
            texts[device.type] = write(lm, [prompt for prompt, _ in pairs], settings)
            values[device.type] = [
                value / len(encoding.texts([text])[0]) for value, (_, text) in zip(score(lm, pairs), pairs, strict=True)
            ]
        kind = bench.device.type
        differ = sum(one != other for one, other in zip(texts["cpu"], texts[kind], strict=True))
        error = max(abs(one - other) for one, other in zip(values["cpu"], values[kind], strict=True))
        bounds = {"texts that differ": (differ, 0), "likelihood, nats of a token": (error, LIKELIHOOD_BOUND)}
        bench.check("greedy text and likelihoods", bounds)
