"""Asks models what a study asks, through lm-eval: how likely they find answers, and what they write.

What a task asks and how an answer is scored stands in `scripts.components.tasks` and in ``config/evaluations``; how
much of it, in the study. No task is named here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scripts.common.errors import UserError
from scripts.common.progress import Progress
from scripts.components.asking import gauntlet
from scripts.components.asking.answers import PER_TOKEN, TURNS, Conversations, Scored, by_item
from scripts.components.asking.items import read
from scripts.components.foreign import OWN, task_of
from scripts.components.tasks import Given
from scripts.components.templates import JOIN, PLAIN, without_marks
from scripts.data.encoding import Encoding
from scripts.evaluation.journal import Journal
from scripts.evaluation.judging import Judging, ProgramRunner, Samples
from scripts.evaluation.results import Result, result_of
from scripts.evaluation.tasks import load_tasks, quiet
from scripts.training.parallel import ALONE, Group

if TYPE_CHECKING:
    from scripts.evaluation.placement import Place
    from scripts.evaluation.resident import Resident


class Harness:
    """What a study asks, read once, and any number of models asked it.

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
        group: the processes that share what is asked; each has a harness of the same, and is asked the same.

    Raises:
        UserError: a task has too few items or no records for its shots, or asks for more tokens than the model can
            hold; records are not as their task needs them (its `check`).
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
        group: Group = ALONE,
    ) -> None:
        self._group = group
        self.base = base
        self.seed = seed
        self._precision = precision
        self._say = say
        self._settings = {label: dict(settings) for label, settings in tasks.items()}
        self._records = records
        self._tokenizers = {label: (tokenizers or {}).get(label, base) for label in tasks}
        self._encoding = cache(Encoding.read)  # several labels are asked with the same
        self._asked = {label: task_of(settings) for label, settings in tasks.items()}
        self._check(records, shots or {})
        self._judges = partial(Judging, tasks, records, runner=runner, workers=workers)
        self._tasks = load_tasks(self._settings, records, shots or {}, self._tokenizers)
        for label, path in (shots or {}).items():
            if label in self._tasks:
                self._check_drawn(label, path)

    def _check_drawn(self, label: str, path: Path) -> None:
        """Raises UserError where lm-eval cannot draw the shots: of a task without a split for them, one more."""
        settings, task = self._settings[label], self._tasks[label]
        drawn = settings.get("shots", 0) + (task.config.fewshot_split is None)
        if task.config.training_split and (there := len(read(path))) < drawn:
            raise UserError(
                f"{path}: evaluation.tasks.{settings['task']}.shots: {settings['shots']} shots are drawn from at least "
                f"{drawn} records, there are {there}"
            )

    def score(
        self,
        run: Path | None,
        method_kind: str | None,
        labels: Sequence[str],
        *,
        journal: Journal | None = None,
        what: str | None = None,
    ) -> dict[str, Result]:
        """Scores the model that `run` and `method_kind` name, as in `load_model`; None is the base model.

        The result of a label depends on the model, the task, its records and the seed, not on the other labels.

        Args:
            journal: keeps this model's answers as they come; those that it has are not computed again.
            what: is said in lines of progress; the label unless given.

        Raises:
            UserError: a label needs a sandbox, or a judge of conversations, which is not there or does not do its work.
        """
        for label in labels:
            if self._asked[label].writes:
                self._judging.require_ready(label)
        model = self._models.model(run, method_kind)
        found = {}
        for label in labels:
            result = self._score_label(self._language_model(model, label, journal, what), label)
            found[label] = Result(**{**result, "provenance": self._provenance})
        return found

    def write(
        self,
        run: Path | None,
        method_kind: str | None,
        label: str,
        *,
        journal: Journal | None = None,
        what: str | None = None,
        known: Samples = (),
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What the model writes to the items of a label, as `Judging` takes it, and the provenance; see `score`.

        Args:
            known: the first samples of each item, which are not written again.
        """
        lm = self._language_model(self._models.model(run, method_kind), label, journal, what)
        return self._written(lm, label, known), self._provenance

    def score_lm(self, lm: Any, labels: Sequence[str]) -> dict[str, Result]:
        """Scores any `lm_eval.api.model.LM`."""
        return {label: self._score_label(lm, label) for label in labels}

    @cached_property
    def _models(self) -> "Resident":
        """The last model is kept: whoever asks for one task at a time should not load it for each."""
        from scripts.evaluation.resident import Resident

        return Resident(self.base, self._place.put)

    @cached_property
    def _judging(self) -> Judging:
        return self._judges()  # who only writes needs no sandbox

    @cached_property
    def _place(self) -> "Place":
        from scripts.evaluation.placement import Place

        place = Place.of_job(self._precision)
        self._say(f"models are evaluated on {place.name} in {place.precision}")
        return place

    @property
    def _provenance(self) -> dict[str, Any]:
        where = {"device": self._place.name, "devices": self._group.world, "precision": self._place.precision}
        return {"evaluation": where}

    def _language_model(self, model: Any, label: str, journal: Journal | None, what: str | None) -> Any:
        """The model as lm-eval sees it, which reads and writes with the label's tokenizer."""
        from scripts.evaluation.language_model import LanguageModel

        answers = self._asked[label].answers
        with quiet():
            return LanguageModel(
                model,
                self._encoding_of(label),
                seed=self.seed,
                as_rows=isinstance(answers, Scored) and answers.as_rows,
                journal=journal,
                progress=partial(Progress, what or label, say=None if self._group.is_first else _in_silence),
                group=self._group,
            )

    def _encoding_of(self, label: str) -> Encoding:
        settings = self._settings[label]
        # a spec that does not say it is of a tokenizer that puts nothing before a text
        reading = settings.get("bos", "none"), settings.get("join", JOIN), settings.get("template", PLAIN)
        return self._encoding(self._tokenizers[label], *reading)

    def _score_label(self, lm: Any, label: str) -> Result:
        from lm_eval import evaluate

        asked = self._asked[label]
        if asked.writes:
            return self._judging.result(label, self._written(lm, label, ()))
        assert isinstance(asked.answers, Scored)
        task = self._tasks[label]
        task.set_fewshot_seed(self.seed)
        logged = by_item(evaluate(lm, {"tasks": {label: task}}, bootstrap_iters=0)["samples"][label])
        metrics = asked.metrics_of(self._settings[label])
        if PER_TOKEN in metrics:
            self._count_tokens(label, logged)
        return result_of(metrics, [asked.answers.sample(one, metrics) for one in logged], errors=False)

    def _count_tokens(self, label: str, logged: list[dict[str, Any]]) -> None:
        """Adds to what lm-eval logged the `tokens` of each choice."""
        asked = [arguments for one in logged for arguments in one["arguments"]]
        counts = iter(tokens_added(self._encoding_of(label), asked))
        for one in logged:
            one["tokens"] = [next(counts) for _ in one["arguments"]]

    def _written(self, lm: Any, label: str, known: Samples) -> list[dict[str, Any]]:
        if isinstance(self._asked[label].answers, Conversations):
            return self._conversations(lm, label)
        task = self._tasks[label]
        task.set_fewshot_seed(self.seed)
        task.build_all_requests()
        # lm-eval's way to ask for several texts to a prompt: the same request, several times
        requests = [request for request in task.instances for _ in range(request.repeats)]
        samples = [
            {"item": request.doc_id, "prompts": [request.args[0]], "completions": []} for request in task.instances
        ]
        if known:
            lm.remember(
                [request for request, one in zip(task.instances, known, strict=True) for _ in one["completions"]],
                [text for one in known for text in one["completions"]],
            )
        texts = iter(lm.generate_until(requests))
        for request, sample in zip(task.instances, samples, strict=True):
            sample["completions"] = [next(texts) for _ in range(request.repeats)]
        return samples

    def _conversations(self, lm: Any, label: str) -> list[dict[str, Any]]:
        """All turns of every question, written greedily. The second turn sees the model's first answer."""
        from lm_eval.api.instance import Instance

        settings, items = self._settings[label], read(self._records[label])
        form = self._encoding_of(label).form
        arguments = {"until": form.stop, "do_sample": False, "max_gen_toks": settings["max_new_tokens"]}
        conversations: list[list[tuple[str, str]]] = [[] for _ in items]
        samples: list[dict[str, Any]] = [
            {"item": number, "prompts": [], "completions": []} for number, _ in enumerate(items)
        ]
        for turn in range(TURNS):
            prompts = [
                form.conversation(earlier, item["turns"][turn])
                for earlier, item in zip(conversations, items, strict=True)
            ]
            answers = lm.generate_until([Instance("generate_until", {}, (text, {**arguments}), 0) for text in prompts])
            for number, (text, answer) in enumerate(zip(prompts, answers, strict=True)):
                conversations[number].append((items[number]["turns"][turn], answer.strip()))
                samples[number]["prompts"].append(without_marks(text))
                samples[number]["completions"].append(answer)
        return samples

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
            has_shots = OWN in settings or settings.get("form") == gauntlet.FORM
            if shot_count > 0 and label not in shots and not has_shots:
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
                        tokenizer=self._tokenizers[label],
                        positions=positions,
                        longest=partial(_longest, self._encoding_of(label)),
                        lengths=partial(_lengths, self._encoding_of(label)),
                    )
                )


def _in_silence(_: str) -> None:
    """Of several processes the first says how far it is."""


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
