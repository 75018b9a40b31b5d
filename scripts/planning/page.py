"""What every figure and table of a study costs, alone and after the others, and what trunks and branches save.

python -m scripts.planning.page --csv results/plan.csv --md results/plan.md --html results/plan.html

Nothing of it depends on the store: it is the cost of a study that nobody has begun, as the cost model has it.
"""

import argparse
import csv
import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.artifacts import recipes, words
from scripts.artifacts.provenance import write_record
from scripts.common.checkout import commit
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan.product import Product
from scripts.plan.registry import REGISTRY, load_registry
from scripts.planning.estimate import Estimate
from scripts.planning.table import NOTHING, Amount, Machine, amount, cells
from scripts.planning.targets import jobs_of
from scripts.store.store import Store

COLUMNS = ("study", "what", "name", "counted", "jobs", "gpu_hours", "cpu_hours", "tokens")
ALONE, AFTER = "alone", "after the others"
TRUNK, SCRATCH = "from trunks", "from scratch"
_MACHINE = Machine(1, "one core a job", is_cluster=False)


@dataclass(frozen=True)
class Row:
    """A number of the page: what a figure, a table or a setting costs, counted in one way."""

    what: str
    """`artifact`, or `setting` whose durations are branches of trunks."""
    name: str
    counted: str
    cost: Amount


@dataclass(frozen=True)
class Page:
    """All that the page says."""

    launch: Launch
    titles: dict[str, str]
    """Artifact to its heading."""
    rows: Sequence[Row]
    not_counted: dict[str, str]
    """Artifact to the reason why it has no row."""

    def of(self, what: str, counted: str) -> dict[str, Amount]:
        """Name to cost."""
        return {row.name: row.cost for row in self.rows if (row.what, row.counted) == (what, counted)}


def page_of(launch: Launch) -> Page:
    """The page of a study; figures and tables in the order of the registry."""
    grid = launch.grid
    # what a store has counted and measured is not the study's
    estimate = Estimate(grid, Store(Path(os.devnull)), measures=False)
    titles, rows, not_counted, made = {}, [], {}, set[str]()
    for artifact in load_registry(REGISTRY).values():
        if artifact.lack(grid):
            continue
        try:
            alone, after = jobs_of(grid, artifact), jobs_of(grid, artifact, made)
        except UserError as error:
            not_counted[artifact.name] = str(error)
            continue
        titles[artifact.name] = words.of_study(artifact, grid.study).heading
        rows.append(Row("artifact", artifact.name, ALONE, _cost(estimate, alone)))
        rows.append(Row("artifact", artifact.name, AFTER, _cost(estimate, after)))
        made.update(key for job in after for key in (job.key, *job.members))
    return Page(launch, titles, [*rows, *_savings(estimate)], not_counted)


def _cost(estimate: Estimate, products: Iterable[Product]) -> Amount:
    return sum((amount(estimate, product, _MACHINE) for product in products), NOTHING)


def _savings(estimate: Estimate) -> list[Row]:
    """What legs and branches cost, and what every duration would that began at the base model."""
    settings: dict[str, tuple[list[Product], list[Product]]] = {}
    for product in estimate.grid:
        starts_from = set(product.inputs_of("leg")) if product.kind == "run" else set()
        if product.kind == "leg" or starts_from:
            shared, alone = settings.setdefault(product.key.within.partition("/")[0], ([], []))
            shared.append(product)
            if starts_from:
                alone.append(replace(product, inputs=tuple(key for key in product.inputs if key not in starts_from)))
    return [
        Row("setting", name, counted, _cost(estimate, products))
        for name, both in settings.items()
        for counted, products in zip((TRUNK, SCRATCH), both, strict=True)
    ]


# -- as files ------------------------------------------------------------------------------------------------------


def main(launch: Launch, table: Path, text: Path, page: Path) -> None:
    """Writes the page as CSV, Markdown and HTML, and the record of how they were made."""
    recipe = recipes.of_plan(launch)
    found = page_of(launch)
    sections = _sections(found)
    with atomic_path(table) as new_table, atomic_path(text) as new_text, atomic_path(page) as new_page:
        with new_table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in found.rows:
                numbers = (row.cost.jobs, *map(repr, (row.cost.gpu_hours, row.cost.cpu_hours, row.cost.tokens)))
                writer.writerow((launch.name, row.what, row.name, row.counted, *numbers))
        new_text.write_text(markdown(found, sections), encoding="utf-8")
        new_page.write_text(as_html(found, sections), encoding="utf-8")
    write_record(recipe, table, text, page)


@dataclass(frozen=True)
class _Section:
    title: str
    words: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def _sections(page: Page) -> list[_Section]:
    alone, after = page.of("artifact", ALONE), page.of("artifact", AFTER)
    rows = [(name, page.titles[name], *cells(alone[name]), *cells(after[name])) for name in alone]
    rows.append(("all", "", *[""] * len(_HEAD), *cells(sum(after.values(), NOTHING))))
    found = [
        _Section(
            "Figures and tables",
            "Alone: with nothing in the store. After the others: with all that stands above. Hours without a GPU are "
            "of jobs that have none, one after another.",
            ("", "", *(f"{ALONE}: {word}" for word in _HEAD), *(f"{AFTER}: {word}" for word in _HEAD)),
            rows,
        )
    ]
    shared, scratch = page.of("setting", TRUNK), page.of("setting", SCRATCH)
    if shared:
        totals = {"all": (sum(shared.values(), NOTHING), sum(scratch.values(), NOTHING))}
        pairs = {name: (shared[name], scratch[name]) for name in shared} | totals
        found.append(
            _Section(
                "What trunks and branches save",
                "Durations of one setting and method branch off one trunk; from scratch each would train all its "
                "tokens.",
                ("", *(f"{way}: {word}" for way in (TRUNK, SCRATCH) for word in _HEAD[1:]), "saved"),
                [
                    (name, *cells(one)[1:], *cells(other)[1:], _saved(one, other))
                    for name, (one, other) in pairs.items()
                ],
            )
        )
    return found


_HEAD = ("jobs", "GPU-hours", "hours without a GPU", "tokens")


def _saved(shared: Amount, scratch: Amount) -> str:
    """In GPU-hours, or in tokens where no GPU trains."""
    one, other = (shared.gpu_hours, scratch.gpu_hours) if scratch.gpu_hours else (shared.tokens, scratch.tokens)
    return f"{100 * (1 - one / other):.0f} %"


def _notes(page: Page) -> list[str]:
    return [f"{name} is not counted: {reason}." for name, reason in page.not_counted.items()]


def _head(page: Page) -> tuple[str, str]:
    study = page.launch.grid.study
    return f"The plan of study {page.launch.name}", f"{study.title}; {study.model.label}; planned at commit {commit()}."


def markdown(page: Page, sections: Sequence[_Section]) -> str:
    """The page in GitHub's Markdown."""
    title, line = _head(page)
    text = [f"# {title}", "", line, ""]
    for section in sections:
        text += [f"## {section.title}", "", section.words, ""]
        text += ["| " + " | ".join(section.head) + " |", "|---" * len(section.head) + "|"]
        text += ["| " + " | ".join(row) + " |" for row in section.rows]
        text.append("")
    return "\n".join([*text, *_notes(page)]).rstrip() + "\n"


def as_html(page: Page, sections: Sequence[_Section]) -> str:
    """The page in one file of HTML that fetches nothing."""
    title, line = map(html.escape, _head(page))
    text = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        "<style>body { font-family: sans-serif } table { border-collapse: collapse }",
        "th, td { border-bottom: 1px solid #ccc; padding: 0.2em 0.6em; text-align: right }",
        "td:first-child, td:nth-child(2) { text-align: left }</style></head><body>",
        f"<h1>{title}</h1>\n<p>{line}</p>",
    ]
    for section in sections:
        text += [f"<h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.words)}</p>", "<table>"]
        text += [_html_row("th", section.head), *(_html_row("td", row) for row in section.rows), "</table>"]
    text += [f"<p>{html.escape(note)}</p>" for note in _notes(page)]
    return "\n".join([*text, "</body></html>"]) + "\n"


def _html_row(cell: str, words: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{html.escape(word)}</{cell}>" for word in words) + "</tr>"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    for form in ("csv", "md", "html"):
        parser.add_argument(f"--{form}", type=Path, required=True)
    launch_options(parser)
    run(lambda arguments: main(current_launch(arguments), arguments.csv, arguments.md, arguments.html), parser)
