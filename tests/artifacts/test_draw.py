"""Figures 1 to 3 from hand-made CSVs: what a reader of the picture relies on, read off matplotlib's objects."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from scripts.artifacts import draw
from scripts.artifacts.points import read_points
from scripts.common import checkout
from scripts.common.errors import UserError
from scripts.plan.registry import load_registry
from tests.artifacts.conftest import (
    LABELS,
    METHODS,
    REGISTRY,
    ROOT,
    SETTINGS,
    Row,
    assert_all_apart,
    bars,
    base_row,
    data,
    figure,
    footer,
    learning_task,
    legend_entries,
    line,
    markers,
    pick,
    texts,
    tuned_row,
    write,
)

BASE = {"humaneval": 0.11, "gsm8k": 0.17, "forgetting": 0.66}


def study(
    settings: tuple[str, ...] = SETTINGS,
    methods: tuple[str, ...] = METHODS,
    tokens: tuple[str, ...] = ("64K", "128K", "256K"),
    epochs: tuple[str, ...] = ("1", "2", "4"),
    seeds: tuple[int, ...] = (0,),
    **common: str,
) -> list[Row]:
    """Rows of a whole study."""
    return [base_row(metric, value, **common) for metric, value in BASE.items()] + [
        tuned_row(setting, method, duration, metric, seed, **common)
        for setting in settings
        for method in methods
        for duration in (tokens if setting.endswith("cpt") else epochs)
        for seed in seeds
        for metric in (learning_task(setting), "forgetting", "hellaswag")
    ]


def value(rows: list[Row], setting: str, method: str, duration: str, metric: str, seed: int = 0) -> float:
    return pick(rows, setting=setting, method=method, duration=duration, metric=metric, seed=seed)


def panel(drawn: Figure, setting: str) -> Axes:
    (ax,) = [ax for ax in drawn.axes if ax.get_label() == setting]
    return ax


@pytest.mark.parametrize("name", ["fig1", "fig2"])
def test_lines_and_markers_are_the_numbers_of_the_csv(tmp_path: Path, name: str) -> None:
    rows = study()
    drawn = figure(tmp_path, name, rows[::-1])
    for setting in SETTINGS:
        ax = panel(drawn, setting)
        task = learning_task(setting)
        metric = task if name == "fig1" else "forgetting"
        durations = ("64K", "128K", "256K") if setting.endswith("cpt") else ("1", "2", "4")
        expected = {m: [(LABELS[d], value(rows, setting, m, d, metric)) for d in durations] for m in METHODS}
        assert {method: data(line(ax, method)) for method in METHODS} == expected
        assert sorted(point for marker in markers(ax) for point in data(marker)) == sorted(
            p for points in expected.values() for p in points
        )
        assert [label.get_text() for label in ax.get_xticklabels()] == list(durations)
        assert ax.get_xscale() == "log"
        base = line(ax, "base model")
        assert list(base.get_ydata()) == [BASE[metric]] * 2
        assert base.get_linestyle() == "--"
        assert base.get_color() == "black"
        assert "base\nmodel" in [text.get_text() for text in ax.texts]
        low, high = ax.get_ylim()
        assert len(bars(ax)) == 12
        assert all(low < y < high for found in [base, *markers(ax), *bars(ax)] for _, y in data(found))


def test_colours_and_legend_are_those_of_the_paper(tmp_path: Path) -> None:
    drawn = figure(tmp_path, "fig2", study(methods=("full", "lora-r8", "lora-r1", "lora-r4")))
    expected = {"lora-r1": "#dda0dd", "lora-r4": "#6a5acd", "lora-r8": "#00008b", "full": "#000000"}
    for setting in SETTINGS:
        ax = panel(drawn, setting)
        assert {method: to_hex(line(ax, method).get_color()) for method in METHODS} == expected
    assert all(marker.get_markeredgecolor() == "white" for marker in markers(drawn.axes[0]))
    (legend,) = drawn.legends
    assert legend_entries(drawn) == ["LoRA (r=1)", "LoRA (r=4)", "LoRA (r=8)", "full finetuning", "base model"]
    assert [to_hex(handle.get_color()) for handle in legend.get_lines()] == [*expected.values(), "#000000"]


def test_trade_off_puts_forgetting_across_and_learning_up(tmp_path: Path) -> None:
    rows = study()
    drawn = figure(tmp_path, "fig3", rows)
    for setting in SETTINGS:
        ax = panel(drawn, setting)
        task = learning_task(setting)
        durations = ("64K", "128K", "256K") if setting.endswith("cpt") else ("1", "2", "4")
        for method in METHODS:
            expected = [tuple(value(rows, setting, method, d, m) for m in ("forgetting", task)) for d in durations]
            assert data(line(ax, method)) == expected
            sizes = {data(marker)[0]: marker.get_markersize() for marker in markers(ax)}
            grown = [sizes[point] for point in expected]
            assert grown == sorted(set(grown)), "a longer training is a larger point"
        star = line(ax, "base model")
        assert data(star) == [(BASE["forgetting"], BASE[task])]
        assert star.get_marker() == "*"
        for found in [star, *markers(ax), *bars(ax)]:
            assert all(ax.viewLim.contains(x, y) for x, y in data(found))
    sizes_legend = [[text.get_text() for text in legend.get_texts()] for legend in drawn.legends[1:]]
    assert sizes_legend == [["Training tokens:", "64K", "128K", "256K"], ["Epochs:", "1", "2", "4"]]


@pytest.mark.parametrize("name", ["fig1", "fig2", "fig3"])
@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        (SETTINGS, [(0, 0), (0, 1), (1, 0), (1, 1)]),
        (("code-cpt", "code-ift", "math-ift"), [(0, 0), (0, 1), (1, 1)]),
        (("code-cpt", "math-ift"), [(0, 0), (0, 1)]),
        (("code-cpt", "math-cpt"), [(0, 0), (0, 1)]),
        (("math-ift",), [(0, 0)]),
    ],
)
def test_only_the_panels_that_exist_in_the_papers_places(
    tmp_path: Path, name: str, settings: tuple[str, ...], shape: list[tuple[int, int]]
) -> None:
    drawn = figure(tmp_path, name, study(settings=settings[::-1], tokens=("64K",), epochs=("1",), methods=("lora-r4",)))
    assert [ax.get_label() for ax in drawn.axes] == list(settings)
    assert [ax.texts[0].get_text() for ax in drawn.axes] == list("ABCD"[: len(settings)])
    assert [ax.texts[1].get_text() for ax in drawn.axes] == [s[:4].title() + " " + s[-3:].upper() for s in settings]
    lefts = sorted({round(ax.get_position().x0, 6) for ax in drawn.axes})
    tops = sorted({round(ax.get_position().y1, 6) for ax in drawn.axes}, reverse=True)
    places = [
        (tops.index(round(b.y1, 6)), lefts.index(round(b.x0, 6))) for b in (ax.get_position() for ax in drawn.axes)
    ]
    assert places == shape


@pytest.mark.parametrize("name", ["fig1", "fig2", "fig3"])
@pytest.mark.parametrize("settings", [SETTINGS, ("code-cpt",)])
def test_nothing_overlaps_or_leaves_the_page(tmp_path: Path, name: str, settings: tuple[str, ...]) -> None:
    rows = study(
        settings=settings, model="meta-llama/Llama-2-7b-hf", study_title="A study with a long title: " + "words " * 20
    )
    assert_all_apart(figure(tmp_path, name, rows, "0123456789-dirty"))


def test_a_demo_cannot_be_mistaken_for_the_paper(tmp_path: Path) -> None:
    demo = figure(tmp_path, "fig1", study())
    assert "DEMO STUDY: not the paper's numbers" in texts(demo)
    assert "not the paper's numbers" in footer(demo)
    assert "Demo study: made by hand" in texts(demo)
    assert "tiny Llama" in texts(demo)
    assert "(demo)" in demo.axes[0].get_ylabel()
    paper = figure(tmp_path, "fig1", study(scale="paper", study_title="The main grid"))
    assert "demo" not in texts(paper).lower().replace("study: demo", "")
    assert paper.axes[0].get_ylabel() == "Accuracy in HumanEval"


def test_footer_says_where_the_figure_comes_from(tmp_path: Path) -> None:
    rows = study()
    rows[5]["condition"] = "12e456789012"  # a fingerprint that looks like a number
    expected = hashlib.sha256("\n".join(sorted({row["condition"] for row in rows})).encode()).hexdigest()[:12]
    found = footer(figure(tmp_path, "fig2", rows, commit="abc1234-dirty"))
    for part in (
        "study: demo", "model: tiny Llama", "fig2 (v2)", "All points trained here", f"fingerprint {expected}",
        "commit abc1234-dirty", "one standard error", "HellaSwag + ARC-challenge + WinoGrande",
    ):  # fmt: skip
        assert part in found
    without_bars = [{**row, "stderr": ""} for row in rows]
    assert "standard error" not in footer(figure(tmp_path, "fig2", without_bars))


def test_settings_of_one_domain_stand_in_one_row_whatever_they_are_called(tmp_path: Path) -> None:
    domains = {"proofs-cpt": "logic", "lemmas-ift": "logic", "code-cpt": "code"}
    rows = [{**row, "domain": domains[row["setting"]]} if "setting" in row else row for row in study(tuple(domains))]
    tops = {ax.get_label(): ax.get_position().y1 for ax in figure(tmp_path, "fig2", rows).axes}
    assert tops["proofs-cpt"] == tops["lemmas-ift"]
    # the paper's domains come first
    assert tops["code-cpt"] > tops["proofs-cpt"]


def test_points_that_were_not_trained_here_are_hollow_and_counted(tmp_path: Path) -> None:
    rows = study(settings=("code-cpt",))
    for row in rows:
        theirs = row["method"] in ("full", "lora-r8", "base")
        row["source"] = "published" if theirs else "trained"
    drawn = figure(tmp_path, "fig1", rows)
    assert "6 points trained here, 6 points from published checkpoints" in footer(drawn)
    assert "base model from published checkpoints" in footer(drawn)
    ax = drawn.axes[0]
    published = {point for method in ("full", "lora-r8") for point in data(line(ax, method))}
    for marker in markers(ax):
        hollow = marker.get_markerfacecolor() == "white"
        assert hollow == (data(marker)[0] in published)
    assert legend_entries(drawn)[-2:] == ["trained here", "from published checkpoints"]


def test_bars_are_one_standard_error(tmp_path: Path) -> None:
    rows = study(settings=("math-ift",), methods=("full",), epochs=("1",))
    ax = figure(tmp_path, "fig1", rows).axes[0]
    (bar,) = bars(ax)
    centre = value(rows, "math-ift", "full", "1", "gsm8k")
    assert data(bar) == [(1.0, pytest.approx(centre - 0.03)), (1.0, pytest.approx(centre + 0.03))]


@pytest.mark.parametrize("name", ["fig2", "fig3"])
def test_several_seeds_are_a_mean_and_a_range(tmp_path: Path, name: str) -> None:
    rows = study(settings=("code-cpt",), methods=("lora-r4",), tokens=("64K", "128K"), seeds=(0, 1, 2))
    drawn = figure(tmp_path, name, rows)
    ax = drawn.axes[0]
    found = data(line(ax, "lora-r4"))
    column = 0 if name == "fig3" else 1
    for point, duration in zip(found, ("64K", "128K"), strict=True):
        values = [value(rows, "code-cpt", "lora-r4", duration, "forgetting", seed) for seed in range(3)]
        assert point[column] == pytest.approx(numpy.mean(values))
        ends = [sorted(end[column] for end in data(bar)) for bar in bars(ax)]
        assert [min(values), max(values)] in ends
    assert "3 seeds: mean" in footer(drawn)
    assert "standard error" not in footer(drawn)


def test_missing_cells_are_not_drawn(tmp_path: Path) -> None:
    rows = study(settings=("code-cpt", "code-ift"), methods=("lora-r4", "full"))
    for row in rows:
        cell = (row.get("setting"), row["method"], row.get("duration"), row["metric"])
        if cell == ("code-cpt", "full", "128K", "humaneval") or cell[0::3] == ("code-ift", "humaneval"):
            row["value"] = row["stderr"] = ""
    for name in ("fig1", "fig3"):
        drawn = figure(tmp_path, name, rows)
        assert [ax.get_label() for ax in drawn.axes] == ["code-cpt"]
        assert len(data(line(drawn.axes[0], "full"))) == 2
        assert len(data(line(drawn.axes[0], "lora-r4"))) == 3
        assert len(markers(drawn.axes[0])) == 5
        assert "7 more not there yet" in footer(drawn)
    assert len(figure(tmp_path, "fig2", rows).axes) == 2, "forgetting is all there"


def test_a_figure_without_a_base_model_has_no_line_for_it(tmp_path: Path) -> None:
    rows = [row for row in study() if row["kind"] != "base"]
    for name in ("fig2", "fig3"):
        drawn = figure(tmp_path, name, rows)
        assert not [found for found in drawn.axes[0].lines if found.get_gid() == "base model"]
        assert "base model" not in legend_entries(drawn)


def command(tmp_path: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    files = [f"--{form}={tmp_path / 'figures' / name}.{form}" for form in ("pdf", "png")]
    return subprocess.run(
        [sys.executable, "-m", "scripts.artifacts.draw", name, f"--csv={tmp_path / name}.csv", *files],
        cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_files_repeat_byte_for_byte_and_carry_their_provenance(tmp_path: Path) -> None:
    csv_file = write(tmp_path / "fig2.csv", study(settings=("code-cpt", "code-ift")))
    pdf, png, *again = (
        tmp_path / directory / f"fig2.{form}" for directory in ("figures", "again") for form in ("pdf", "png")
    )
    done = command(tmp_path, "fig2", PYTHONHASHSEED="1", TZ="Asia/Tokyo")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in pdf.parent.iterdir()) == ["fig2.made.json", "fig2.pdf", "fig2.png"]
    draw.draw(REGISTRY["fig2"], csv_file, *again)
    assert [path.read_bytes() for path in again] == [pdf.read_bytes(), png.read_bytes()], "drawn in this process"
    points = read_points(csv_file, ["forgetting"])
    keywords = (
        "artifact=fig2 (v2); study=demo; model=tiny Llama; scale=demo; "
        f"fingerprint={points.fingerprint}; values={hashlib.sha256(csv_file.read_bytes()).hexdigest()[:12]}; "
        f"commit={checkout.commit()}; points=all points trained here"
    )
    with Image.open(png) as image:
        assert image.text["Keywords"] == keywords
        assert image.text["Title"] == "Figure 2. Forgetting vs. training duration (Demo study: made by hand)"
        assert image.width == 1600
    assert keywords.replace("(", r"\(").replace(")", r"\)").encode() in pdf.read_bytes()
    assert b"Date" not in pdf.read_bytes()
    assert str(tmp_path).encode() not in pdf.read_bytes()


def broken(rows: list[Row], **changes: Any) -> list[Row]:
    return [*rows[:-1], {**rows[-1], **changes}]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows"),
        ([row for row in study() if row["kind"] == "base"], "no row of a finetuned model"),
        ([row for row in study() if row["metric"] != "forgetting"], "forgetting"),
        (broken(study(), value="high"), "value: 'high' in row"),
        (broken(study(), scale="huge"), "scale: 'huge' in row"),
        (broken(study(), kind="qlora"), "kind: 'qlora' in row"),
        (broken(study(), source="found"), "source: 'found' in row"),
        (broken(study(), duration_value=0), "duration_value"),
        (broken(study(), duration_value=""), "duration_value"),
        (broken(study(), tokens=""), "tokens"),
        (broken(study(), learning_rate=""), "learning_rate"),
        (broken(study(), learning_rate=-0.1), "learning_rate"),
        (broken(study(), learning_rate="high"), "learning_rate: 'high' in row"),
        (broken(study(), chosen=""), "chosen: '' in row"),
        (broken(study(), chosen="maybe"), "chosen: 'maybe' in row"),
        (broken(study(), study="other"), "study: must be the same in every row"),
        (study() + study()[-2:], "more than once"),
        (study() + [{**other, "learning_rate": 0.002} for other in study()[-2:]], "more than once"),
    ],
)
def test_a_bad_csv_is_one_sentence(tmp_path: Path, rows: list[Row], said: str) -> None:
    path = write(tmp_path / "fig2.csv", rows)
    with pytest.raises(UserError) as raised:
        read_points(path, ["forgetting"])
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_lacking_column_stops_the_command_and_leaves_the_old_figure(tmp_path: Path) -> None:
    path = write(tmp_path / "fig2.csv", study())
    path.write_text(path.read_text().replace("condition", "conditions").replace("stderr", "error"))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "fig2.pdf").write_bytes(b"old")
    done = command(tmp_path, "fig2")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "lacks the columns stderr, condition" in done.stderr
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "figures").iterdir()] == [("fig2.pdf", b"old")]


def test_an_unknown_artifact_names_those_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="no artifact 'fig99'; it has fig1, fig2, fig3"):
        draw.main("fig99", tmp_path / "a", tmp_path / "b", tmp_path / "c")


def test_the_commit_is_known_dirty_or_unknown(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *author, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert checkout.commit(tmp_path) == "unknown"
    git("init", "-q")
    assert checkout.commit(tmp_path) == "unknown", "no commit yet"
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "--short", "HEAD")
    (tmp_path / "untracked").write_text("a result")
    assert checkout.commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert checkout.commit(tmp_path) == f"{head}-dirty"
    (tmp_path / "copy").mkdir()
    assert checkout.commit(tmp_path / "copy") == "unknown", "somebody else's repository around it"


def test_the_registry_is_read_without_a_drawing_library() -> None:
    code = (
        "import sys; from scripts.plan.registry import load_registry as load; r = load('config/artifacts.yaml');"
        "print(*(f'{r[name].module}: {r[name].heading}' for name in ('fig1', 'fig3', 'frontier')), sep='\\n');"
        "print({'matplotlib', 'pandas', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "scripts/artifacts/learning_forgetting.py: Figure 1. Learning vs. training duration",
        "scripts/artifacts/tradeoff.py: Figure 3. The learning-forgetting trade-off",
        "scripts/artifacts/frontier.py: Learning against forgetting at every learning rate",
        "set()",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one artifact"),
        ("fig1: [", "not valid YAML"),
        ("fig1: nice", "fig1: must be a mapping"),
        ("fig1: {caption: b, edition: v2, kind: tradeoff}", "fig1.title: field required"),
        (
            "fig1: {title: a, caption: b, edition: v3, kind: tradeoff, needs: [learning]}",
            "fig1.edition: input should be",
        ),
        (
            "fig1: {title: a, caption: b, edition: v2, kind: tradeoff, needs: [a speed]}",
            "fig1.needs.0: string should match",
        ),
        ("fig1: {title: a, caption: b, edition: v2, kind: pie, needs: [learning]}", "fig1.kind: no module"),
        (
            "fig1: {title: a, caption: b, edition: v2, kind: tradeoff, needs: [learning], color: red}",
            "fig1.color: extra",
        ),
        (
            "fig1: {title: a, caption: 'b {mmlo}', edition: v2, kind: tradeoff}",
            "fig1.caption: value error, 'mmlo' cannot stand in braces",
        ),
        ("fig-1: {title: a, caption: b, edition: v2, kind: tradeoff, needs: [learning]}", "fig-1.name"),
        (
            "7: {title: a, caption: b, edition: v2, kind: tradeoff, needs: [learning]}",
            "line 1: not valid YAML (the key 7 is no text",
        ),
    ],
)
def test_a_bad_registry_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "artifacts.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        load_registry(path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
