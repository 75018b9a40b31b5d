"""Says with which form and shots of the forgetting tasks a base model has the average that the paper prints.

The paper names the gauntlet and neither its version nor the shots (section 3.3), and all that it prints is an average.

python -m scripts.evaluation.calibrate --study paper
"""

import argparse
import csv
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.commands import snakemake_command
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path, project
from scripts.components.asking import gauntlet
from scripts.components.asking.answers import PER_TOKEN
from scripts.components.asking.items import read
from scripts.components.measures import FORGETTING
from scripts.components.tasks import AVERAGE
from scripts.evaluation.evaluate import JOURNAL
from scripts.evaluation.scores import mean_and_stderr, plain_average
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan import specs
from scripts.plan.evaluation import BASE
from scripts.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from scripts.evaluation.journal import Journal
    from scripts.evaluation.results import Result

LM_EVAL = "lm-eval"
METRICS = {LM_EVAL: ("acc_norm", "acc"), gauntlet.FORM: (PER_TOKEN,)}
"""By what each form scores: lm-eval by one of two, where its task has both."""
COLUMNS = ("form", "metric", "shots", *AVERAGE, "average", "stderr", "published", "difference", "within_stderr")


@dataclass(frozen=True)
class Candidate:
    """A way to ask the tasks of the average; `shots`: of each task."""

    form: str
    metric: str
    shots: Mapping[str, int]

    @property
    def shots_text(self) -> str:
        """`0/3/5`, in the order of the tasks."""
        return "/".join(str(self.shots[task]) for task in AVERAGE)

    def label(self, task: str) -> str:
        """What is asked: another metric asks nothing else."""
        return f"{self.form}-{task}-{self.shots[task]}"

    def said(self) -> str:
        return f"{self.form}, {self.metric}, {self.shots_text} shots"


@dataclass(frozen=True)
class Asked:
    """What a study asks of its base model in a task: its settings, its items, and where it has shots from."""

    settings: Mapping[str, Any]
    items: Path
    shots: Path | None

    def lacks(self, form: str, shots: int) -> str | None:
        """Why the study cannot ask it so; None where it can."""
        task = self.settings["task"]
        if form == gauntlet.FORM:
            items = len(read(self.items))
            return f"{task} has {items} items, too few for {shots} shots" if shots >= items else None
        if shots and self.shots is None:
            return f"evaluation.tasks.{task}.shots_from names no dataset for {shots} shots"
        if self.shots and shots and shots >= (there := len(read(self.shots))):  # lm-eval may draw one more
            return f"evaluation.tasks.{task}.shots_from has {there} records, too few for {shots} shots"
        return None


@dataclass(frozen=True)
class Calibrated:
    """What a candidate came to: the values of the tasks, in their order, and of their average with its error."""

    candidate: Candidate
    values: tuple[float, ...]
    average: float
    stderr: float

    @classmethod
    def of(cls, candidate: Candidate, results: "Mapping[str, Result]") -> "Calibrated":
        """`results` by `Candidate.label`. A task without the metric is scored by plain accuracy, as WinoGrande is."""
        scores = []
        for task in AVERAGE:
            samples = results[candidate.label(task)]["samples"]
            metric = candidate.metric if candidate.metric in samples[0] else "acc"
            scores.append(mean_and_stderr([sample[metric] for sample in samples]))
        values, stderrs = zip(*scores, strict=True)
        average, stderr = plain_average(values, stderrs)
        return cls(candidate, values, average, stderr)


def candidates(own: Mapping[str, int]) -> list[Candidate]:
    """Both forms, each with the shots of the gauntlet's versions, with none, and with the study's `own`."""
    several = [own, dict.fromkeys(AVERAGE, 0), *gauntlet.SHOTS.values()]
    different = dict.fromkeys(tuple(shots[task] for task in AVERAGE) for shots in several)
    return [
        Candidate(form, metric, dict(zip(AVERAGE, shots, strict=True)))
        for form, metrics in METRICS.items()
        for metric in metrics
        for shots in different
    ]


def published() -> tuple[str, float]:
    """The base model whose forgetting average the paper prints, and the average."""
    path = project("config/published_values.csv")
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (row["method"], row["metric"]) == (BASE, FORGETTING):
                return row["model"], float(row["value"])
    raise UserError(f"{path}: has no row with the method {BASE!r} and the metric {FORGETTING!r}")


def verdict(found: Sequence[Calibrated], model: str) -> str:
    """Which candidate is nearest to the published average, and which others are within their standard error of it.

    The items are those that the paper asks. Its model, form and shots would differ from it by rounding alone: the
    standard error, of another draw of items, is a bound that more than the right one may keep.
    """
    of, average = published()
    if model != of:
        return f"the published average, {average:.3f}, is of {of} and cannot be compared with {model}"
    nearest = min(found, key=lambda one: abs(one.average - average))
    within = [one for one in found if abs(one.average - average) <= one.stderr]
    said = (
        f"nearest to the published average of {of}, {average:.3f}: {nearest.candidate.said()}, with "
        f"{nearest.average:.4f} (standard error {nearest.stderr:.4f})"
    )
    if nearest not in within:
        return f"{said}; no candidate is within its standard error"
    others = [one.candidate.said() for one in within if one is not nearest]
    return f"{said}, within it" + (f"; so are: {'; '.join(others)}" if others else ", as no other is")


def table(found: Sequence[Calibrated], model: str) -> list[dict[str, str]]:
    """A row for each candidate; `COLUMNS`."""
    of, average = published()
    return [
        {
            **{"form": one.candidate.form, "metric": one.candidate.metric, "shots": one.candidate.shots_text},
            **{task: f"{value:.4f}" for task, value in zip(AVERAGE, one.values, strict=True)},
            **{"average": f"{one.average:.4f}", "stderr": f"{one.stderr:.4f}"},
            **(_compared(one, average) if model == of else {}),
        }
        for one in found
    ]


def _compared(one: Calibrated, average: float) -> dict[str, str]:
    difference = one.average - average
    within = "yes" if abs(difference) <= one.stderr else "no"
    return {"published": f"{average:.3f}", "difference": f"{difference:+.4f}", "within_stderr": within}


def main(launch: Launch) -> None:
    """Asks a study's base model in every way that its data allow, and prints and writes what each came to, one by one.

    Answers are kept as they come, for a second start.

    Raises:
        UserError: the study does not ask the tasks of the average; model or records are not made.
    """
    from scripts.evaluation.harness import Harness
    from scripts.training import devices

    asked, base, spec = _asked(launch)
    ways = []
    refused: dict[str, None] = {}  # a way that lacks something does so whatever its metric
    for candidate in candidates({task: one.settings["shots"] for task, one in asked.items()}):
        lacking = (one.lacks(candidate.form, candidate.shots[task]) for task, one in asked.items())
        if why := next(filter(None, lacking), None):
            refused[f"not asked: {candidate.form}, {candidate.shots_text} shots ({why})"] = None
        else:
            ways.append(candidate)
    tasks: dict[str, dict[str, Any]] = {}
    records, shots = {}, {}
    for candidate in ways:
        for task, one in asked.items():
            label, count = candidate.label(task), candidate.shots[task]
            form = {"form": candidate.form} if candidate.form != LM_EVAL else {}
            tasks[label] = {**one.settings, "shots": count, **form}
            records[label] = one.items
            if count and one.shots and not form:
                shots[label] = one.shots
    model = launch.grid.study.model.label
    out = Path(launch.results) / "calibration.csv"
    line = _spaced(ways)
    found: list[Calibrated] = []
    results: dict[str, Result] = {}
    with _kept(launch, spec) as journal, devices.claimed(launch.store.root):
        harness = Harness(tasks, records, base, seed=spec.seed, shots=shots, precision=spec.precision, say=_say)
        print(line(dict(zip(COLUMNS, COLUMNS, strict=True))), flush=True)
        for candidate in ways:
            for label in map(candidate.label, AVERAGE):
                if label not in results:
                    results |= harness.score(None, None, [label], journal=journal)
                    _say(f"{label}: {results[label]['metric']} {results[label]['value']:.4f}")
            found.append(Calibrated.of(candidate, results))
            rows = table(found, model)
            _write(rows, out)
            print(line(rows[-1]), flush=True)
    print("\n".join([*refused, verdict(found, model), f"{out}: written"]))


@contextmanager
def _kept(launch: Launch, spec: specs.Asked) -> Iterator["Journal"]:
    """The journal of answers, where a second start finds those of one that was interrupted; deleted when all are there.

    Another model, precision or version of the code has another. Its place is that of an unfinished product, so that
    `make prune` finds what nobody goes on with.
    """
    from scripts.evaluation.journal import Journal

    said = {"subject": spec.subject, "precision": spec.precision, "versions": spec.versions}
    key = f"calibrations/{BASE}-{fingerprint(said)}"
    launch.store.require_writable()
    with launch.store.lock(key):
        scratch = launch.store.scratch(key)
        with closing(Journal(scratch / JOURNAL)) as journal:
            yield journal
        shutil.rmtree(scratch)


def _write(rows: Sequence[Mapping[str, str]], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _asked(launch: Launch) -> tuple[dict[str, Asked], Path, specs.Asked]:
    """What is asked in each task of the average, the base model's directory, and the spec of one of the tasks.

    They have the same subject, precision, seed and versions of the code.
    """
    from scripts.data.products import data_bytes
    from scripts.data.records import FILE

    grid = launch.grid
    (condition,) = grid.blocks[BASE]
    if missing := [task for task in AVERAGE if task not in condition.evaluations]:
        raise UserError(f"evaluation.forgetting of study {grid.name!r} lacks {', '.join(missing)}, of the average")
    products = {task: grid.products[condition.evaluations[task]] for task in AVERAGE}
    needed = dict.fromkeys(key for product in products.values() for key in product.inputs)
    launch.require_locked(needed)
    if targets := [f"{launch.seen_store}/{key}.json" for key in needed if not launch.store.is_made(key)]:
        raise UserError(f"the base model or its items are not made; `{snakemake_command(*targets)}` makes them")
    asked = {}
    for task, product in products.items():
        spec = specs.Asked.read(product.spec)
        items, *examples = (data_bytes(launch, key) / FILE for key in product.inputs_of("records"))
        settings = {key: value for key, value in spec.settings.items() if key != "form"}
        asked[task] = Asked({"task": task, **settings}, items, examples[0] if examples else None)
    return asked, launch.store.bytes_of(grid.model.key), spec


def _spaced(ways: Sequence[Candidate]) -> Callable[[Mapping[str, str]], str]:
    """Makes the lines of a table for people, whose rows come one by one."""
    shown = [{"form": one.form, "metric": one.metric, "shots": one.shots_text} for one in ways]
    widths = {
        column: max(len(text) for text in (column, "+0.0000", *(row.get(column, "") for row in shown)))
        for column in COLUMNS
    }
    return lambda row: "  ".join(row.get(column, "").ljust(width) for column, width in widths.items()).rstrip()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    launch_options(parser)
    run(lambda arguments: main(current_launch(arguments)), parser)
