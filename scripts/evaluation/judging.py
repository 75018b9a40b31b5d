"""Judges what models have written: runs programs in the sandbox, reads answers, has conversations graded.

No model is loaded for it.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from scripts.common.progress import Progress
from scripts.components.asking.answers import TURNS, Conversations, Programs, Scored, by_item
from scripts.components.asking.items import read
from scripts.components.tasks import TASKS
from scripts.evaluation import mt_bench
from scripts.evaluation.journal import Journal
from scripts.evaluation.results import Result, result_of
from scripts.evaluation.sandbox import ProgramResult, Sandbox, package_files
from scripts.evaluation.scores import mean_and_stderr, pass_at_k
from scripts.evaluation.tasks import load_tasks

RUN_AT_ONCE = 256
"""Programs that are handed to the sandbox together, and whose verdicts are kept together."""

Samples = Sequence[Mapping[str, Any]]
"""What a model wrote: for each item, in the order of the records, its number as `item`, and lists of `prompts` and
`completions`."""


class ProgramRunner(Protocol):
    """Runs each program with its check where it can do no harm; see the sandbox."""

    def run(
        self,
        programs: Sequence[tuple[str, str]],
        *,
        timeout_seconds: float,
        memory_mb: int,
        workers: int,
        packages: Sequence[str],
    ) -> Sequence[ProgramResult]: ...


class Judging:
    """What is judged, read once, and any number of models' samples judged.

    Args:
        tasks: for each label the name of its task, as `task`, and the settings, as under `evaluation.tasks` in a study.
            Labels whose answers models do not write are ignored.
        records: for each label its items, JSON lines.
        runner: runs programs; the sandbox unless given.
        workers: how many programs run at the same time; if None, as many as this process may use CPUs.

    Raises:
        UserError: programs are to be run and there is no sandbox, or not the packages that they may import.
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, Any]],
        records: Mapping[str, Path],
        *,
        runner: ProgramRunner | None = None,
        workers: int | None = None,
    ) -> None:
        self._settings = {label: dict(chosen) for label, chosen in tasks.items() if TASKS[chosen["task"]].writes}
        self._records = records
        self._workers = workers or _cpus()
        self._verdicts: defaultdict[str, dict[str, str]] = defaultdict(dict)
        runs = any(isinstance(TASKS[chosen["task"]].answers, Programs) for chosen in self._settings.values())
        self._runner = runner or (Sandbox.find() if runs else None)
        for chosen in self._settings.values():
            package_files(chosen.get("packages", ()))

    def require_ready(self, label: str) -> None:
        """Raises UserError where there is no judge of conversations to ask; before a model writes them for nothing."""
        if "judge" in self._settings.get(label, {}):
            mt_bench.Grader.from_environment(self._settings[label]["judge"])

    def result(
        self, label: str, samples: Samples, *, journal: Journal | None = None, what: str | None = None
    ) -> Result:
        """The score of a model's samples.

        Args:
            journal: keeps verdicts on programs as they come; those that it has are not made again.
            what: is said in lines of progress; the label unless given.

        Raises:
            UserError: conversations are judged, and the judge is not there or does not do its work.
        """
        settings = self._settings[label]
        answers = TASKS[settings["task"]].answers
        if isinstance(answers, Conversations):
            return self._graded(label, samples)
        metrics = TASKS[settings["task"]].metrics_of(settings)
        logged = self._logged(label, samples)
        if isinstance(answers, Scored):
            return result_of(metrics, [answers.sample(one, metrics) for one in logged], errors=False)
        judged = self._programs_run(label, logged, metrics, journal, what or label)
        counted = Counter(verdict for sample in judged for verdict in sample["verdicts"])
        return {**result_of(metrics, judged, errors=answers.errors), "verdicts": dict(sorted(counted.items()))}

    def remember(self, label: str, samples: Samples) -> None:
        """Takes over the `verdicts` of samples that were judged in the same way; their programs are not run again."""
        known = self._verdicts[label]
        for sample, one in zip(samples, self._logged(label, samples), strict=True):
            digests = [_digest(program, one["target"]) for program in one["filtered_resps"][0]]
            known.update(zip(digests, sample["verdicts"], strict=True))

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        # what stands in front of an item has done its work
        settings = {label: {**chosen, "shots": 0} for label, chosen in self._settings.items()}
        return load_tasks(settings, self._records, {})

    def _logged(self, label: str, samples: Samples) -> list[dict[str, Any]]:
        """What lm-eval's `evaluate` logs of each item, by the task's filters and metrics, had it asked the model."""
        from lm_eval.api.instance import Instance

        task = self._tasks[label]
        documents = list(task.eval_docs)
        task._instances = [
            Instance("generate_until", documents[sample["item"]], (), 0, resps=list(sample["completions"]))
            for sample in samples
        ]
        task.apply_filters()
        asked = [
            {
                "doc_id": sample["item"],
                "doc": instance.doc,
                "target": task.doc_to_target(instance.doc),
                "arguments": [(prompt, text) for prompt in sample["prompts"] for text in sample["completions"]],
                "filter": name,
                "filtered_resps": [found],
                **task.process_results(instance.doc, [found]),
            }
            for sample, instance in zip(samples, task.instances, strict=True)
            for name, found in instance.filtered_resps.items()
        ]
        return by_item(asked)

    def _programs_run(
        self, label: str, logged: list[dict[str, Any]], metrics: Sequence[str], journal: Journal | None, what: str
    ) -> list[dict[str, Any]]:
        """One sample for each problem. A program is run once, whichever models wrote it how often."""
        settings, known = self._settings[label], self._verdicts[label]
        rows = [[_digest(program, item["target"]) for program in item["filtered_resps"][0]] for item in logged]
        programs = {
            digest: (program, item["target"])
            for item, row in zip(logged, rows, strict=True)
            for digest, program in zip(row, item["filtered_resps"][0], strict=True)
        }
        if journal is not None:
            known |= {digest: journal[digest] for digest in programs if digest in journal}
        unknown = [digest for digest in programs if digest not in known]
        progress = Progress(what, "programs run", len(programs), len(programs) - len(unknown))
        for start in range(0, len(unknown), RUN_AT_ONCE):
            assert self._runner is not None
            chunk = unknown[start : start + RUN_AT_ONCE]
            found = self._runner.run(
                [programs[digest] for digest in chunk],
                timeout_seconds=settings["timeout_seconds"],
                memory_mb=settings["memory_mb"],
                workers=self._workers,
                packages=settings.get("packages", ()),
            )
            verdicts = dict(zip(chunk, (one.outcome for one in found), strict=True))
            known.update(verdicts)
            if journal is not None:
                journal.keep(verdicts)
            progress.add(len(chunk))
        samples = []
        for item, row in zip(logged, rows, strict=True):
            verdicts_of = [known[digest] for digest in row]
            passed = verdicts_of.count("passed")
            samples.append(
                {
                    "item": item["doc_id"],
                    "prompts": list(dict.fromkeys(prompt for prompt, _ in item["arguments"])),
                    "completions": [text for _, text in item["arguments"]],
                    "verdicts": verdicts_of,
                    **{metric: pass_at_k(len(row), passed, int(metric.removeprefix("pass@"))) for metric in metrics},
                }
            )
        return samples

    def _graded(self, label: str, samples: Samples) -> Result:
        """Every answer of every conversation, graded."""
        items = read(self._records[label])
        grader = mt_bench.Grader.from_environment(self._settings[label]["judge"])
        conversations = [
            list(zip(items[sample["item"]]["turns"], map(str.strip, sample["completions"]), strict=True))
            for sample in samples
        ]
        grades = grader.grade([turns[: count + 1] for turns in conversations for count in range(TURNS)])
        judged = [
            {
                "item": sample["item"],
                "question_id": str(items[sample["item"]]["question_id"]),
                "category": items[sample["item"]]["category"],
                "prompts": list(sample["prompts"]),
                "completions": list(sample["completions"]),
                "scores": [grade.score for grade in grades[TURNS * number : TURNS * (number + 1)]],
                "judgements": [grade.judgement for grade in grades[TURNS * number : TURNS * (number + 1)]],
            }
            for number, sample in enumerate(samples)
        ]
        value, stderr = mean_and_stderr([grade.score for grade in grades])
        return Result(
            metric="score", value=value, stderr=stderr, items=len(judged), metrics={"score": value}, samples=judged
        )


def _cpus() -> int:
    """How many this process may use: on a cluster fewer than the node has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _digest(program: str, check: str) -> str:
    """Stands for a program with its check, which for all models of a family would take hundreds of megabytes."""
    return hashlib.sha256(json.dumps([program, check]).encode()).hexdigest()
