"""Evaluates a model on one task; or all models of a family on all their tasks, in one process.

python -m scripts.evaluation.evaluate KEY
"""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError, run
from scripts.components.tasks import TASKS
from scripts.evaluation.scores import SAMPLES
from scripts.launch.command import current_launch, find, make, product_parser
from scripts.launch.launch import Launch
from scripts.launch.missing import Missing
from scripts.plan.product import Key, Product
from scripts.plan.specs import Evaluated, Trained
from scripts.store.fingerprint import fingerprint
from scripts.store.store import Build
from scripts.training import devices

if TYPE_CHECKING:
    from scripts.evaluation.harness import Harness


def main(launch: Launch, name: str) -> None:
    """Makes what is missing of an evaluation or of a family of them.

    Raises:
        UserError: no such product; its inputs are not there; no sandbox works here.
    """
    product = find(launch, name)
    if product.kind not in ("evaluation", "evaluated"):
        raise UserError(f"{product.key}: is of the kind {product.kind!r}, which is no evaluation")
    evaluations = [product]
    if product.members:
        evaluations = [launch.grid.products[key] for key in Missing(launch.grid, launch.store).members(product.key)]
    with ExitStack() as held:
        harness = _Once(launch, evaluations, lambda: held.enter_context(devices.claimed(launch.store.root)))
        for evaluation in evaluations:
            make(launch, evaluation, _builder(launch, evaluation, harness))
    if product.kind == "evaluated":
        make(launch, product, lambda out: {})
    print(f"{product.key}: complete")


class _Once:
    """The harness, built at the first evaluation that is really missing: its imports cost seconds.

    `claim` is called before: the device is this job's until it ends.
    """

    def __init__(self, launch: Launch, evaluations: list[Product], claim: Callable[[], object]) -> None:
        self._launch = launch
        self._evaluations = evaluations
        self._claim = claim
        self._harness: Harness | None = None

    def __call__(self) -> "Harness":
        if self._harness is None:
            from scripts.data.products import data_bytes
            from scripts.data.records import FILE
            from scripts.evaluation.harness import Harness

            tasks, records, shots, tokenizers = {}, {}, {}, {}
            for evaluation in self._evaluations:
                label = _label(evaluation)
                asked = Evaluated.read(evaluation.spec)
                settings = {"task": asked.task, **asked.settings}
                tasks[label] = settings | judge_variables(self._launch, settings)
                items, *examples = evaluation.inputs_of("records")
                records[label] = data_bytes(self._launch, items) / FILE
                if examples:
                    shots[label] = data_bytes(self._launch, examples[0]) / FILE
                for tokenizer in evaluation.inputs_of("tokenizer"):
                    tokenizers[label] = data_bytes(self._launch, tokenizer)
            base = self._launch.store.bytes_of(self._evaluations[0].inputs_of("model")[0])
            self._claim()
            self._harness = Harness(
                tasks,
                records,
                base,
                seed=self._evaluations[0].spec["seed"],
                shots=shots,
                tokenizers=tokenizers,
                precision=Evaluated.read(self._evaluations[0].spec).precision,
                say=_say,
            )
        return self._harness


def judge_variables(launch: Launch, settings: dict[str, Any]) -> dict[str, Any]:
    """The judge of conversations, with the environment variables through which the study reaches it.

    They stand in no spec: by which way a judge is reached changes nothing of what it says.

    Raises:
        UserError: the study of this launch names no judge.
    """
    if "judge" not in settings:
        return {}
    task = launch.grid.study.evaluation.tasks.of(settings["task"])
    if task is None:
        raise UserError(
            f"study {launch.grid.name!r} has no evaluation.tasks.{settings['task']}, which names the environment "
            "variables through which the judge of this evaluation is reached"
        )
    variables = {"url_variable": task.judge.url_variable, "key_variable": task.judge.key_variable}
    return {"judge": settings["judge"] | variables}


def _label(evaluation: Product) -> str:
    """What is asked: the same for every model that is asked it, so that a family's models share what is read."""
    asked = {key: value for key, value in evaluation.spec.items() if key not in ("kind", "subject")}
    return f"{asked['task']}-{fingerprint(asked)}"


def finetuned(evaluation: Product) -> Key | None:
    """Key of the run or published checkpoint that is evaluated; None for the base model."""
    subject = next(key for key in evaluation.inputs if key.fingerprint == evaluation.spec["subject"])
    return None if subject.kind == "model" else subject


def _builder(launch: Launch, evaluation: Product, harness: Callable[[], "Harness"]) -> Build:
    """Writes ``samples.jsonl``: what the model said to every item, and its score.

    The manifest's provenance has `evaluation`: the device and the precision that the model computed in.

    Of a model whose training diverged nothing is written or computed: the value and its error are None, and `diverged`
    is the step at which it did.
    """
    label = _label(evaluation)

    def score(out: Path) -> dict[str, Any]:
        subject = finetuned(evaluation)
        if subject and (diverged := launch.store.require(subject)["results"].get("diverged")):
            _say(f"{evaluation.name}: training diverged, there is no model to ask")
            metric = TASKS[evaluation.spec["task"]].metrics_of(evaluation.spec)[0]
            return {"metric": metric, "value": None, "stderr": None, "items": 0, "diverged": diverged["step"]}
        run_directory = launch.store.bytes_of(subject) if subject else None
        method_kind = _method_kind(launch.store.require(subject)["spec"]) if subject else None
        result: dict[str, Any] = {**harness().score(run_directory, method_kind, [label])[label]}
        with (out / SAMPLES).open("w", encoding="utf-8") as file:
            for sample in result.pop("samples"):
                file.write(json.dumps(sample, ensure_ascii=False, sort_keys=True) + "\n")
        _say(f"{evaluation.name}: {result['metric']} {result['value']:.3f}")
        return result

    return score


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _method_kind(spec: dict[str, Any]) -> str:
    method = spec["method"] if spec["kind"] == "published" else Trained.read(spec).recipe.method
    return str(method["kind"])


if __name__ == "__main__":
    parser = product_parser(__doc__)
    run(lambda arguments: main(current_launch(arguments), arguments.product), parser)
