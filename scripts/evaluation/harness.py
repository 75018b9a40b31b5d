"""Scores models on the benchmarks of a study, through lm-eval and, for programs, the sandbox.

What a task asks and how an answer is scored stands in ``config/evaluations``; how much of it, in the study.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypedDict

from scripts.evaluation.scores import mean_and_stderr, pass_at_k
from scripts.study.errors import UserError

# Everything is a local file; the libraries read this when they are imported.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

TASK_FILES = Path(__file__).parents[2] / "config" / "evaluations"

METRICS = {
    "humaneval": ("pass@1",),
    "gsm8k": ("exact_match",),
    "hellaswag": ("acc_norm", "acc"),
    "arc_challenge": ("acc_norm", "acc"),
    "winogrande": ("acc",),
}
"""What is recorded for each task; the first is the task's value."""

BATCH_SIZE = 128
"""Sequences in one forward pass. A constant, because sampled programs depend on it."""

Progress = Callable[[str, int, int], None]
"""Told the task that starts, how many are done, and how many there are."""


class Result(TypedDict):
    """The score of one model on one task, as plain data."""

    metric: str
    value: float
    stderr: float  # sample standard deviation over items / sqrt(items)
    items: int
    metrics: dict[str, float]  # every recorded metric, `metric` among them
    samples: list[dict[str, Any]]  # one for each item, in the order of the records


class Verdict(Protocol):
    """What became of a program; see the sandbox."""

    @property
    def outcome(self) -> str: ...


class Judge(Protocol):
    """Runs each program with its check where it can do no harm; see the sandbox."""

    def judge(
        self, programs: Sequence[tuple[str, str]], *, timeout_seconds: float, memory_mb: int, workers: int
    ) -> Sequence[Verdict]: ...


class Harness:
    """The benchmarks of a study, read once, and any number of models scored on them.

    Args:
        tasks: the settings of each task, as under `evaluation.tasks` in a study.
        records: the items of each task, JSON lines in the format of the real set.
        base: the base model's directory, with its tokenizer.
        seed: decides the sampled programs and which shots an item gets.
        shots: for each task with `shots` above 0, the records that they are drawn from.
        judge: runs programs; the sandbox unless given.
        workers: how many programs run at the same time.

    Raises:
        UserError: a task has too few items or no records for its shots, asks for more tokens than the model
            can hold, or needs a sandbox where there is none.
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, Any]],
        records: Mapping[str, Path],
        base: Path,
        *,
        seed: int = 0,
        shots: Mapping[str, Path] | None = None,
        judge: Judge | None = None,
        workers: int = 2,
    ) -> None:
        self.base = base
        self.seed = seed
        self.workers = workers
        self._settings = {name: dict(settings) for name, settings in tasks.items()}
        self._check(records, shots or {})
        self._judge = judge or (_sandbox() if "humaneval" in tasks else None)
        self._outcomes: dict[tuple[str, str], str] = {}
        self._loaded: tuple[Path | None, str | None, Any] | None = None
        with _quiet():
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
            self._tasks = _load_tasks(self._settings, records, shots or {})

    def score(
        self,
        run: Path | None,
        method_kind: str | None,
        names: Sequence[str],
        progress: Progress | None = None,
    ) -> dict[str, Result]:
        """Scores the model that `run` and `method_kind` name, as in `load_model`; None is the base model.

        The result of a task depends on the model, the task and the seed, not on the other tasks asked for.
        """
        return self.score_lm(self._load(run, method_kind), names, progress)

    def score_lm(self, lm: Any, names: Sequence[str], progress: Progress | None = None) -> dict[str, Result]:
        """Scores any `lm_eval.api.model.LM`."""
        results = {}
        for done, name in enumerate(names):
            if progress:
                progress(name, done, len(names))
            results[name] = self._score_task(lm, name)
        return results

    def _load(self, run: Path | None, method_kind: str | None) -> Any:
        """The last model is kept: whoever asks for one task at a time should not load it for each."""
        from scripts.evaluation.language_model import LanguageModel
        from scripts.training.adapters import load_model

        if self._loaded is None or self._loaded[:2] != (run, method_kind):
            self._loaded = None
            model = load_model(self.base, run, method_kind)
            with _quiet():
                lm = LanguageModel(pretrained=model, tokenizer=self._tokenizer, batch_size=BATCH_SIZE)
            self._loaded = (run, method_kind, lm)
        return self._loaded[2]

    def _score_task(self, lm: Any, name: str) -> Result:
        import torch
        from lm_eval import evaluate

        task = self._tasks[name]
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            task.set_fewshot_seed(self.seed)
            logged = evaluate(lm, {"tasks": {name: task}}, bootstrap_iters=0)["samples"][name]
        if name == "humaneval":
            samples = self._judged(logged)
        elif name == "gsm8k":
            samples = [_answer_sample(sample) for sample in logged]
        else:
            samples = [_choice_sample(sample, METRICS[name]) for sample in logged]
        return _result(METRICS[name], samples)

    def _judged(self, logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One sample for each problem. A program is judged once, whichever models wrote it how often."""
        settings = self._settings["humaneval"]
        pairs = [[(program, item["target"]) for program in item["filtered_resps"][0]] for item in logged]
        unknown = list(dict.fromkeys(pair for row in pairs for pair in row if pair not in self._outcomes))
        if unknown:
            assert self._judge is not None
            verdicts = self._judge.judge(
                unknown,
                timeout_seconds=settings["timeout_seconds"],
                memory_mb=settings["memory_mb"],
                workers=self.workers,
            )
            for pair, verdict in zip(unknown, verdicts, strict=True):
                self._outcomes[pair] = verdict.outcome
        samples = []
        for item, row in zip(logged, pairs, strict=True):
            outcomes = [self._outcomes[pair] for pair in row]
            samples.append(
                {
                    "item": item["doc_id"],
                    "prompt_sha256": item["prompt_hash"],
                    "outputs": item["resps"][0],
                    "outcomes": outcomes,
                    "pass@1": pass_at_k(len(outcomes), outcomes.count("passed"), 1),
                }
            )
        return samples

    def _check(self, records: Mapping[str, Path], shots: Mapping[str, Path]) -> None:
        positions = json.loads((self.base / "config.json").read_text())["max_position_embeddings"]
        for name, settings in self._settings.items():
            with records[name].open(encoding="utf-8") as file:
                items = sum(1 for _ in file)
            if items < 2:
                raise UserError(f"{records[name]}: {name} needs at least two items, there are {items}")
            shot_count, new_tokens = settings.get("shots", 0), settings.get("max_new_tokens", 0)
            key = f"evaluation.tasks.{name}"
            if shot_count > 0 and name not in shots:
                raise UserError(f"{key}.shots: {shot_count} shots need training records, there are none")
            if new_tokens >= positions:
                raise UserError(
                    f"{key}.max_new_tokens: must be less than the {positions} tokens that the model can hold, "
                    f"prompt included; it is {new_tokens}"
                )


def _sandbox() -> Judge:
    from scripts.evaluation.sandbox import Sandbox

    return Sandbox.find()


def _load_tasks(
    settings: Mapping[str, Mapping[str, Any]], records: Mapping[str, Path], shots: Mapping[str, Path]
) -> dict[str, Any]:
    """The lm-eval tasks, with the study's settings put over those of the task files."""
    import functools

    import lm_eval.api.task
    from lm_eval.tasks import TaskManager

    # lm-eval draws a bar for each task it prepares, and has no switch for it.
    lm_eval.api.task.tqdm = functools.partial(lm_eval.api.task.tqdm, disable=True)
    manager = TaskManager(include_path=str(TASK_FILES), include_defaults=False)
    members = []
    for name in settings:
        files = {"test": str(records[name])} | ({"train": str(shots[name])} if name in shots else {})
        members.append({"task": name, "dataset_kwargs": files})
    # The members of a group take overrides, a task by itself does not.
    tasks: dict[str, Any] = manager.load([{"group": "study", "task": members}])["tasks"]
    for name, task in tasks.items():
        task.set_config("num_fewshot", settings[name].get("shots", 0))
        if "max_new_tokens" in settings[name]:
            generation = {"max_gen_toks": settings[name]["max_new_tokens"]}
            if "samples" in settings[name]:
                task.set_config("repeats", settings[name]["samples"])
                generation |= {key: settings[name][key] for key in ("temperature", "top_p")}
            task.set_config("generation_kwargs", generation, update=True)
    return tasks


def _answer_sample(logged: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "item": logged["doc_id"],
        "prompt_sha256": logged["prompt_hash"],
        "outputs": logged["resps"][0],
        "answer": logged["filtered_resps"][0],
        "exact_match": float(logged["exact_match"]),
    }


def _choice_sample(logged: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "item": logged["doc_id"],
        "prompt_sha256": logged["prompt_hash"],
        "loglikelihoods": [loglikelihood for loglikelihood, _ in logged["filtered_resps"]],
        **{metric: float(logged[metric]) for metric in metrics},
    }


def _result(metrics: Sequence[str], samples: list[dict[str, Any]]) -> Result:
    means = {metric: mean_and_stderr([sample[metric] for sample in samples]) for metric in metrics}
    value, stderr = means[metrics[0]]
    return Result(
        metric=metrics[0],
        value=value,
        stderr=stderr,
        items=len(samples),
        metrics={metric: mean for metric, (mean, _) in means.items()},
        samples=samples,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's remarks on how it is set up. What it warns of while it scores is still heard."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
