"""The look that all tables share: what a table is, and how it is written as Markdown and as LaTeX.

A table's texts are plain; each of the two forms escapes what it must.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas

from scripts.common.errors import UserError

BASE = "base model"
MISSING = "\N{EM DASH}"
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    MISSING: "---", "\N{EN DASH}": "--", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{DAGGER}": r"\dag{}", "\N{DOUBLE DAGGER}": r"\ddag{}",
})  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """`value` as it is printed, `mark` a symbol that a note explains, `spread` what is known of its uncertainty."""

    value: str
    mark: str = ""
    spread: str = ""


@dataclass(frozen=True)
class Row:
    """A method and its entries, in the order of the table's columns; None where the value is missing."""

    label: str
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True)
class Table:
    """A whole table: `warning` stands before the caption, `notes` below the rows.

    `number` is how the paper counts it, such as `S1`; `corner` says what the columns are; `base` is the base
    model's one value, which belongs to every column. `has_base` says whether the table has a row for it at all.
    """

    number: str
    heading: str
    title: str
    warning: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    base: Entry | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    has_base: bool = True


def read_cells(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table's CSV, every cell as text.

    Raises UserError, in one sentence, where the file cannot be read, lacks one of `columns`, or has no rows.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows, known = list(reader), reader.fieldnames or ()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    lacking = [column for column in columns if column not in known]
    if lacking:
        raise UserError(f"{path}: lacks the column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}")
    if not rows:
        raise UserError(f"{path}: has a header but no rows")
    return rows


def markdown(table: Table) -> str:
    """A Markdown page (GitHub's tables): one line a row, an uncertainty beside its value.

    No cell can span columns, so the base model's value is repeated.
    """
    base = (Row(BASE, (table.base,) * len(table.columns)),) if table.has_base else ()
    lines = [[row.label, *map(_text, row.entries)] for row in (*base, *table.rows)]
    frame = pandas.DataFrame(
        [[_markdown(text) for text in line] for line in lines],
        columns=[_markdown(text) for text in (table.corner, *table.columns)],
    )
    alignment = ("left", *("center" for _ in table.columns))
    warning = f"**{_markdown(table.warning)}** " if table.warning else ""
    return "\n".join([
        f"# {_markdown(table.heading)}",
        "",
        f"{warning}{_markdown(table.caption)}",
        "",
        frame.to_markdown(index=False, disable_numparse=True, colalign=alignment),
        "",
        *(f"- {_markdown(note)}" for note in table.notes),
        "",
    ])  # fmt: skip


def latex(table: Table) -> str:
    """A LaTeX `table` for a document that uses booktabs, labelled `tab:S1`.

    An uncertainty stands in smaller type below its value, so that the paper's eight durations fit on a page.
    """
    warning = f"\\textbf{{{_latex(table.warning)}}} " if table.warning else ""
    base = (
        f"{BASE} & \\multicolumn{{{len(table.columns)}}}{{c}}{{{_latex(_text(table.base))}}} \\\\",
        r"\midrule",
    )
    return "\n".join([
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{_latex(table.title)}. {warning}{_latex(table.caption)}}}",
        f"\\label{{tab:{table.number}}}",
        r"\small",
        r"\setlength{\tabcolsep}{3pt}",
        f"\\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
        r"\toprule",
        _line([table.corner, *table.columns]),
        r"\midrule",
        *(base if table.has_base else ()),
        "\n\\addlinespace\n".join("\n".join(_latex_row(row)) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\medskip",
        r"\begin{minipage}{\linewidth}",
        r"\footnotesize\raggedright",
        "\n\n".join(_latex(note) for note in table.notes),
        r"\end{minipage}",
        r"\end{table}",
        "",
    ])  # fmt: skip


def _text(entry: Entry | None) -> str:
    return MISSING if entry is None else f"{entry.value}{entry.mark} {entry.spread}".rstrip()


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|~&#])", r"\\\1", _one_line(text))


def _latex(text: str) -> str:
    return _one_line(text).translate(LATEX)


def _one_line(text: str) -> str:
    """A title in a study's YAML may have line breaks; a row of a table must not."""
    return " ".join(text.split())


def _line(texts: list[str]) -> str:
    return " & ".join(map(_latex, texts)) + r" \\"


def _latex_row(row: Row) -> list[str]:
    """One line of values and, where there are any, one of uncertainties."""
    lines = [_line([row.label, *(MISSING if entry is None else entry.value + entry.mark for entry in row.entries)])]
    spreads = ["" if entry is None else entry.spread for entry in row.entries]
    if any(spreads):
        small = (f"{{\\scriptsize {_latex(spread)}}}" if spread else "" for spread in spreads)
        lines.append(" & ".join(["", *small]) + r" \\")
    return lines
