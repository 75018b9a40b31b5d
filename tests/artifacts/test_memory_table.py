"""Tables S14 to S16 against the numbers that the paper prints, typed here a second time."""

from decimal import Decimal
from pathlib import Path

import pandas
import pytest

from scripts.artifacts import memory_table, tables
from scripts.common.errors import UserError
from scripts.plan.registry import Artifact

METHODS = ("Adam", "Adam + LoRA", "Lion", "Lion + LoRA")
PRINTED = {
    "tableS14": """
        1      8      16      32      64
        112    14     7       3.5     1.75
        15.12  1.89   0.945   0.4725  0.236
        84     10.5   5.25    2.625   1.3125
        14.84  1.855  0.9275  0.464   0.232""",
    "tableS15": """
        1      8      16      32      64
        1120   140    70      35      17.5
        151.2  18.9   9.45    4.725   2.36
        840    105    52.5    26.25   13.125
        148.4  18.55  9.275   4.64    2.32""",
    "tableS16": """
        1      8        16      32       64      128     256
        6480   810      405     202.5    101.25  50.625  25.3
        874.8  109.35   54.65   27.34    13.67   6.83    3.42
        4860   607.5    303.75  151.875  75.94   37.97   18.98
        858.6  107.325  53.66   26.83    13.42   6.71    3.35""",
}
MISPRINT = ("tableS16", "Adam + LoRA", "16")


def cells(name: str) -> dict[tuple[str, str, str], str]:
    """Table, method and number of GPUs to the printed text."""
    head, *lines = (line.split() for line in PRINTED[name].strip().splitlines())
    return {
        (name, method, gpus): text
        for method, line in zip(METHODS, lines, strict=True)
        for gpus, text in zip(head, line, strict=True)
    }


CELLS = {cell: text for name in PRINTED for cell, text in cells(name).items()}


def artifact(name: str) -> Artifact:
    return Artifact(
        name=name, title="Memory", caption="A caption.", edition="v2", kind="memory_table", needs=("learning",)
    )


def made(tmp_path: Path, name: str) -> tables.Table:
    path = tmp_path / f"{name}.csv"
    pandas.DataFrame(memory_table.rows(name), columns=list(memory_table.COLUMNS)).to_csv(path, index=False)
    return memory_table.table(artifact(name), path, "abc1234")


def test_all_68_cells_are_the_papers_but_one() -> None:
    rows = {(row["table"], row["method"], str(row["gpus"])): row for name in PRINTED for row in memory_table.rows(name)}
    assert len(CELLS) == 68
    assert list(rows) == list(CELLS)
    differ = []
    for cell, text in CELLS.items():
        row = rows[cell]
        assert set(row) == set(memory_table.COLUMNS)
        assert str(row["printed"]) == text
        decimals = Decimal(text).as_tuple().exponent
        assert isinstance(decimals, int)
        if round(Decimal(row["gigabytes"]), -decimals) != Decimal(text):
            differ.append(cell)
    assert differ == [MISPRINT]
    assert rows[MISPRINT]["gigabytes"] == "54.675"
    assert "misprint" in rows[MISPRINT]["note"]
    assert [row["note"] for cell, row in rows.items() if cell != MISPRINT] == [""] * 67


@pytest.mark.parametrize(
    ("bytes_each", "optimizer", "kind"),
    [(16, "adam", "full"), (12, "lion", "full"), (2.16, "adam", "lora"), (2.12, "lion", "lora")],
)
def test_bytes_for_each_parameter(bytes_each: float, optimizer: str, kind: str) -> None:
    """By hand: 4 + 4 + 8 and 4 + 4 + 4; and 2 and a hundredth of that."""
    for parameters in (1, 13, 405):
        for gpus in (1, 3, 256):
            found = float(memory_table.gigabytes(parameters, optimizer, kind, gpus))
            assert found == pytest.approx(parameters * bytes_each / gpus, rel=1e-12)


def test_the_paper_with_adapters_in_one_sentence() -> None:
    """Its text: 16 bytes for each of 7 billion parameters are 112 GB, and 15.12 GB with LoRA."""
    assert memory_table.gigabytes(7, "adam", "full", 1) == 112
    assert memory_table.gigabytes(7, "adam", "lora", 1) == Decimal("15.12")


@pytest.mark.parametrize("name", PRINTED)
def test_a_table_shows_the_papers_decimals(tmp_path: Path, name: str) -> None:
    table = made(tmp_path, name)
    assert [row.label for row in table.rows] == list(METHODS)
    shown = {
        (name, row.label, gpus): entry.value + entry.mark
        for row in table.rows
        for gpus, entry in zip(table.columns, row.entries, strict=True)
        if entry
    }
    right = {cell: text for cell, text in cells(name).items() if cell != MISPRINT}
    assert {cell: shown[cell] for cell in right} == right
    if name == "tableS16":
        assert shown[MISPRINT] == "54.675\N{DAGGER}"
    page, tex = tables.markdown(table), tables.latex(table)
    for text in (page, tex):
        assert ("54.65 (Adam + LoRA, 16 GPUs), a misprint" in text) == (name == "tableS16")
        assert "base model" not in text
        assert "drawn at commit abc1234" in text
    assert page.startswith(f"# Table {name[5:]}. Memory\n")
    body = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert body[0] == ["GPUs", *table.columns]
    assert [line[0] for line in body[2:]] == list(METHODS)
    assert [rule for rule in tex.splitlines() if rule.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_what_is_no_table_of_memory_is_one_sentence() -> None:
    known = "tableS14, tableS15, tableS16, v1/tableS1, v1/tableS2"
    with pytest.raises(UserError, match=f"tableS1: is no table of memory; {known} are"):
        memory_table.rows("tableS1")


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "cannot be read"), ("", "lacks the columns table, "), ("table,parameters\n", "lacks the columns method, ")],
)
def test_a_csv_of_another_form_is_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "tableS14.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        memory_table.table(artifact("tableS14"), path, "abc1234")
