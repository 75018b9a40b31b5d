"""Tables S1 to S8 from hand-made CSVs, read back from the Markdown and the LaTeX as their readers would."""

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from scripts.artifacts import score_table, tables, tabulate
from scripts.artifacts.points import artifact_fingerprint
from scripts.common import checkout
from scripts.common.errors import UserError
from scripts.plan.registry import load_registry
from tests.artifacts.conftest import write

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = load_registry(ROOT / "config" / "artifacts.yaml")
CPT = {"0.25B": 0.25e9, "1B": 1e9, "20B": 20e9}
IFT = {"1": 1.0, "2": 2.0, "16": 16.0}
METHODS = ("full", "lora-r256", "lora-r16")
LABELS = {"lora-r16": "LoRA (r=16)", "lora-r256": "LoRA (r=256)", "full": "full finetuning"}
DEMO = "Demo study - not the paper's numbers"

Row = dict[str, Any]
Grid = list[list[str]]


def study(setting: str = "code-cpt", seeds: tuple[int, ...] = (0,), **common: Any) -> list[Row]:
    """A CSV of one setting; every value is different, so that a mix-up shows, and none has three decimals alone."""
    shared = {"study": "main", "study_title": "The main grid", "model": "meta-llama/Llama-2-7b-hf", "scale": "paper",
              "source": "trained", "items": 164, **common}  # fmt: skip
    domain, regime = setting.split("-")
    task = "humaneval" if domain == "code" else "gsm8k"
    metrics = (task, "forgetting", "hellaswag")
    rows: list[Row] = [
        {**shared, "method": "base", "kind": "base", "seed": 0, "metric": metric, "value": 0.1384 + 0.2 * i,
         "stderr": 0.0277, "condition": "ba5e"}
        for i, metric in enumerate(metrics)
    ]  # fmt: skip
    for m, method in enumerate(METHODS):
        for d, (duration, amount) in enumerate((CPT if regime == "cpt" else IFT).items()):
            for seed in seeds:
                for i, metric in enumerate(metrics):
                    rows.append({
                        **shared, "setting": setting, "setting_label": f"{domain.title()} {regime.upper()}",
                        "domain": domain, "regime": regime, "learning_task": task, "method": method,
                        "kind": "full" if method == "full" else "lora",
                        "rank": "" if method == "full" else method[6:], "seed": seed, "duration": duration,
                        "duration_value": amount, "tokens": 4096 * (d + 1), "learning_rate": 2e-4,
                        "chosen": "yes", "duration_unit": "tokens" if regime == "cpt" else "epochs",
                        "metric": metric, "value": 0.21037 + 0.0713 * m + 0.0171 * d + 0.0031 * seed + 0.2 * i,
                        "stderr": 0.0311 + 0.0011 * d, "condition": f"{method}-{duration}-{seed}",
                    })  # fmt: skip
    return rows


def without_value(rows: list[Row], **which: Any) -> list[Row]:
    """The rows, with the value of those that `which` names left empty."""
    return [{**row, "value": "", "stderr": ""} if which.items() <= row.items() else row for row in rows]


def table(tmp_path: Path, rows: list[Row], name: str = "tableS1", commit: str = "abc1234") -> tables.Table:
    return score_table.table(REGISTRY[name], write(tmp_path / f"{name}.csv", rows), commit)


# --- reading Markdown and LaTeX back


def read_markdown(page: str) -> tuple[Grid, str]:
    """The cells of a page's one table, header first, and all other text."""
    grid: Grid = []
    other: list[str] = []
    within = False
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page):
        within = token.type == "table_open" or (within and token.type != "table_close")
        if token.type == "tr_open":
            grid.append([])
        if token.type == "inline":
            text = "".join(child.content for child in token.children or [])
            grid[-1].append(text) if within else other.append(text)
    return grid, "\n".join(other)


NAMED = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
         "textbar": "|", "dag": "†", "ddag": "‡", "scriptsize": "", "textbf": ""}  # fmt: skip
TEX = re.compile(r"\\([a-zA-Z]+)(?:\{\}| |(?=\{))|\\([%_&#${}])|\$\\(pm|cdot)\$|(---|--)|([{}])|(.)", re.DOTALL)


def read_tex(text: str) -> str:
    """What TeX prints; fails at a special character that stands for itself and at braces that do not match."""
    printed, depth, at = "", 0, 0
    while at < len(text):
        found = TEX.match(text, at)
        assert found, text[at:]
        named, escaped, symbol, dashes, brace, plain = found.groups()
        depth += {"{": 1, "}": -1}.get(brace, 0)
        assert depth >= 0, text
        assert plain is None or plain not in "\\%_&#$~^<>|", text[at:]
        printed += escaped or plain or ""
        printed += (
            NAMED[named]
            if named
            else {"pm": "±", "cdot": "·", "---": "—", "--": "\N{EN DASH}"}.get(symbol or dashes, "")
        )
        at = found.end()
    assert depth == 0, text
    return printed.strip()


def read_latex(text: str) -> tuple[Grid, str]:
    """The cells of a LaTeX table's lines, header first, and what is printed around it."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    opened: list[str] = []
    for command, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if command == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    rules = [line for line in lines if line in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    (columns,) = re.findall(r"^\\begin\{tabular\}\{(l?c+)\}$", text, re.MULTILINE)
    body = lines[lines.index(r"\toprule") : lines.index(r"\bottomrule")]
    grid: Grid = []
    for line in body:
        if line in (r"\toprule", r"\midrule", r"\addlinespace"):
            continue
        assert line.endswith(r" \\")
        cells: list[str] = []
        for cell in re.split(r"(?<!\\)&", line.removesuffix(r" \\")):
            spanned = re.fullmatch(r" \\multicolumn\{(\d+)\}\{c\}\{(.*)\}", cell)
            cells += [read_tex(spanned[2])] * int(spanned[1]) if spanned else [read_tex(cell.strip())]
        assert len(cells) == len(columns)
        grid.append(cells)
    (caption,) = re.findall(r"^\\caption\{(.*)\}$", text, re.MULTILINE)
    notes = lines[lines.index(r"\footnotesize\raggedright") + 1 : lines.index(r"\end{minipage}")]
    return grid, "\n".join(read_tex(line) for line in [caption, *notes])


def rounded(value: float) -> str:
    return str(Decimal(value).quantize(Decimal("0.001")))


def values(rows: list[Row], metric: str, method: str, duration: str = "") -> list[tuple[float, float]]:
    """Value and standard error of a cell, one a seed."""
    own = [r for r in rows if (r["metric"], r["method"], r.get("duration", "")) == (metric, method, duration)]
    return [(row["value"], row["stderr"]) for row in own]


# --- what stands in a table


@pytest.mark.parametrize(
    ("number", "setting", "metric"),
    [
        (1, "code-cpt", "humaneval"),
        (2, "code-cpt", "forgetting"),
        (3, "math-cpt", "gsm8k"),
        (4, "math-cpt", "forgetting"),
        (5, "code-ift", "humaneval"),
        (6, "code-ift", "forgetting"),
        (7, "math-ift", "gsm8k"),
        (8, "math-ift", "forgetting"),
    ],
)
def test_the_eight_tables_are_the_numbers_of_their_csv(tmp_path: Path, number: int, setting: str, metric: str) -> None:
    rows = study(setting)
    made = table(tmp_path, rows[::-1], f"tableS{number}")
    durations = list(CPT if setting.endswith("cpt") else IFT)
    corner = "Training tokens" if setting.endswith("cpt") else "Epochs"
    cells = {
        label: [values(rows, metric, method, duration)[0] for duration in durations] for method, label in LABELS.items()
    }
    level, error = values(rows, metric, "base")[0]
    base = ["base model", *[f"{rounded(level)} ± {rounded(error)}"] * len(durations)]
    grid, text = read_markdown(tables.markdown(made))
    assert grid == [
        [corner, *durations],
        base,
        *([label, *(f"{rounded(v)} ± {rounded(e)}" for v, e in own)] for label, own in cells.items()),
    ]
    tex_grid, tex_text = read_latex(tables.latex(made))
    assert tex_grid[:2] == [[corner, *durations], base]
    assert tex_grid[2:] == [
        line
        for label, own in cells.items()
        for line in ([label, *(rounded(v) for v, _ in own)], ["", *(f"± {rounded(e)}" for _, e in own)])
    ]
    task = {"humaneval": "Accuracy in HumanEval, pass@1", "gsm8k": "Accuracy in GSM8K, strict match"}
    for said in (text, tex_text):
        assert task.get(metric, "1/3 (HellaSwag + ARC-challenge + WinoGrande), higher forgets less") in said
        assert "164 test items. One seed. ±: one standard error over the test items." in said
        assert f"{setting[:4].title()} {setting[5:].upper()}, The main grid" in said
        assert "missing" not in said
    assert text.startswith(f"Table S{number}. ")
    assert f"\\label{{tab:S{number}}}" in tables.latex(made)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.0001, 0.9)), min_size=9, max_size=9))
def test_three_decimals_of_any_value(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[float, float]]
) -> None:
    rows = [row for row in study() if row["metric"] == "humaneval"]
    for row, (value, error) in zip(rows[1:], numbers, strict=True):
        row |= {"value": value, "stderr": error}
    grid, _ = read_markdown(tables.markdown(table(tmp_path_factory.mktemp("any"), rows)))
    # the rows of the CSV are in the opposite order of methods
    found = [cell.split(" ± ") for line in (grid[4], grid[3], grid[2]) for cell in line[1:]]
    assert [value for value, _ in found] == [rounded(value) for value, _ in numbers]
    for (_, printed), (_, error) in zip(found, numbers, strict=True):
        assert abs(float(printed) - error) <= 0.0005 + 1e-9


def test_several_seeds_are_a_mean_and_a_range(tmp_path: Path) -> None:
    rows = study(seeds=(0, 1, 2))
    rows = without_value(rows, method="full", duration="1B", seed=1)
    rows = without_value(
        without_value(rows, method="full", duration="20B", seed=0), method="full", duration="20B", seed=1
    )
    made = table(tmp_path, rows)
    (low, _), (middle, _), (high, _) = values(rows, "humaneval", "lora-r16", "1B")
    whole = (rounded((low + middle + high) / 3), f"({rounded(low)}\N{EN DASH}{rounded(high)})")
    (low, _), _, (high, _) = values(rows, "humaneval", "full", "1B")
    pair = (rounded((low + high) / 2), f"({rounded(low)}\N{EN DASH}{rounded(high)}, n=2)")
    value, error = values(rows, "humaneval", "full", "20B")[2]
    single = (rounded(value), f"± {rounded(error)}")
    grid, text = read_markdown(tables.markdown(made))
    assert (grid[2][2], grid[4][2], grid[4][3]) == tuple(" ".join(parts) for parts in (whole, pair, single))
    tex_grid, tex_text = read_latex(tables.latex(made))
    assert [tuple(line[column] for line in tex_grid[at : at + 2]) for at, column in ((2, 2), (6, 2), (6, 3))] == [
        whole, pair, single,
    ]  # fmt: skip
    for said in (text, tex_text):
        assert "Mean of 3 seeds, the lowest and the highest in parentheses." in said
        assert "n: how many seeds, where it is fewer." in said
        assert "±: one standard error over the test items, where there is one seed." in said
        assert "One seed" not in said


def test_seeds_that_agree_still_have_their_range(tmp_path: Path) -> None:
    rows = [row | {"value": 0.25} for row in study(seeds=(0, 1))]
    grid, text = read_markdown(tables.markdown(table(tmp_path, rows)))
    assert grid[2][1] == "0.250 (0.250\N{EN DASH}0.250)"
    assert "n:" not in text


@pytest.mark.parametrize("empty", [True, False], ids=["empty value", "no row"])
def test_a_missing_cell_is_a_dash_and_is_counted(tmp_path: Path, empty: bool) -> None:
    rows = study()
    gone = {"method": "lora-r256", "duration": "1B", "metric": "humaneval"}
    rows = without_value(rows, **gone) if empty else [row for row in rows if not gone.items() <= row.items()]
    made = table(tmp_path, rows)
    grid, text = read_markdown(tables.markdown(made))
    assert [(line[0], grid[0][at]) for line in grid for at, cell in enumerate(line) if cell == "—"] == [
        ("LoRA (r=256)", "1B")
    ]
    tex_grid, tex_text = read_latex(tables.latex(made))
    at = [line[0] for line in tex_grid].index("LoRA (r=256)")
    assert [line[2] for line in tex_grid[at : at + 2]] == ["—", ""]
    for said in (text, tex_text):
        assert "—: missing, 1 of 10 values." in said


def test_a_method_a_duration_and_a_base_model_without_values_keep_their_places(tmp_path: Path) -> None:
    rows = without_value(without_value(study(), method="lora-r16"), duration="20B")
    made = table(tmp_path, [row for row in rows if row["kind"] != "base"])
    grid, text = read_markdown(tables.markdown(made))
    assert [line[0] for line in grid[1:]] == ["base model", *LABELS.values()]
    assert [[cell == "—" for cell in line[1:]] for line in grid[1:]] == [
        [True] * 3, [True] * 3, [False, False, True], [False, False, True],
    ]  # fmt: skip
    assert "—: missing, 6 of 10 values." in text
    assert read_latex(tables.latex(made))[0][1] == ["base model", "—", "—", "—"]


def test_a_value_without_standard_error_stands_alone(tmp_path: Path) -> None:
    rows = [row | {"stderr": "" if row["method"] == "full" else row["stderr"]} for row in study()]
    made = table(tmp_path, rows)
    grid, text = read_markdown(tables.markdown(made))
    assert grid[4][1:] == [rounded(values(rows, "humaneval", "full", duration)[0][0]) for duration in CPT]
    assert "No ±: the standard error is 0 or not known." in text
    alone = table(tmp_path, [row | {"stderr": "", "items": ""} for row in rows])
    _, text = read_markdown(tables.markdown(alone))
    assert "one standard error" not in text
    assert "test items" not in text
    assert r"\scriptsize" not in tables.latex(alone)


def test_values_that_were_not_trained_here_are_marked(tmp_path: Path) -> None:
    rows = study()
    for row in rows:
        row["source"] = {"full": "published", "base": "printed"}.get(row["method"], "trained")
    made = table(tmp_path, rows)
    grid, text = read_markdown(tables.markdown(made))
    tex_grid, tex_text = read_latex(tables.latex(made))
    marks = {line[0]: {re.sub("[^†‡]", "", cell) for cell in line[1:]} for line in grid[1:]}
    assert marks == {"base model": {"‡"}, "LoRA (r=16)": {""}, "LoRA (r=256)": {""}, "full finetuning": {"†"}}
    assert [cell[-1] for cell in tex_grid[6][1:]] == ["†"] * 3
    assert tex_grid[1][1].startswith("0.138‡ ")
    for said in (text, tex_text):
        assert "†: from published checkpoints." in said
        assert "‡: printed in the paper." in said
        assert "6 points trained here, 3 points from published checkpoints; base model printed in the paper" in said
    _, text = read_markdown(tables.markdown(table(tmp_path, study())))
    assert "†" not in text
    assert "‡" not in text


def test_a_table_says_where_it_comes_from(tmp_path: Path) -> None:
    rows = study()
    made = table(tmp_path, rows, commit="abc1234-dirty")
    for _, said in (read_markdown(tables.markdown(made)), read_latex(tables.latex(made))):
        for part in (
            "tableS1 (v2)", "study: main", "model: meta-llama/Llama-2-7b-hf", "All points trained here",
            f"fingerprint {artifact_fingerprint(row['condition'] for row in rows)}", "commit abc1234-dirty",
        ):  # fmt: skip
            assert part in said
        assert "demo" not in said.lower()


def test_a_demo_cannot_be_mistaken_for_the_paper(tmp_path: Path) -> None:
    made = table(tmp_path, study(scale="demo", study="demo", study_title="At laptop scale", model="tiny Llama"))
    page, tex = tables.markdown(made), tables.latex(made)
    assert f"\n**{DEMO}.** " in page
    assert f"\n- {DEMO} · tableS1 (v2) · study: demo · model: tiny Llama\n" in page
    (caption,) = re.findall(r"^\\caption\{.*", tex, re.MULTILINE)
    assert f"\\textbf{{{DEMO}.}}" in caption
    assert f"\n{DEMO} " in tex
    assert "Accuracy in HumanEval (demo)" in page
    assert "Accuracy in HumanEval (demo)" in caption


# --- escapes


@given(st.text(st.sampled_from("aB1 \n\\%_&#${}~^<>|*`[]()!=é—±†·")))
def test_any_text_is_printed_as_it_is(text: str) -> None:
    texts = {letter: f"{letter} {text}" for letter in "HTCKMN"}
    entry = tables.Entry("0.500")
    made = tables.Table(
        number="S1", heading=texts["H"], title=texts["T"], warning="", caption=texts["C"], corner=texts["K"],
        columns=("1",), base=entry, rows=(tables.Row(texts["M"], (entry,)),), notes=(texts["N"],),
    )  # fmt: skip
    plain = {letter: " ".join(text.split()) for letter, text in texts.items()}
    cells = [[plain["K"], "1"], ["base model", "0.500"], [plain["M"], "0.500"]]
    assert read_markdown(tables.markdown(made)) == (cells, "\n".join(plain[letter] for letter in "HCN"))
    assert read_latex(tables.latex(made)) == (cells, f"{plain['T']}. {plain['C']}\n{plain['N']}")


# --- the command


def command(tmp_path: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    files = [f"--{form}={tmp_path / 'tables' / name}.{form}" for form in ("md", "tex")]
    return subprocess.run(
        [sys.executable, "-m", "scripts.artifacts.tabulate", name, f"--csv={tmp_path / name}.csv", *files],
        cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_files_repeat_byte_for_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "tableS2.csv", study())
    md, tex = tmp_path / "tables" / "tableS2.md", tmp_path / "tables" / "tableS2.tex"
    done = command(tmp_path, "tableS2", PYTHONHASHSEED="1", TZ="Asia/Tokyo")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(file.name for file in md.parent.iterdir()) == ["tableS2.made.json", "tableS2.md", "tableS2.tex"]
    # made again in this process
    made = score_table.table(REGISTRY["tableS2"], path, checkout.commit())
    assert (md.read_bytes(), tex.read_bytes()) == (tables.markdown(made).encode(), tables.latex(made).encode())
    assert not any(str(tmp_path).encode() in content for content in (md.read_bytes(), tex.read_bytes()))


def test_a_csv_of_another_setting_stops_the_command_and_leaves_the_old_table(tmp_path: Path) -> None:
    path = write(tmp_path / "tableS1.csv", study("math-ift"))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "tableS1.md").write_bytes(b"old")
    done = command(tmp_path, "tableS1")
    assert done.returncode == 1
    assert done.stderr == f"error: {path}: has no value of the setting code-cpt, which tableS1 shows\n"
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "tables").iterdir()] == [("tableS1.md", b"old")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tableS99", "no artifact 'tableS99'; it has fig1"),
        ("fig1", r"fig1 is no table: `.*snakemake results/figures/fig1\.pdf` draws it"),
    ],
)
def test_what_is_no_table_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=said):
        tabulate.main(name, write(tmp_path / "a.csv", study()), tmp_path / "b", tmp_path / "c")
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
