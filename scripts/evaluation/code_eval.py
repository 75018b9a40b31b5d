"""Stands in for the metric `code_eval` of the library evaluate, which would run programs where the caller runs.

lm-eval's tasks of programs load that metric when they are imported, hand it programs with their tests, and make their
own metrics of what it returns. This one runs nothing: it looks up what came of a program in the sandbox, and lists what
it was asked, so that what is not known yet can be run there.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy

from scripts.common.errors import UserError
from scripts.evaluation.scores import pass_at_k

NAME = "code_eval"


def digest(program: str, check: str) -> str:
    """Stands for a program with its check, which for all models of a family would take hundreds of megabytes."""
    return hashlib.sha256(json.dumps([program, check]).encode()).hexdigest()


class CodeEval:
    """The metric. A task's module keeps the one that it has loaded, so there is one for the whole process."""

    def __init__(self) -> None:
        self._verdicts: Mapping[str, str] = {}
        self._asked: list[tuple[str, str]] = []

    @contextmanager
    def asked(self, verdicts: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
        """While it lasts, what is asked is listed: programs with their checks.

        Args:
            verdicts: what came of them, by their `digest`; where it is not there, they count as failed.
        """
        before = self._verdicts, self._asked
        self._verdicts, self._asked = verdicts, []
        try:
            yield self._asked
        finally:
            self._verdicts, self._asked = before

    def compute(
        self, *, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,), **_rest: Any
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """As evaluate's `code_eval`: pass@k over the problems, and of each problem what came of its programs."""
        results: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for task, (check, programs) in enumerate(zip(references, predictions, strict=True)):
            results[task] = []
            for number, program in enumerate(programs):
                self._asked.append((program, check))
                verdict = self._verdicts.get(digest(program, check), "not_run")
                said = {"task_id": task, "completion_id": number, "passed": verdict == "passed", "result": verdict}
                results[task].append((number, said))
        counts = [(len(row), sum(said["passed"] for _, said in row)) for row in results.values()]
        fit = [number for number in k if all(total >= number for total, _ in counts)]
        return {f"pass@{n}": float(numpy.mean([pass_at_k(*count, n) for count in counts])) for n in fit}, results


CODE_EVAL = CodeEval()


@contextmanager
def evaluate_offline() -> Iterator[None]:
    """While it lasts, `evaluate.load` knows `code_eval` alone, which is `CODE_EVAL`.

    Raises:
        UserError: another one is loaded, which would be fetched from the hub.
    """
    import evaluate  # type: ignore[import-untyped]

    def load(path: str, *_arguments: Any, **_more: Any) -> CodeEval:
        if path != NAME:
            raise UserError(
                f"it takes its metric {path!r} from the library evaluate, which would fetch it from the hub"
            )
        return CODE_EVAL

    before = evaluate.load
    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = before
