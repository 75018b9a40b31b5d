"""What evaluations and samples have in their files and manifests."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pandas

from scripts.evaluation.scores import mean_and_stderr, ratio_and_stderr, subject_mean_and_stderr

SAMPLES = "samples.parquet"
"""The file of an evaluation and of samples: a row for each item, in the order of the records."""


class Result(TypedDict):
    """The score of one model on one task, as plain data."""

    metric: str
    value: float
    stderr: float  # over items (mt_bench: over the grades of both turns), see `scripts.evaluation.scores`
    items: int
    metrics: dict[str, float]  # every recorded metric, `metric` among them
    errors: NotRequired[dict[str, float]]  # where a task records them: the standard error of each metric
    verdicts: NotRequired[dict[str, int]]  # of programs: how many fared how
    samples: list[dict[str, Any]]  # one for each item, in the order of the records
    provenance: NotRequired[dict[str, Any]]  # of a model that was put on a device: `evaluation`, where it computed


def result_of(metrics: Sequence[str], samples: list[dict[str, Any]], errors: bool) -> Result:
    """The result of samples that have these metrics, of which the first is the value.

    Args:
        errors: whether every metric's standard error is recorded, not only that of the first.
    """
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


def write_samples(samples: Iterable[Mapping[str, Any]], directory: Path) -> None:
    """Writes `SAMPLES`, a row for each sample: Parquet, compressed with Zstandard."""
    frame = pandas.DataFrame(list(samples))
    frame.to_parquet(directory / SAMPLES, engine="pyarrow", compression="zstd", index=False)


def read_samples(directory: Path) -> list[dict[str, Any]]:
    """What `write_samples` wrote; several values of an item are an array."""
    frame = pandas.read_parquet(directory / SAMPLES, engine="pyarrow")
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
