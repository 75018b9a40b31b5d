"""Figures of a study's blocks: several measures side by side, and methods that differ in more than their rank."""

from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb

from scripts.artifacts import draw, style
from scripts.artifacts.points import ShownMethod
from scripts.common.errors import UserError
from tests.artifacts.blocks import artifact, drawn, full, lora, row
from tests.artifacts.conftest import (
    LABELS,
    SETTINGS,
    assert_all_apart,
    bars,
    base_row,
    data,
    footer,
    learning_task,
    legend_entries,
    line,
    markers,
    pick,
    write,
)

BASE = {"humaneval": 0.11, "gsm8k": 0.17, "forgetting": 0.66}
REGULARIZERS = ("weight decay 5e-05", "weight decay 0.0001", "attention dropout 0.05", "attention dropout 0.1")


def test_regularizers_stand_beside_plain_full_finetuning_and_lora(tmp_path: Path) -> None:
    methods = [full(), *map(full, REGULARIZERS), lora(16), lora(256)]
    rows = [base_row(metric, value) for metric, value in BASE.items()] + [
        row(method, "code-ift", epochs, metric)
        for method in methods
        for epochs in ("1", "2", "4")
        for metric in ("humaneval", "forgetting")
    ]
    made = drawn(tmp_path, artifact("learning_forgetting", "learning", "forgetting", name="fig4"), rows[::-1])
    left, right = made.axes
    assert left.get_position().x1 < right.get_position().x0
    assert left.get_position().y0 == right.get_position().y0
    assert [ax.texts[2].get_text() for ax in made.axes] == ["learning", "forgetting"]
    assert [ax.get_ylabel() for ax in made.axes] == ["Accuracy in HumanEval (demo)", "Forgetting average (demo)"]
    for ax, metric in ((left, "humaneval"), (right, "forgetting")):
        for method in methods:
            own = [found for found in rows if method.items() <= {"variant": "", **found}.items()]
            expected = [(LABELS[e], pick(own, duration=e, metric=metric)) for e in ("1", "2", "4")]
            variant = method.get("variant", "")
            assert data(line(ax, f"full, {variant}" if variant else method["method"])) == expected
        assert list(line(ax, "base model").get_ydata()) == [BASE[metric]] * 2
        low, high = ax.get_ylim()
        assert all(low < y < high for marker in markers(ax) for _, y in data(marker))
        shown = [line(ax, name) for name in ("full", *(f"full, {variant}" for variant in REGULARIZERS))]
        assert len({to_hex(found.get_color()) for found in shown}) == 5
        assert [found.is_dashed() for found in shown] == [False, True, True, True, True]
    assert legend_entries(made) == [
        "LoRA (r=16)", "LoRA (r=256)", "full finetuning", "full, attention dropout 0.05", "full, attention dropout 0.1",
        "full, weight decay 5e-05", "full, weight decay 0.0001", "base model",
    ]  # fmt: skip
    assert "1/3 (HellaSwag + ARC-challenge + WinoGrande), higher forgets less" in footer(made)
    assert_all_apart(made)


def test_grades_run_from_one_to_ten(tmp_path: Path) -> None:
    rows = [base_row("mt_bench", 2.74, stderr="", scale="paper"), base_row("mmlu", 0.46, scale="paper")]
    rows += [
        row(method, "chat-ift", epochs, "mt_bench", value=value, stderr=0.2, scale="paper")
        for method, value in ((full(), 5.9), (lora(16), 9.95))
        for epochs in ("2", "4")
    ]
    made = drawn(tmp_path, artifact("learning_forgetting", "mt_bench", name="figS4"), rows)
    (ax,) = made.axes
    assert data(line(ax, "full")) == [(2, 5.9), (4, 5.9)]
    low, high = ax.get_ylim()
    assert low < 2.74
    assert 9.95 < high < 10.5, "there is no grade above 10"
    ends = sorted(end for found in bars(ax) for _, end in data(found))
    assert ends == pytest.approx([5.7, 5.7, 6.1, 6.1, 9.75, 9.75, 10.15, 10.15])
    assert ax.get_ylabel() == "MT-bench score, 1 to 10"
    assert "mean grade of a judge model, from 1 (worst) to 10 (best)" in footer(made)


def test_two_alphas_of_a_rank_are_told_apart(tmp_path: Path) -> None:
    rows = [row(lora(256, alpha), "math-cpt", "64K", "gsm8k") for alpha in (32, 512)]
    made = drawn(tmp_path, artifact("learning_forgetting", "learning", name="figS3b"), rows)
    assert legend_entries(made) == ["LoRA (r=256, alpha=32)", "LoRA (r=256, alpha=512)"]
    colours = [to_hex(handle.get_color()) for handle in made.legends[0].get_lines()]
    assert colours == ["#dda0dd", "#00008b"], "2r is blue, as in the paper"


def test_a_trade_off_may_have_a_column_for_each_task(tmp_path: Path) -> None:
    tasks = ("hellaswag", "arc_challenge", "winogrande")
    methods = [full(), *(lora(rank, 32, chosen) for rank in (16, 256) for chosen in ("attention", "all without gate"))]
    rows = [base_row(metric, (1 + i) / 10) for i, metric in enumerate(("humaneval", "gsm8k", *tasks))] + [
        row(method, setting, duration, metric)
        for setting in SETTINGS
        for method in methods
        for duration in (("64K", "256K") if setting.endswith("cpt") else ("1", "4"))
        for metric in (learning_task(setting), *tasks)
    ]
    by_task = artifact("tradeoff", "learning", *tasks, name="v1/figS5", edition="v1")
    made = drawn(tmp_path, by_task, rows)
    assert [ax.get_label() for ax in made.axes] == [setting for setting in SETTINGS for _ in tasks]
    for place, ax in enumerate(made.axes):
        setting, task = SETTINGS[place // 3], tasks[place % 3]
        durations = ("64K", "256K") if setting.endswith("cpt") else ("1", "4")
        for method in methods:
            own = {"setting": setting, "method": method["method"]}
            expected = [
                tuple(pick(rows, **own, duration=d, metric=metric) for metric in (task, learning_task(setting)))
                for d in durations
            ]
            assert data(line(ax, method["method"])) == expected
        (star,) = data(line(ax, "base model"))
        assert star == ((3 + tasks.index(task)) / 10, 0.1 if setting.startswith("code") else 0.2)
        assert all(ax.viewLim.contains(*data(marker)[0]) for marker in markers(ax))
        name = ("HellaSwag", "ARC-challenge", "WinoGrande")[place % 3]
        assert ax.get_xlabel().startswith(f"Accuracy in {name} (demo)")
    assert "base model" in legend_entries(made)
    assert "LoRA (r=16, attention)" in legend_entries(made)
    named = [{**found, "setting_label": "StarCoder-Python"} if "setting" in found else found for found in rows]
    assert_all_apart(drawn(tmp_path, by_task, named))


METHOD = st.one_of(
    st.builds(
        lambda rank, alpha, modules, variant: ShownMethod(
            f"lora-r{rank}-a{alpha}-{modules}{variant and ', ' + variant}", "lora", rank, alpha, modules, variant
        ),
        st.sampled_from([16, 64, 256]),
        st.sampled_from([32.0, 128.0, 512.0]),
        st.sampled_from(["all", "attention", "mlp without gate", "q_proj+v_proj"]),
        st.sampled_from(["", "AdamW"]),
    ),
    st.builds(
        lambda variant: ShownMethod(f"full{variant and ', ' + variant}", "full", 0, 0.0, "", variant),
        st.sampled_from(["", "AdamW", *REGULARIZERS]),
    ),
)


@given(st.lists(METHOD, min_size=1, max_size=14, unique=True))
def test_no_two_methods_look_the_same(methods: list[ShownMethod]) -> None:
    looks = style.looks(methods)
    assert set(looks) == {method.name for method in methods}
    assert len({look.colour for look in looks.values()}) == len(methods)
    assert len({look.label for look in looks.values()}) == len(methods)
    assert not [look.label for look in looks.values() if "lora-" in look.label], "words, no names of the study"
    if "full" in looks:
        assert (looks["full"].colour, looks["full"].dashes, looks["full"].label) == ("#000000", "-", "full finetuning")


@pytest.mark.parametrize(
    "methods",
    [
        [full(), *map(full, REGULARIZERS), lora(16), lora(256)],
        [full(), *(lora(r, 32, m) for r in (16, 256) for m in ("attention", "mlp without gate", "all without gate"))],
        [full(), full("AdamW"), lora(64), {**lora(64), "variant": "AdamW"}],
        [lora(256, alpha) for alpha in (32, 256, 512)],
    ],
    ids=["figure 4", "v1's figure S2", "figure S2", "figure S3a"],
)
def test_the_papers_methods_are_far_apart_in_colour_or_dashed_in_another_way(methods: list[dict[str, Any]]) -> None:
    made = [
        ShownMethod(f"{m['method']}{m.get('variant', '')}", m["kind"], int(m["rank"] or 0), m.get("alpha", 0.0),
               m.get("modules", ""), m.get("variant", ""))
        for m in methods
    ]  # fmt: skip
    looks = list(style.looks(made).values())
    for number, one in enumerate(looks):
        for other in looks[:number]:
            apart = numpy.linalg.norm(numpy.subtract(to_rgb(one.colour), to_rgb(other.colour)))
            assert apart > 0.3 or (apart > 0.1 and one.dashes != other.dashes)


@pytest.mark.parametrize(("options", "share"), [({}, 1 / 2), ({"x": "log"}, 1 / 2), ({"x": "linear"}, 1 / 3)])
def test_the_axis_of_durations_is_an_option(tmp_path: Path, options: dict[str, str], share: float) -> None:
    """128K stands halfway from 64K to 256K on a logarithmic axis, and at a third of it on a linear one."""
    what = artifact("learning_forgetting", "forgetting", options=options)
    rows = [row(full(), "code-cpt", duration, "forgetting") for duration in ("64K", "128K", "256K")]
    (ax,) = drawn(tmp_path, what, rows).axes
    at = ax.transData.transform([(value, 0.5) for value in (64_000, 128_000, 256_000)])[:, 0]
    assert (at[1] - at[0]) / (at[2] - at[0]) == pytest.approx(share)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["64K", "128K", "256K"]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("learning_forgetting", {"y": "log"}, "kind learning_forgetting has no option 'y'; it has x"),
        ("learning_forgetting", {"x": "cubic"}, "fig99.options.x: 'cubic' must be log or linear"),
        ("tradeoff", {"x": "linear"}, "kind tradeoff has no option 'x'; it has none"),
    ],
)
def test_an_unknown_option_is_one_sentence(tmp_path: Path, kind: str, options: dict[str, str], said: str) -> None:
    csv = write(tmp_path / "figure.csv", [row(full(), "code-cpt", "64K", "forgetting")])
    with pytest.raises(UserError) as raised:
        draw.draw(artifact(kind, "forgetting", options=options), csv, tmp_path / "a.pdf", tmp_path / "a.png")
    assert str(raised.value).startswith("config/artifacts.yaml: fig99.options")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
