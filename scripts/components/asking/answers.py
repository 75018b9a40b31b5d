"""The kinds of answers, and how one becomes a sample: a row of an evaluation's ``samples.parquet``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.components.templates import without_marks


@dataclass(frozen=True)
class Scored:
    """Answers that lm-eval scores by itself."""

    sample: Callable[[Mapping[str, Any], Sequence[str]], dict[str, Any]]
    """Makes the sample of what lm-eval logged for an item and of the names of the metrics."""
    written: bool = False
    """Whether models write the answers; else they say how likely those are that the items have."""
    as_rows: bool = False
    """Whether a text and what follows it become tokens as prompts and responses do in rows; else as lm-eval has it."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Programs, each run with its check in the sandbox.

    lm-eval only writes them: its first filter makes whole programs of the completions, and an item's target is the
    check. The settings say `samples`, `timeout_seconds` and `memory_mb`; the metrics are pass@1, pass@2, ...
    """

    errors: bool
    """Whether the standard error of every metric is recorded, not the first one's alone."""
    by_task: bool = False
    """Whether the task itself says what is run, and makes its metrics of what came of it, by evaluate's code_eval."""


TURNS = 2
"""Of a conversation: a question, and one on the answer to it."""


@dataclass(frozen=True)
class Conversations:
    """Answers of `TURNS` turns, each graded by the judge that the settings name. lm-eval has no part in it."""


Answers = Scored | Programs | Conversations


PER_TOKEN = "acc_token"
"""Accuracy of the choice whose tokens are the likeliest in the mean. lm-eval does not count them: the harness does."""


FLEXIBLE = "flexible"
"""Exact match of what lm-eval's filter flexible-extract finds in a text: its last number."""


def by_item(logged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What lm-eval logged of each item: it logs all items once for every filter of a task.

    Returns:
        What it logged with the first filter, and with each of them as `filters`, by its name.
    """
    items: dict[int, dict[str, Any]] = {}
    for one in logged:
        item = items.setdefault(one["doc_id"], {**one, "filters": {}})
        item["filters"][one["filter"]] = one
    return list(items.values())


def sample(logged: Mapping[str, Any], metrics: Sequence[str], **more: Any) -> dict[str, Any]:
    """What every kind has: the item, the texts that it asks with and the answers, the metrics; and `more`."""
    asked = [request if len(request) > 1 else ("", *request) for request in logged["arguments"]]
    prompts, completions = zip(*asked, strict=True)
    own = {"item": logged["doc_id"], "prompts": list(prompts), "completions": list(completions)}
    return {**own, **more, **{metric: float(logged[metric]) for metric in metrics}}


def choice(logged: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """The likeliest of several choices: `loglikelihoods` in nats, in the order of the choices.

    Where `PER_TOKEN` is among the metrics, the `tokens` of each choice too. They are logged, and the item's `gold`.
    """
    loglikelihoods = [loglikelihood for loglikelihood, _ in logged["filtered_resps"]]
    if PER_TOKEN not in metrics:
        return sample(logged, metrics, loglikelihoods=loglikelihoods)
    means = [value / count for value, count in zip(loglikelihoods, logged["tokens"], strict=True)]
    found = {PER_TOKEN: means.index(max(means)) == logged["doc"]["gold"]}
    return sample({**logged, **found}, metrics, loglikelihoods=loglikelihoods, tokens=logged["tokens"])


def word(logged: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """One text that is the likeliest or not: `loglikelihood` in nats."""
    ((loglikelihood, _),) = logged["filtered_resps"]
    return sample(logged, metrics, loglikelihood=loglikelihood)


def match(logged: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """A text that is written and read for its `answer`.

    Where `FLEXIBLE` is among the metrics, what is found in the other way too, as `flexible_answer`.
    """
    found = {"answer": logged["filtered_resps"][0]}
    if FLEXIBLE not in metrics:
        return sample(logged, metrics, **found)
    flexible = logged["filters"]["flexible-extract"]
    found["flexible_answer"] = flexible["filtered_resps"][0]
    return sample({**logged, FLEXIBLE: flexible["exact_match"]}, metrics, **found)


def loss(logged: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """The `loglikelihood` of a text in nats, and its `bytes`."""
    (metric,) = metrics
    loglikelihood, size = logged[metric]
    found = sample(logged, (), loglikelihood=loglikelihood, bytes=size)
    return found | {key: list(map(without_marks, found[key])) for key in ("prompts", "completions")}
