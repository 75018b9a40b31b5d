"""Scores models on the benchmarks and held-out records of a study, through lm-eval, for programs with the sandbox, and
for conversations with a judge.

What a task asks and how an answer is scored stands in `scripts.components.tasks` and in ``config/evaluations``; how
much of it, in the study. No task is named
here.
"""

import hashlib
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Protocol, TypedDict

from scripts.common.errors import UserError
from scripts.common.files import ROOT
from scripts.components.asking import gauntlet
from scripts.components.asking.answers import PER_TOKEN, TURNS, Conversations, Programs, Scored, by_item
from scripts.components.asking.items import read
from scripts.components.tasks import TASKS, Given
from scripts.components.templates import JOIN, PLAIN, conversation_text, stop_text
from scripts.data.encoding import Encoding
from scripts.evaluation import mt_bench
from scripts.evaluation.sandbox import ProgramResult, Sandbox
from scripts.evaluation.scores import mean_and_stderr, pass_at_k, ratio_and_stderr, subject_mean_and_stderr

if TYPE_CHECKING:
    from scripts.evaluation.placement import Place

# Everything is a local file; the libraries read this when they are imported.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

TASK_FILES = ROOT / "config" / "evaluations"

RUN_AT_ONCE = 4096
"""Programs that are handed to the sandbox together: hundreds for each problem would stand in memory several times."""


class Result(TypedDict):
    """The score of one model on one task, as plain data."""

    metric: str
    value: float
    stderr: float  # over items (mt_bench: over the grades of both turns), see `scripts.evaluation.scores`
    items: int
    metrics: dict[str, float]  # every recorded metric, `metric` among them
    errors: NotRequired[dict[str, float]]  # where a task records them: the standard error of each metric
    samples: list[dict[str, Any]]  # one for each item, in the order of the records
    provenance: NotRequired[dict[str, Any]]  # of a model that was put on a device: `evaluation`, where it computed


class ProgramRunner(Protocol):
    """Runs each program with its check where it can do no harm; see the sandbox."""

    def run(
        self, programs: Sequence[tuple[str, str]], *, timeout_seconds: float, memory_mb: int, workers: int
    ) -> Sequence[ProgramResult]: ...


class Harness:
    """What a study asks, read once, and any number of models scored on it.

    What is asked goes by labels, because one task can be asked of several record sets.

    Args:
        tasks: for each label the name of its task, as `task`, and the settings, as under `evaluation.tasks` in a study.
        records: for each label its items, JSON lines: of a benchmark in the format of the real set, of a loss documents
            (`text`) or instructions (`instruction`, `response`).
        base: the base model's directory, with its tokenizer.
        tokenizers: for each label that is asked with another tokenizer, the directory with it.
        seed: decides the sampled programs and which shots an item gets.
        shots: for each label with `shots` above 0, the records that they are drawn from.
        runner: runs programs; the sandbox unless given.
        workers: how many programs run at the same time; if None, as many as this process may use CPUs.
        precision: what models compute in.
        say: is told once, in a sentence, where models compute, before the first is loaded.

    Raises:
        UserError: a task has too few items or no records for its shots, asks for more tokens than the model
            can hold, or needs a sandbox where there is none; records are not as their task needs them (its `check`).
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, Any]],
        records: Mapping[str, Path],
        base: Path,
        *,
        seed: int = 0,
        shots: Mapping[str, Path] | None = None,
        tokenizers: Mapping[str, Path] | None = None,
        runner: ProgramRunner | None = None,
        workers: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.base = base
        self.seed = seed
        self.workers = workers or _cpus()
        self._precision = precision
        self._say = say
        self._settings = {label: dict(settings) for label, settings in tasks.items()}
        self._tokenizers = {label: (tokenizers or {}).get(label, base) for label in tasks}
        self._encoding = cache(Encoding.read)  # several labels are asked with the same
        self._asked = {label: TASKS[settings["task"]] for label, settings in tasks.items()}
        self._check(records, shots or {})
        kinds = {label: task.answers for label, task in self._asked.items()}
        asks_programs = any(isinstance(kind, Programs) for kind in kinds.values())
        self._runner = runner or (Sandbox.find() if asks_programs else None)
        self._outcomes: defaultdict[str, dict[bytes, str]] = defaultdict(dict)
        self._conversations = {
            label: read(records[label]) for label, kind in kinds.items() if isinstance(kind, Conversations)
        }
        self._loaded: tuple[Path | None, str | None, Any] | None = None
        with _quiet():
            self._tasks = _load_tasks(self._settings, records, shots or {})

    def score(self, run: Path | None, method_kind: str | None, labels: Sequence[str]) -> dict[str, Result]:
        """Scores the model that `run` and `method_kind` name, as in `load_model`; None is the base model.

        The result of a label depends on the model, the task, its records and the seed, not on the other labels.

        Raises:
            UserError: a label needs a judge of conversations and there is none, or it does not do its work.
        """
        for label in labels:
            if label in self._conversations:
                mt_bench.Grader.from_environment(self._settings[label]["judge"])  # before a model is loaded for nothing
        model = self._load(run, method_kind)
        made_by = {"evaluation": {"device": self._place.name, "precision": self._place.precision}}
        results = {label: self._score_label(self._language_model(model, label), label) for label in labels}
        return {label: {**result, "provenance": made_by} for label, result in results.items()}

    def score_lm(self, lm: Any, labels: Sequence[str]) -> dict[str, Result]:
        """Scores any `lm_eval.api.model.LM`."""
        return {label: self._score_label(lm, label) for label in labels}

    def _load(self, run: Path | None, method_kind: str | None) -> Any:
        """The last model is kept: whoever asks for one task at a time should not load it for each."""
        from scripts.loading.models import load_model

        if self._loaded is None or self._loaded[:2] != (run, method_kind):
            self._loaded = None
            place = self._place
            self._loaded = (run, method_kind, place.put(load_model(self.base, run, method_kind)))
        return self._loaded[2]

    @cached_property
    def _place(self) -> "Place":
        from scripts.evaluation.placement import Place

        place = Place.of_job(self._precision)
        self._say(f"models are evaluated on {place.name} in {place.precision}")
        return place

    def _language_model(self, model: Any, label: str) -> Any:
        """The model as lm-eval sees it, which reads and writes with the label's tokenizer."""
        from scripts.evaluation.language_model import LanguageModel

        answers = self._asked[label].answers
        with _quiet():
            return LanguageModel(
                model,
                self._encoding_of(label),
                seed=self.seed,
                as_rows=isinstance(answers, Scored) and answers.as_rows,
            )

    def _encoding_of(self, label: str) -> Encoding:
        settings = self._settings[label]
        # a spec that does not say it is of a tokenizer that puts nothing before a text
        return self._encoding(self._tokenizers[label], settings.get("bos", "none"), settings.get("join", JOIN))

    def _score_label(self, lm: Any, label: str) -> Result:
        from lm_eval import evaluate

        if label in self._conversations:
            return self._graded(lm, label)
        asked, task = self._asked[label], self._tasks[label]
        metrics = asked.metrics_of(self._settings[label])
        task.set_fewshot_seed(self.seed)
        logged = by_item(evaluate(lm, {"tasks": {label: task}}, bootstrap_iters=0)["samples"][label])
        if isinstance(asked.answers, Programs):
            return _result(metrics, self._programs_run(label, logged, metrics), errors=asked.answers.errors)
        assert isinstance(asked.answers, Scored)
        if PER_TOKEN in metrics:
            self._count_tokens(label, logged)
        return _result(metrics, [asked.answers.sample(one, metrics) for one in logged], errors=False)

    def _count_tokens(self, label: str, logged: list[dict[str, Any]]) -> None:
        """Adds to what lm-eval logged the `tokens` of each choice."""
        asked = [arguments for one in logged for arguments in one["arguments"]]
        counts = iter(tokens_added(self._encoding_of(label), asked))
        for one in logged:
            one["tokens"] = [next(counts) for _ in one["arguments"]]

    def _programs_run(self, label: str, logged: list[dict[str, Any]], metrics: Sequence[str]) -> list[dict[str, Any]]:
        """One sample for each problem. A program is run once, whichever models wrote it how often."""
        settings, known = self._settings[label], self._outcomes[label]
        rows = [[_digest(program, item["target"]) for program in item["filtered_resps"][0]] for item in logged]
        unknown = {
            digest: (program, item["target"])
            for item, row in zip(logged, rows, strict=True)
            for digest, program in zip(row, item["filtered_resps"][0], strict=True)
            if digest not in known
        }
        digests = list(unknown)
        for start in range(0, len(digests), RUN_AT_ONCE):
            assert self._runner is not None
            chunk = digests[start : start + RUN_AT_ONCE]
            results = self._runner.run(
                [unknown[digest] for digest in chunk],
                timeout_seconds=settings["timeout_seconds"],
                memory_mb=settings["memory_mb"],
                workers=self.workers,
            )
            known.update(zip(chunk, (result.outcome for result in results), strict=True))
        samples = []
        for item, row in zip(logged, rows, strict=True):
            outcomes = [known[digest] for digest in row]
            passed = outcomes.count("passed")
            samples.append(
                {
                    "item": item["doc_id"],
                    "prompt_sha256": item["prompt_hash"],
                    "outputs": item["resps"][0],
                    "outcomes": outcomes,
                    **{metric: pass_at_k(len(outcomes), passed, _k(metric)) for metric in metrics},
                }
            )
        return samples

    def _graded(self, lm: Any, label: str) -> Result:
        """Both turns of every question, written greedily and graded. The second turn sees the model's first answer."""
        from lm_eval.api.instance import Instance

        settings, items = self._settings[label], self._conversations[label]
        grader = mt_bench.Grader.from_environment(settings["judge"])
        template = settings.get("template", PLAIN)
        arguments = {"until": [stop_text(template)], "do_sample": False, "max_gen_toks": settings["max_new_tokens"]}
        conversations: list[list[mt_bench.Turn]] = [[] for _ in items]
        samples: list[dict[str, Any]] = [
            {"item": number, "question_id": item["question_id"], "category": item["category"]}
            | {"prompt_sha256": [], "outputs": [], "scores": [], "judgements": []}
            for number, item in enumerate(items)
        ]
        for turn in range(TURNS):
            prompts = [
                conversation_text(earlier, item["turns"][turn], template)
                for earlier, item in zip(conversations, items, strict=True)
            ]
            answers = lm.generate_until([Instance("generate_until", {}, (text, {**arguments}), 0) for text in prompts])
            for number, (text, answer) in enumerate(zip(prompts, answers, strict=True)):
                conversations[number].append((items[number]["turns"][turn], answer.strip()))
                samples[number]["prompt_sha256"].append(hashlib.sha256(text.encode()).hexdigest())
                samples[number]["outputs"].append(answer)
        graded = [turns[: count + 1] for turns in conversations for count in range(TURNS)]
        grades = grader.grade(graded)
        for number, grade in enumerate(grades):
            sample = samples[number // TURNS]
            sample["scores"].append(grade.score)
            sample["judgements"].append(grade.judgement)
        value, stderr = mean_and_stderr([grade.score for grade in grades])
        return Result(
            metric="score", value=value, stderr=stderr, items=len(items), metrics={"score": value}, samples=samples
        )

    def _check(self, records: Mapping[str, Path], shots: Mapping[str, Path]) -> None:
        positions = json.loads((self.base / "config.json").read_text())["max_position_embeddings"]
        for label, settings in self._settings.items():
            with records[label].open(encoding="utf-8") as file:
                items = sum(1 for _ in file)
            if items < 2:
                raise UserError(f"{records[label]}: {settings['task']} needs at least two items, there are {items}")
            self._asked[label].check_forms([records[label], *([shots[label]] if label in shots else [])])
            shot_count, new_tokens = settings.get("shots", 0), settings.get("max_new_tokens", 0)
            key = f"evaluation.tasks.{settings['task']}"
            if shot_count > 0 and label not in shots and settings.get("form") != gauntlet.FORM:
                raise UserError(f"{key}.shots: {shot_count} shots need training records, there are none")
            if new_tokens >= positions:
                raise UserError(
                    f"{key}.max_new_tokens: must be less than the {positions} tokens that the model can hold, "
                    f"prompt included; it is {new_tokens}"
                )
            if settings.get("max_length", 0) > positions:
                raise UserError(
                    f"{key}.max_length: must be at most the {positions} tokens that the model can hold; it is "
                    f"{settings['max_length']}"
                )
            if check := self._asked[label].check:
                check(
                    Given(
                        settings=settings,
                        records=records[label],
                        shots=shots.get(label),
                        positions=positions,
                        longest=partial(_longest, self._encoding_of(label)),
                        lengths=partial(_lengths, self._encoding_of(label)),
                    )
                )


def _longest(encoding: Encoding, pairs: Sequence[tuple[str, str]]) -> int:
    """Tokens of the longest second text of the pairs, behind the first."""
    firsts, seconds = zip(*pairs, strict=True)
    return max(len(ids) for _, ids in encoding.examples(firsts, seconds))


def _lengths(encoding: Encoding, prompts: Sequence[str]) -> list[int]:
    """Tokens of each prompt, with what stands before it."""
    return [len(ids) for ids in encoding.prompts(prompts)]


def tokens_added(encoding: Encoding, pairs: Sequence[tuple[str, str]]) -> list[int]:
    """How many tokens the second text of each pair adds to the first, as lm-eval cuts them.

    Both are one text; the spaces that the first ends in belong to the second.
    """
    firsts = list(dict.fromkeys(first.rstrip() for first, _ in pairs))
    lengths = {first: len(ids) for first, ids in zip(firsts, encoding.texts(firsts), strict=True)}
    wholes = encoding.texts([first + second for first, second in pairs])
    return [len(whole) - lengths[first.rstrip()] for whole, (first, _) in zip(wholes, pairs, strict=True)]


def _cpus() -> int:
    """How many this process may use: on a cluster fewer than the node has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _k(metric: str) -> int:
    return int(metric.removeprefix("pass@"))


def _digest(program: str, check: str) -> bytes:
    """Stands for a program with its check, which for all models of a family would take hundreds of megabytes."""
    return hashlib.sha256(json.dumps([program, check]).encode()).digest()


def _load_tasks(
    settings: Mapping[str, Mapping[str, Any]],
    records: Mapping[str, Path],
    shots: Mapping[str, Path],
) -> dict[str, Any]:
    """The lm-eval task of each label, with the study's settings put over those of the task file."""
    import functools

    import lm_eval.api.task
    from lm_eval.tasks import TaskManager

    # lm-eval draws a bar for each task it prepares, and has no switch for it.
    lm_eval.api.task.tqdm = functools.partial(lm_eval.api.task.tqdm, disable=True)
    manager = TaskManager(include_path=str(TASK_FILES), include_defaults=False)
    tasks: dict[str, Any] = {}
    for label, chosen in settings.items():
        file = TASKS[chosen["task"]].file_of(chosen, records[label])
        if file is None:
            continue
        given: dict[str, Any] = {"test": str(records[label]), "shots": chosen.get("shots", 0)}
        if label in shots:
            given["train"] = str(shots[label])
        if "template" in chosen:
            given["template"] = chosen["template"]
        # The members of a group take overrides, a task by itself does not.
        member = {"task": file, "dataset_kwargs": given}
        (task,) = manager.load([{"group": "study", "task": [member]}])["tasks"].values()
        if task.config.fewshot_split:  # else whoever reads the items puts the shots there
            task.set_config("num_fewshot", given["shots"])
        limits = {"max_new_tokens": "max_gen_toks", "max_length": "max_length"}
        if generation := {name: chosen[key] for key, name in limits.items() if key in chosen}:
            if "samples" in chosen:
                task.set_config("repeats", chosen["samples"])
                generation |= {key: chosen[key] for key in ("temperature", "top_p")}
            task.set_config("generation_kwargs", generation, update=True)
        tasks[label] = task
    return tasks


def _result(metrics: Sequence[str], samples: list[dict[str, Any]], errors: bool) -> Result:
    """`errors`: whether every metric's standard error is recorded, not only that of the first."""
    scores = {metric: _score(metric, samples) for metric in metrics}
    value, stderr = scores[metrics[0]]
    result = Result(
        metric=metrics[0],
        value=value,
        stderr=stderr,
        items=len(samples),
        metrics={metric: score for metric, (score, _) in scores.items()},
        samples=samples,
    )
    if errors:
        result["errors"] = {metric: error for metric, (_, error) in scores.items()}
    return result


def _score(metric: str, samples: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The value of a metric over all samples, and its standard error.

    Bits per byte are those of lm-eval: of all texts together, not the mean of theirs. Where items have subjects, every
    subject counts once.
    """
    if metric == "bits_per_byte":
        bits = [-sample["loglikelihood"] / math.log(2) for sample in samples]
        return ratio_and_stderr(bits, [sample["bytes"] for sample in samples])
    values = [sample[metric] for sample in samples]
    if "subject" in samples[0]:
        return subject_mean_and_stderr(values, [sample["subject"] for sample in samples])
    return mean_and_stderr(values)


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
