"""Judges what models have written: runs programs in the sandbox, reads answers, has conversations graded.

No model is loaded for it.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from scripts.common.progress import Progress
from scripts.components.asking.answers import TURNS, Conversations, Programs, Scored, by_item
from scripts.components.asking.items import read
from scripts.components.foreign import task_of
from scripts.evaluation import mt_bench
from scripts.evaluation.code_eval import CODE_EVAL, digest
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
        self._settings = {label: dict(chosen) for label, chosen in tasks.items() if task_of(chosen).writes}
        self._records = records
        self._workers = workers or _cpus()
        self._verdicts: defaultdict[str, dict[str, str]] = defaultdict(dict)
        runs = any(isinstance(task_of(chosen).answers, Programs) for chosen in self._settings.values())
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
        answers = task_of(settings).answers
        if isinstance(answers, Conversations):
            return self._graded(label, samples)
        metrics = task_of(settings).metrics_of(settings)
        logged = self._logged(label, samples)
        if isinstance(answers, Scored):
            return result_of(metrics, [answers.sample(one, metrics) for one in logged], errors=False)
        self._run(label, logged, journal, what or label)
        if answers.by_task:
            logged = self._logged(label, samples)
        judged = [self._sample(label, one, metrics, answers.by_task) for one in logged]
        counted = Counter(verdict for sample in judged for verdict in sample["verdicts"])
        return {**result_of(metrics, judged, errors=answers.errors), "verdicts": dict(sorted(counted.items()))}

    def remember(self, label: str, samples: Samples) -> None:
        """Takes over the `verdicts` of samples that were judged in the same way; their programs are not run again."""
        known = self._verdicts[label]
        for sample, one in zip(samples, self._logged(label, samples), strict=True):
            digests = [digest(*program) for program in one["programs"]]
            known.update(zip(digests, sample["verdicts"], strict=True))

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        # what stands in front of an item has done its work
        settings = {label: {**chosen, "shots": 0} for label, chosen in self._settings.items()}
        return load_tasks(settings, self._records, {}, {})

    def _logged(self, label: str, samples: Samples) -> list[dict[str, Any]]:
        """What lm-eval's `evaluate` logs of each item, by the task's filters and metrics, had it asked the model.

        Of an item of programs, those too that are to be run, each with its check. A metric that the task makes of what
        came of them takes a program for failed that was not run yet.
        """
        from lm_eval.api.instance import Instance

        task, answers = self._tasks[label], task_of(self._settings[label]).answers
        documents = list(task.eval_docs)
        task._instances = [
            Instance("generate_until", documents[sample["item"]], (), 0, resps=list(sample["completions"]))
            for sample in samples
        ]
        task.apply_filters()
        asked = []
        for sample, instance in zip(samples, task.instances, strict=True):
            for name, found in instance.filtered_resps.items():
                target = task.doc_to_target(instance.doc)
                with CODE_EVAL.asked(self._verdicts[label]) as programs:
                    metrics = task.process_results(instance.doc, [found])
                logged = {
                    "doc_id": sample["item"],
                    "doc": instance.doc,
                    "target": target,
                    "arguments": [(prompt, text) for prompt in sample["prompts"] for text in sample["completions"]],
                    "filter": name,
                    "filtered_resps": [found],
                    **metrics,
                }
                if isinstance(answers, Programs):
                    logged["programs"] = programs if answers.by_task else [(program, target) for program in found]
                asked.append(logged)
        return by_item(asked)

    def _run(self, label: str, logged: list[dict[str, Any]], journal: Journal | None, what: str) -> None:
        """Runs the programs of which it is not known what comes of them: each once, whichever models wrote it."""
        settings, known = self._settings[label], self._verdicts[label]
        programs = {digest(*program): program for item in logged for program in item["programs"]}
        if journal is not None:
            known |= {key: journal[key] for key in programs if key in journal}
        unknown = [key for key in programs if key not in known]
        progress = Progress(what, "programs run", len(programs), len(programs) - len(unknown))
        for start in range(0, len(unknown), RUN_AT_ONCE):
            assert self._runner is not None
            chunk = unknown[start : start + RUN_AT_ONCE]
            found = self._runner.run(
                [programs[key] for key in chunk],
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

    def _sample(self, label: str, item: dict[str, Any], metrics: Sequence[str], by_task: bool) -> dict[str, Any]:
        """The sample of a problem whose programs were run."""
        verdicts = [self._verdicts[label][digest(*program)] for program in item["programs"]]
        if by_task:
            scores = {metric: float(item[metric]) for metric in metrics}
        else:
            total, passed = len(verdicts), verdicts.count("passed")
            scores = {metric: pass_at_k(total, passed, int(metric.removeprefix("pass@"))) for metric in metrics}
        return {
            "item": item["doc_id"],
            "prompts": list(dict.fromkeys(prompt for prompt, _ in item["arguments"])),
            "completions": [text for _, text in item["arguments"]],
            "verdicts": verdicts,
            **scores,
        }

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
