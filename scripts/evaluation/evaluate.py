"""Asks a model the items of a task, or judges what it has written; or does all of it for the models of a family.

python -m scripts.evaluation.evaluate KEY
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError, run
from scripts.components.foreign import OWN, task_of
from scripts.launch.command import current_launch, find, make, product_parser
from scripts.launch.launch import Launch
from scripts.launch.missing import Missing
from scripts.plan.product import Key, Product
from scripts.plan.specs import Asked, Judged, Trained
from scripts.store.fingerprint import fingerprint
from scripts.store.store import Build, has_bytes
from scripts.training import devices, parallel
from scripts.training.parallel import ALONE, Group

if TYPE_CHECKING:
    from scripts.evaluation.harness import Harness
    from scripts.evaluation.journal import Journal
    from scripts.evaluation.judging import Judging

JOURNAL = "answers.jsonl"
"""The file in a product's scratch directory that keeps answers and verdicts until all are there."""


def main(launch: Launch, name: str) -> None:
    """Makes what is missing of samples, of an evaluation, or of a family of both.

    Raises:
        UserError: no such product; its inputs are not there; no sandbox works here.
    """
    with parallel.launched() as group:
        _make(launch, name, group)


def _make(launch: Launch, name: str, group: Group) -> None:
    product = find(launch, name)
    if product.kind not in ("samples", "evaluation", "evaluated"):
        raise UserError(f"{product.key}: is of the kind {product.kind!r}, which is no evaluation")
    parts = [product]
    if product.members:
        missing = Missing(launch.grid, launch.store).members(product.key) if group.is_first else []
        parts = [launch.grid.products[key] for key in group.told(missing)]
    with ExitStack() as held:
        asking = _Asking(launch, parts, lambda: held.enter_context(devices.claimed(launch.store.root)), group)
        if not group.is_first:
            _help(launch, parts, asking, group)
            return
        judging = _Judging(launch, parts)
        if product.members:
            judging.require_ready()  # before models write for nothing
        # programs run on CPUs while the device goes on with the next task
        judges = held.enter_context(ThreadPoolExecutor(max_workers=1))
        judged: list[Future[Any]] = []
        for part in parts:
            for one in [one for one in judged if one.done()]:
                one.result()  # what ended it ends the job
            if part.is_judged:
                judged.append(judges.submit(make, launch, part, _judge(launch, part, judging)))
            else:
                _first(launch, part, asking, group)
        for one in judged:
            one.result()
    if product.kind == "evaluated":
        make(launch, product, lambda out: {})
    print(f"{product.key}: complete")


def _first(launch: Launch, part: Product, asking: "_Asking", group: Group) -> None:
    """Makes a product with the other processes' help, if it is not made yet: they are told whether it is."""
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True
        group.told(True)

    make(launch, part, _ask(launch, part, asking, begin))
    if not begun:
        group.told(False)


def _help(launch: Launch, parts: list[Product], asking: "_Asking", group: Group) -> None:
    """Answers this process's share of what the first one makes."""
    for part in parts:
        if not part.is_judged and group.told(False):
            with _journal(launch, part, group) as journal:
                _answers(launch, part, asking, journal)


class _Asking:
    """The harness, built when the first model is really to be asked: its imports cost seconds.

    `claim` is called before: the device is this job's until it ends.
    """

    def __init__(self, launch: Launch, parts: list[Product], claim: Callable[[], object], group: Group = ALONE) -> None:
        self.group = group
        self._launch = launch
        self._parts = [part for part in parts if not part.is_judged]
        self._claim = claim
        self._harness: Harness | None = None

    def __call__(self) -> "Harness":
        if self._harness is None:
            from scripts.data.products import data_bytes
            from scripts.evaluation.harness import Harness

            tasks, records, shots, tokenizers = {}, {}, {}, {}
            for part in self._parts:
                label = _label(part.spec)
                asked = Asked.read(part.spec)
                tasks[label] = {"task": asked.task, **asked.settings, **_here(self._launch, part.spec)}
                records[label], *examples = _records(self._launch, part)
                if examples:
                    shots[label] = examples[0]
                for tokenizer in part.inputs_of("tokenizer"):
                    tokenizers[label] = data_bytes(self._launch, tokenizer)
            first = self._parts[0]
            base = self._launch.store.bytes_of(first.inputs_of("model")[0])
            self._claim()
            self._harness = Harness(
                tasks,
                records,
                base,
                seed=first.spec["seed"],
                shots=shots,
                tokenizers=tokenizers,
                precision=Asked.read(first.spec).precision,
                say=_say,
                group=self.group,
            )
        return self._harness


class _Judging:
    """What judges samples, built when the first are really to be judged."""

    def __init__(self, launch: Launch, parts: list[Product]) -> None:
        self._launch = launch
        self._parts = [part for part in parts if part.is_judged]
        self._judging: Judging | None = None

    def __call__(self) -> "Judging":
        if self._judging is None:
            from scripts.evaluation.judging import Judging

            tasks, records = {}, {}
            for part in self._parts:
                label = self.label(part)
                judged = Judged.read(part.spec)
                settings = {**self._sampled(part).settings, **judged.settings}
                tasks[label] = {"task": judged.task, **settings, **_here(self._launch, part.spec)}
                records[label] = _records(self._launch, part)[0]
            self._judging = Judging(tasks, records)
        return self._judging

    def require_ready(self) -> None:
        """Raises UserError where what these products are judged with is not there: a sandbox, packages, a judge."""
        for part in self._parts:
            self().require_ready(self.label(part))

    def label(self, part: Product) -> str:
        """What is judged and how: the same for every model whose samples are, so that a family's share it."""
        settings = {key: value for key, value in part.spec.items() if key != "sampled"}
        return _label({**settings, "asked": _label(self._sampled(part).spec())})

    def _sampled(self, part: Product) -> Asked:
        (samples,) = part.inputs_of("samples")
        product = self._launch.grid.products.get(samples)
        return Asked.read(product.spec if product else self._launch.store.require(samples)["spec"])


def judge_variables(launch: Launch, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The judge of conversations, with the environment variables through which the study reaches it.

    They stand in no spec: by which way a judge is reached changes nothing of what it says.

    Raises:
        UserError: the study of this launch names no judge.
    """
    if "judge" not in spec:
        return {}
    task = launch.grid.study.evaluation.tasks.of(spec["task"])
    if task is None:
        raise UserError(
            f"study {launch.grid.name!r} has no evaluation.tasks.{spec['task']}, which names the environment "
            "variables through which the judge of this evaluation is reached"
        )
    variables = {"url_variable": task.judge.url_variable, "key_variable": task.judge.key_variable}
    return {"judge": spec["judge"] | variables}


def _here(launch: Launch, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in no spec and yet is needed: how a judge is reached, where a task file of one's own lies.

    Raises:
        UserError: the study of this launch does not say it.
    """
    if "sha256" not in spec.get(OWN, {}):
        return judge_variables(launch, spec)
    task = launch.grid.study.evaluation.tasks.of(spec["task"])
    if task is None or task.file is None:
        raise UserError(
            f"study {launch.grid.name!r} has no evaluation.tasks.{spec['task']}.file, which names the file of this task"
        )
    return {"file": task.file}


def _label(spec: Mapping[str, Any]) -> str:
    """What is asked: the same for every model that is asked it, so that a family's models share what is read."""
    asked = {key: value for key, value in spec.items() if key not in ("kind", "subject")}
    return f"{asked['task']}-{fingerprint(asked)}"


def _records(launch: Launch, part: Product) -> list[Path]:
    """The items, and the records that shots are taken from, if there are any."""
    from scripts.data.products import data_bytes
    from scripts.data.records import FILE

    return [data_bytes(launch, key) / FILE for key in part.inputs_of("records")]


def finetuned(part: Product) -> Key | None:
    """Key of the run or published checkpoint that is asked; None for the base model."""
    subject = next(key for key in part.inputs if key.fingerprint == part.spec["subject"])
    return None if subject.kind == "model" else subject


def _answers(launch: Launch, part: Product, asking: _Asking, journal: "Journal") -> dict[str, Any]:
    """What a model says to a product's items, as `samples`, with the rest of the product's results."""
    subject, label = finetuned(part), _label(part.spec)
    run_directory = launch.store.bytes_of(subject) if subject else None
    method_kind = _method_kind(launch.store.require(subject)["spec"]) if subject else None
    if part.kind == "evaluation":
        return {**asking().score(run_directory, method_kind, [label], journal=journal, what=part.name)[label]}
    known = _known(launch, part)
    written, provenance = asking().write(
        run_directory, method_kind, label, journal=journal, what=part.name, known=known
    )
    texts = sum(len(sample["completions"]) for sample in written)
    return {"samples": written, "items": len(written), "texts": texts, "provenance": provenance}


def _ask(launch: Launch, part: Product, asking: _Asking, begin: Callable[[], object]) -> Build:
    """Asks a model, and writes `SAMPLES`: for every item what was asked and answered, and its score if it has one yet.

    The manifest's provenance has `evaluation`: the device and the precision that the model computed in. Answers are
    kept as they come, for a job that is started again.

    Of a model whose training diverged nothing is written or computed: the value and its error are None, and `diverged`
    is the step at which it did. `begin` is called before anything else is.
    """

    def build(out: Path) -> dict[str, Any]:
        from scripts.evaluation.results import write_samples

        subject = finetuned(part)
        if subject and (diverged := launch.store.require(subject)["results"].get("diverged")):
            _say(f"{part.name}: training diverged, there is no model to ask")
            if part.kind == "samples":
                return {"diverged": diverged["step"]}
            return _nothing(part.spec, diverged["step"])
        with _journal(launch, part, asking.group) as journal:
            begin()
            result = _answers(launch, part, asking, journal)
        write_samples(result.pop("samples"), out)
        _say(f"{part.name}: {result['texts']} texts" if part.kind == "samples" else _scored(part, result))
        return result

    return build


def _judge(launch: Launch, part: Product, judging: _Judging) -> Build:
    """Judges samples, and writes them once more, with the verdicts, as `SAMPLES`.

    Verdicts are kept as they come, for a job that is started again.
    """

    def build(out: Path) -> dict[str, Any]:
        from scripts.evaluation.results import read_samples, write_samples

        (samples,) = part.inputs_of("samples")
        if (diverged := launch.store.require(samples)["results"].get("diverged")) is not None:
            return _nothing({**launch.store.require(samples)["spec"], **part.spec}, diverged)
        judge, label = judging(), judging.label(part)
        for other in _alike(launch, part, "sampled"):
            judge.remember(label, read_samples(launch.store.bytes_of(other)))
        with _journal(launch, part) as journal:
            found = judge.result(label, read_samples(launch.store.bytes_of(samples)), journal=journal, what=part.name)
        result: dict[str, Any] = {**found}
        write_samples(result.pop("samples"), out)
        _say(_scored(part, result))
        return result

    return build


def _scored(part: Product, result: Mapping[str, Any]) -> str:
    return f"{part.name}: {result['metric']} {result['value']:.3f}"


def _nothing(settings: Mapping[str, Any], step: int) -> dict[str, Any]:
    metric = task_of(settings).metrics_of(settings)[0]
    return {"metric": metric, "value": None, "stderr": None, "items": 0, "diverged": step}


@contextmanager
def _journal(launch: Launch, part: Product, group: Group = ALONE) -> Iterator["Journal"]:
    """This process's journal. That of the first has what the others have kept in attempts before."""
    from scripts.evaluation.journal import Journal

    scratch = launch.store.scratch(part.key)
    journal = Journal(scratch / (JOURNAL if group.is_first else f"{group.rank}-{JOURNAL}"))
    try:
        for path in sorted(scratch.glob(f"*-{JOURNAL}")) if group.is_first else ():
            journal.take(path)
        yield journal
    finally:
        journal.close()


def _known(launch: Launch, part: Product) -> list[dict[str, Any]]:
    """The first samples of each item, from samples of which others were asked for: `samples` of them for each."""
    from scripts.evaluation.results import read_samples

    wanted = part.spec.get("samples", 1)
    alike = _alike(launch, part, "samples")
    if not alike:
        return []
    most = max(alike, key=lambda key: alike[key])
    return [
        {**sample, "completions": list(sample["completions"])[:wanted]}
        for sample in read_samples(launch.store.bytes_of(most))
    ]


def _alike(launch: Launch, part: Product, but: str) -> dict[str, Any]:
    """Products with their bytes, of the same model, whose specs differ in one key alone, to what they have there."""
    found = {}
    path = launch.store.manifest_path(part.key)
    for other in sorted(path.parent.glob(f"{Key(path.stem).name}-*.json")):
        key = str(other.relative_to(launch.store.root).with_suffix(""))
        manifest = launch.store.read(key) if key != part.key else None
        if manifest is None or not has_bytes(manifest, launch.store.directory(key)):
            continue
        if {**manifest["spec"], but: None} == {**part.spec, but: None} and but in manifest["spec"]:
            found[key] = manifest["spec"][but]
    return found


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _method_kind(spec: dict[str, Any]) -> str:
    method = spec["method"] if spec["kind"] == "published" else Trained.read(spec).recipe.method
    return str(method["kind"])


def _on_all_gpus() -> None:
    """Begins anew as a process for each GPU that a cluster has given this job, if there are several."""
    gpus = len(devices.visible()) if "SLURM_JOB_ID" in os.environ else 0
    if gpus > 1 and parallel.place(os.environ).world == 1:
        options = ["--multi_gpu", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
        launcher = [sys.executable, "-m", "accelerate.commands.launch", *options, f"--num_processes={gpus}"]
        os.execv(sys.executable, [*launcher, "-m", "scripts.evaluation.evaluate", *sys.argv[1:]])


if __name__ == "__main__":
    parser = product_parser(__doc__)

    def by_hand(arguments: argparse.Namespace) -> None:
        _on_all_gpus()
        main(current_launch(arguments), arguments.product)

    run(by_hand, parser)
