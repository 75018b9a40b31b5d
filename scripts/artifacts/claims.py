"""Judges the paper's claims on the study's own scores: every comparison as CSV, and a page to read.

python -m scripts.artifacts.claims --csv results/claims.csv --md results/claims.md
"""

import argparse
import csv
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from scripts.artifacts import recipes
from scripts.artifacts.contrasts import EQUAL, MARGIN, FloatArray, Model, Verdict
from scripts.artifacts.paper_claims import PLUS_MINUS, Comparison, Judged, hundredths, interval, judge, signed, unsigned
from scripts.artifacts.points import artifact_fingerprint
from scripts.artifacts.provenance import write_record
from scripts.common.checkout import commit
from scripts.common.errors import run
from scripts.common.files import atomic_path
from scripts.evaluation.results import read_samples
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan import artifacts as plan
from scripts.plan.conditions import GRID
from scripts.plan.evaluation import BASE
from scripts.study.schema import ContinuedPretraining

COLUMNS = (
    "study", "model", "scale", "claim", "title", "comparison", "what", "rule", "estimate", "stderr", "stderr_items",
    "stderr_seeds", "df", "lower", "upper", "margin", "level", "detectable", "seeds", "items", "models", "fingerprint",
    "comparison_verdict", "claim_verdict", "reason", "paper",
)  # fmt: skip


@dataclass(frozen=True)
class JudgedStudy:
    """What the page and every row of the CSV say of where the verdicts come from."""

    study: str
    title: str
    model: str
    scale: str
    forgetting: tuple[str, ...]
    models: int
    seeds: int
    items: dict[str, int]
    fingerprint: str
    commit: str
    diverged: tuple[str, ...] = ()
    """Models that are not there because training diverged, as a reader would call them."""


def main(launch: Launch, table: Path, text: Path) -> None:
    """Writes the CSV and the page, and the record of how they were made.

    Raises:
        UserError: see `read_models`.
    """
    recipe = recipes.of_claims(launch)
    models = read_models(launch)
    source = source_of(launch, models)
    judged = judge(models, source.forgetting)
    if source.scale == "own":
        # the paper's settings are no plan that a study of one's own would have to follow
        judged = [one for one in judged if any(comparison.found for comparison in one.comparisons)]
    with atomic_path(table) as new_table, atomic_path(text) as new_text:
        with new_table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows(judged, source))
        new_text.write_text(page(judged, source), encoding="utf-8")
    write_record(recipe, table, text)


# -- from the store -------------------------------------------------------------------------------


def read_models(launch: Launch) -> list[Model]:
    """Every model of the study's grid, and the base model, with the score of every item; none of one that diverged.

    Raises:
        UserError: a learning rate has still to be chosen, or an evaluation or its bytes are missing.
    """
    study = launch.grid.study
    plan.require(launch.grid, recipes.CLAIMED, GRID)
    models = []
    for condition in launch.grid.conditions(GRID):
        kind, rank, learning, duration, role = BASE, 0, "", "", ""
        if condition.method != BASE:
            setting, method = study.settings[condition.setting], study.methods[condition.method]
            kind, rank = method.kind, method.cells().get("rank", 0)
            unit = "tokens" if isinstance(setting, ContinuedPretraining) else "epoch" + "s" * (condition.amount > 1)
            learning, duration = setting.learning, f"{condition.duration} {unit}"
            role = f"{setting.domain}-{setting.regime}"
        tasks = plan.tasks(launch.grid, condition, recipes.CLAIMED)
        results = [launch.store.require(condition.evaluations[task])["results"] for task in tasks]
        diverged = any("diverged" in result for result in results)
        models.append(
            Model(
                setting=condition.setting,
                method=condition.method,
                kind=kind,
                rank=rank,
                learning_task=learning,
                duration=duration,
                duration_value=condition.amount,
                seed=condition.seed,
                fingerprint=condition.product.fingerprint,
                scores={} if diverged else {task: _item_scores(launch, condition.evaluations[task]) for task in tasks},
                diverged=diverged,
                role=role,
            )
        )
    return models


def _item_scores(launch: Launch, evaluation: str) -> FloatArray:
    """The score of each item, in the order of the records."""
    metric = launch.store.require(evaluation)["results"]["metric"]
    samples = sorted(read_samples(launch.store.bytes_of(evaluation)), key=lambda sample: int(sample["item"]))
    return numpy.array([sample[metric] for sample in samples], dtype=numpy.float64)


def source_of(launch: Launch, models: Collection[Model]) -> JudgedStudy:
    """Which study it is, and what of it was judged."""
    study = launch.grid.study
    trained = [model for model in models if model.kind != BASE]
    return JudgedStudy(
        study=launch.name,
        title=study.title,
        model=study.model.label,
        scale=study.scale,
        forgetting=tuple(study.evaluation.forgetting),
        models=sum(not model.diverged for model in trained),
        seeds=len({model.seed for model in trained}),
        items={task: len(scores) for model in models for task, scores in model.scores.items()},
        fingerprint=artifact_fingerprint(model.fingerprint for model in models),
        commit=commit(),
        diverged=tuple(f"{m.setting} {m.method} {m.duration} seed {m.seed}" for m in trained if m.diverged),
    )


# -- the CSV --------------------------------------------------------------------------------------


def rows(judged: Iterable[Judged], source: JudgedStudy) -> list[dict[str, Any]]:
    """One row for each comparison, with `COLUMNS`; numbers are empty where the study lacks what it needs."""
    return [_row(one, comparison, source) for one in judged for comparison in one.comparisons]


def _row(one: Judged, comparison: Comparison, source: JudgedStudy) -> dict[str, Any]:
    question, found = comparison.question, comparison.found
    row: dict[str, Any] = {
        "study": source.study,
        "model": source.model,
        "scale": source.scale,
        "claim": one.claim.name,
        "title": one.claim.title,
        "comparison": question.name,
        "comparison_verdict": comparison.verdict,
        "claim_verdict": one.verdict,
        "reason": comparison.reason,
        "paper": comparison.paper,
    }
    if found:
        row |= {
            "what": question.text,
            "rule": question.rule,
            "estimate": repr(found.value),
            "stderr": repr(found.stderr),
            "stderr_items": repr(found.stderr_items),
            "stderr_seeds": "" if found.stderr_seeds is None else repr(found.stderr_seeds),
            "df": repr(found.df),
            "lower": repr(found.lower()),
            "upper": repr(found.upper()),
            "margin": MARGIN if question.rule == "more" else EQUAL,
            "level": repr(comparison.level),
            "detectable": repr(found.detectable),
            "seeds": found.seeds,
            "items": found.items,
            "models": len(comparison.models),
            "fingerprint": artifact_fingerprint(comparison.models),
        }
    return row


# -- the page -------------------------------------------------------------------------------------


def page(judged: Sequence[Judged], source: JudgedStudy) -> str:
    """The page in GitHub's Markdown: what is judged, all verdicts, each claim's numbers, the rules."""
    sections = [line for one in judged for line in _section(one, source)]
    return "\n".join([*_head(source), *_summary(judged), *sections, *_rules(source)]) + "\n"


def _head(source: JudgedStudy) -> list[str]:
    lines = ["# The paper's claims, asked of this study", ""]
    if source.scale == "demo":
        lines += [
            f"> **Demo study: not the paper's scale.** These verdicts are about {source.model},",
            "> and are no evidence for or against the paper.",
            "",
        ]
    if source.seeds == 1:
        lines += [
            "> **One seed: the spread over seeds is not known.** Every standard error on this page is over test items",
            "> alone. The verdicts are about these models; other seeds may give others.",
            "",
        ]
    items = ", ".join(f"{task} {count}" for task, count in source.items.items())
    return [
        *lines,
        "What *LoRA Learns Less and Forgets Less* says of scores, and whether it is so for the models that this study",
        "trained. *Learning* is accuracy on the task that a setting teaches. The *forgetting average* is the mean",
        f"accuracy on {', '.join(source.forgetting)}: higher is less forgotten. CPT is continued",
        "pretraining, IFT instruction finetuning, r the rank of LoRA.",
        "",
        "| | |",
        "|---|---|",
        f"| study | {source.study}: {source.title} |",
        f"| scale | {source.scale} |",
        f"| model | {source.model} |",
        f"| trained models | {source.models}, and the base model |",
        *([f"| not there, since training diverged | {', '.join(source.diverged)} |"] if source.diverged else []),
        f"| seeds | {source.seeds} |",
        f"| test items | {items} |",
        f"| fingerprint | {source.fingerprint} |",
        f"| judged at commit | {source.commit} |",
        "",
    ]


def _summary(judged: Sequence[Judged]) -> list[str]:
    counts = {verdict: sum(one.verdict is verdict for one in judged) for verdict in Verdict}
    return [
        "## Verdicts",
        "",
        f"Of {len(judged)} claims {counts[Verdict.HOLDS]} hold, {counts[Verdict.FAILS]} do not hold, and of "
        f"{counts[Verdict.OPEN]} it cannot be said.",
        f"Numbers are differences in accuracy {PLUS_MINUS} standard error; above 0 speaks for a claim of *more*.",
        "",
        "| claim | verdict | in a sentence |",
        "|---|---|---|",
        *(
            f"| [{one.claim.title}](#{anchor(one.claim.title)}) | **{one.verdict}** | {one.sentence} |"
            for one in judged
        ),
        "",
    ]


def _section(one: Judged, source: JudgedStudy) -> list[str]:
    lines = [
        f"## {one.claim.title}",
        "",
        one.claim.statement,
        "",
        f"*How it is asked.* {one.claim.asked}",
        "",
        f"**{one.verdict.capitalize()}.** {one.sentence}",
        "",
    ]
    if any(comparison.found for comparison in one.comparisons):
        stderr = "std. error (items only: one seed)" if source.seeds == 1 else "std. error (items, seeds)"
        lines += [
            f"| comparison | difference | {stderr} | 90 % interval | 80 % power from | paper | |",
            "|---|---|---|---|---|---|---|",
            *map(_line, one.comparisons),
            "",
        ]
    return lines


def _line(comparison: Comparison) -> str:
    question, found, verdict = comparison.question, comparison.found, comparison.verdict
    paper = comparison.paper or "none"
    if found is None:
        return f"| **{question.name}**: {comparison.reason} | | | | | {paper} | {verdict} |"
    stderr = unsigned(found.stderr)
    if found.stderr_seeds is not None:
        stderr += f" ({unsigned(found.stderr_items)}, {unsigned(found.stderr_seeds)})"
    return (
        f"| **{question.name}**: {question.text} | {signed(found.value)} | {stderr} | {interval(found)} "
        f"| {unsigned(found.detectable)} | {paper} | {verdict} |"
    )


def _rules(source: JudgedStudy) -> list[str]:
    seeds = (
        "This study has one seed, so the second part is unknown and left out."
        if source.seeds == 1
        else f"This study has {source.seeds} seeds."
    )
    return f"""## The rules

* **Standard error.** It has two parts. *Items:* all models are asked the same items, so each item in turn is left out
  for all of them (delete-one jackknife, Efron and Stein 1981). For a difference of two means that is the standard error
  of a paired t test. Tasks are independent, so their variances add. Where the items show no spread at all it is
  taken as 2/n for n items (the rule of three). *Seeds:* the difference is computed for each of S seeds, and its
  variance over seeds, divided by S, is added. {seeds} Intervals are those of the t distribution, with
  Welch-Satterthwaite degrees of freedom (Satterthwaite 1946).
* **Is it more?** It holds where the lower 95 % bound is above 0, however little. Else it does not hold where the upper
  95 % bound is below {hundredths(MARGIN)}: two points in a hundred, three of HumanEval's 164 problems, are the least
  that is worth the claim. Else it cannot be said.
* **Is it about equal?** It holds where the 90 % interval lies within {PLUS_MINUS}{hundredths(EQUAL)} (two one-sided
  tests, Schuirmann 1987), does not hold where it lies wholly outside, and else cannot be said. The width is our choice:
  between full finetuning and the lowest rank the paper has .101 and .135 at the end of continued pretraining, and what
  it calls about equal differs by up to .018.
* **Several comparisons.** A claim holds where all of them hold (intersection-union test, Berger 1982: no correction is
  due). It does not hold where one of m does not, each tested at 5 %/m (Bonferroni). Claims are not corrected for one
  another: of twenty false ones, one may well be found to hold.
* **80 % power from.** The smallest true difference that would be found above 0 with a probability of 80 %: the sum of
  the 95 % and 80 % quantiles of t, times the standard error. Where it is larger than what one hopes to see, *cannot be
  said* had to be expected.
* **Paper.** The same comparison of the scores that the paper prints (tables S1 to S8, one run each), a difference or
  the two means. They are another model's, on other data.""".splitlines()


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading of letters and spaces."""
    return heading.lower().replace(" ", "-")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--md", type=Path, required=True)
    launch_options(parser)
    run(lambda arguments: main(current_launch(arguments), arguments.csv, arguments.md), parser)
