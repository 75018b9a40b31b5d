"""The paper's claims judged on scores whose truth is known, the CSV, the page, and the way from the store."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scripts.artifacts import claims
from scripts.artifacts.contrasts import Contrast, FloatArray, Model, Verdict
from scripts.artifacts.paper_claims import CLAIMS, PAPER, Comparison, Judged, judge
from scripts.artifacts.published import load_published
from scripts.common.errors import UserError
from scripts.evaluation.results import write_samples
from scripts.launch.launch import Launch, launch_by_hand

pytestmark = pytest.mark.arithmetic

HOLDS, FAILS, OPEN = Verdict
FORGETTING = ("hellaswag", "arc_challenge", "winogrande")
UNMEASURED = ("pass-at-k", "high-rank-changes")
MEASURED = [claim.name for claim in CLAIMS if claim.name not in UNMEASURED]

Curve = tuple[list[float], list[float]]
"""Learning and forgetting average at each duration."""
World = dict[str, dict[str, Curve]]
"""Setting to method to what is true of it."""

BASES = {"humaneval": 0.138, "gsm8k": 0.145, "forgetting": 0.671}
DURATIONS: dict[str, dict[str, float]] = {}
"""Setting to each duration as a reader would say it, with its value."""


def printed() -> World:
    """The paper's tables S1 to S8. Fills DURATIONS with theirs."""
    world: World = {}
    for value in sorted(load_published(), key=lambda value: value.amount or 0):
        if re.fullmatch("tableS[1-8]", value.artifact):
            assert value.setting
            assert value.amount
            unit = "tokens" if value.regime == "cpt" else "epochs" if value.amount > 1 else "epoch"
            DURATIONS.setdefault(value.setting, {})[f"{value.duration} {unit}"] = float(value.amount)
            curve = world.setdefault(value.setting, {}).setdefault(value.method, ([], []))
            curve[value.metric == "forgetting"].append(float(value.value))
    return world


PRINTED = printed()


def exact(mean: float, *_: object) -> FloatArray:
    """So many items that every mean is as good as known."""
    return numpy.full(4000, mean)


def noisy(generator: numpy.random.Generator, amplitude: float) -> Callable[..., FloatArray]:
    """The same means, with 40 items that say something else of every model."""

    def draw(mean: float, *_: object) -> FloatArray:
        return mean + amplitude * generator.permutation([1.0, -1.0] * 20)

    return draw


def learning_task(setting: str) -> str:
    return "humaneval" if setting.startswith("code") else "gsm8k"


def models(world: World, draw: Callable[..., FloatArray] = exact, seeds: int = 1) -> list[Model]:
    """A study in which `world` is true; `draw` makes items' scores from mean, name of model and task, and seed."""
    tasks = (*FORGETTING, "humaneval", "gsm8k")
    tested = {task: draw(BASES.get(task, BASES["forgetting"]), f"base {task}", 0) for task in tasks}
    made = [Model("", "base", "base", 0, "", "", 0, 0, "base", tested)]
    for setting, methods in world.items():
        for method, (learning, forgetting) in methods.items():
            points = zip(DURATIONS[setting].items(), learning, forgetting, strict=False)
            for (label, duration), learned, kept in points:
                for seed in range(seeds):
                    name, task = f"{setting} {method} {label}", learning_task(setting)
                    scores = {one: draw(kept, f"{name} {one}", seed) for one in FORGETTING}
                    scores[task] = draw(learned, f"{name} {task}", seed)
                    kind, rank = ("full", 0) if method == "full" else ("lora", int(method.removeprefix("lora-r")))
                    made.append(
                        Model(setting, method, kind, rank, task, label, duration, seed, f"{name} {seed}", scores)
                    )
    return made


def verdicts(judged: list[Judged]) -> dict[str, Verdict]:
    return {one.claim.name: one.verdict for one in judged}


def claim(name: str, made: list[Model]) -> Judged:
    (one,) = [one for one in judge(made, FORGETTING) if one.claim.name == name]
    return one


def only(judged: Judged, name: str) -> Comparison:
    (comparison,) = [comparison for comparison in judged.comparisons if comparison.question.name == name]
    return comparison


# -- verdicts where the truth is known ------------------------------------------------------------


def test_the_papers_own_scores_bear_out_its_claims() -> None:
    found = verdicts(judge(models(PRINTED), FORGETTING))
    assert found == {**dict.fromkeys(MEASURED, HOLDS), **dict.fromkeys(UNMEASURED, OPEN)}


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    """A difference, or the two means that are compared, each to the third decimal."""
    judged = {one.claim.name: one for one in judge(models(PRINTED), FORGETTING)}
    assert set(PAPER) == set(MEASURED)
    for name, printed in PAPER.items():
        parts = {comparison.question.key: comparison for comparison in judged[name].comparisons}
        assert set(parts) == set(printed)
        for key, text in printed.items():
            found, statistic = parts[key].found, parts[key].question.statistic
            assert found is not None
            expected = [found.value]
            if " vs " in text:
                assert isinstance(statistic, Contrast)
                values = [(weight, printed_score(statistic.measure, arm)) for arm, weight in statistic.weights.items()]
                expected = [sum(abs(w) * v for w, v in values if (w > 0) == above) for above in (True, False)]
            numbers = [float(number) for number in text.split(" vs ")]
            assert numbers == pytest.approx(expected, abs=0.00051), (name, key, expected)


def printed_score(measure: str, arm: tuple[str, str, float]) -> float:
    setting, method, duration = arm
    place = list(DURATIONS[setting].values()).index(duration)
    return PRINTED[setting][method][measure == "forgetting"][place]


def test_nothing_can_be_said_where_items_are_few_and_disagree() -> None:
    generator = numpy.random.default_rng(0)
    for one in judge(models(PRINTED, noisy(generator, 4.0)), FORGETTING):
        assert one.verdict is OPEN, one.claim.name


def swapped(setting: str, one: str, other: str, measure: int | None = None) -> Callable[[World], None]:
    """Exchanges two methods, or what they learned (0) or kept (1) alone."""

    def change(world: World) -> None:
        methods = world[setting]
        if measure is None:
            methods[one], methods[other] = methods[other], methods[one]
        else:
            methods[one][measure][:], methods[other][measure][:] = methods[other][measure][:], methods[one][measure][:]

    return change


def shifted(setting: str, methods: tuple[str, ...], measure: int, by: float) -> Callable[[World], None]:
    def change(world: World) -> None:
        for method in methods:
            values = world[setting][method][measure]
            values[:] = [value + by for value in values]

    return change


def turned_round(setting: str, methods: tuple[str, ...], measure: int) -> Callable[[World], None]:
    def change(world: World) -> None:
        for method in methods:
            world[setting][method][measure].reverse()

    return change


def rank_turned_round(world: World) -> None:
    for setting in world:
        swapped(setting, "lora-r16", "full", 1)(world)


LORAS = ("lora-r16", "lora-r64", "lora-r256")
ALL = (*LORAS, "full")
OTHER_WORLDS = {
    "learns-less": swapped("math-ift", "lora-r16", "full", 0),
    "forgets-less": swapped("code-cpt", "lora-r16", "full", 1),
    "forgets-less-at-equal-learning": shifted("code-ift", LORAS, 1, -0.1),
    "code-cpt-order": swapped("code-cpt", "lora-r16", "lora-r64"),
    "code-cpt-lag": shifted("code-cpt", ("full",), 0, 0.2),
    "code-ift-order": swapped("code-ift", "lora-r64", "lora-r256"),
    "code-ift-match": shifted("code-ift", ("full",), 0, 0.2),
    "math-cpt-gap": turned_round("math-cpt", ("full",), 0),
    "math-ift-match": shifted("math-ift", ("lora-r64",), 0, -0.1),
    "ift-forgets-more": shifted("math-ift", ALL, 1, 0.1),
    "code-forgets-more": shifted("math-cpt", ALL, 1, -0.1),
    "forgetting-grows": turned_round("math-ift", ALL, 1),
    "forgetting-order": rank_turned_round,
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_claim_does_not_hold_in_a_world_where_one_of_its_comparisons_is_wrong(name: str) -> None:
    world = deepcopy(PRINTED)
    OTHER_WORLDS[name](world)
    assert claim(name, models(world)).verdict is FAILS


def test_too_wide_is_not_about_equal_in_either_direction() -> None:
    for by, word in ((0.2, "behind"), (-0.2, "ahead")):
        world = deepcopy(PRINTED)
        shifted("code-ift", ("full",), 0, by)(world)
        one = claim("code-ift-match", models(world))
        assert one.verdict is FAILS
        assert f"clearly {word} by more than .05" in one.sentence


def test_seeds_that_differ_take_back_what_items_alone_would_say() -> None:
    def spread(by: float) -> Callable[..., FloatArray]:
        """Each model has its own luck with each seed; the mean over seeds stays what it is."""
        generator = numpy.random.default_rng(1)
        luck: dict[str, FloatArray] = {}

        def draw(mean: float, name: str, seed: int) -> FloatArray:
            if name.startswith("base"):
                return exact(mean)
            drawn = luck.setdefault(name, generator.normal(0, by, 3))
            return exact(mean + drawn[seed] - drawn.mean())

        return draw

    calm, wild = (judge(models(PRINTED, spread(by), seeds=3), FORGETTING) for by in (0.0, 0.5))
    assert {name: verdicts(calm)[name] for name in MEASURED} == dict.fromkeys(MEASURED, HOLDS)
    assert HOLDS not in verdicts(wild).values()
    before, after = (only(judged[0], "code-cpt").found for judged in (calm, wild))
    assert before is not None
    assert after is not None
    assert (after.value, after.stderr_items) == (pytest.approx(before.value), pytest.approx(before.stderr_items))
    assert after.stderr > 10 * before.stderr


# -- the same, named otherwise --------------------------------------------------------------------


def test_settings_are_known_by_domain_and_regime_whatever_they_are_called() -> None:
    made = models(PRINTED)
    called = [replace(model, setting=f"my-{model.setting}", role=model.setting) for model in made if model.setting]
    ours = judge([*(model for model in made if not model.setting), *called], FORGETTING)
    assert verdicts(ours) == verdicts(judge(made, FORGETTING))
    assert {one.claim.name: [c.paper for c in one.comparisons] for one in ours} == {
        one.claim.name: [c.paper for c in one.comparisons] for one in judge(made, FORGETTING)
    }


def test_of_two_settings_with_one_domain_and_regime_neither_is_taken() -> None:
    made = models({name: PRINTED[name] for name in ("code-cpt", "code-ift")})
    one = claim("code-cpt-order", [replace(model, role="code-cpt") if model.setting else model for model in made])
    assert one.verdict is OPEN
    assert "2 settings that are code-cpt (code-cpt, code-ift), one is needed" in one.sentence


Labels = dict[tuple[str, str], tuple[str, str]]


def relabelled(made: list[Model], labels: Labels) -> list[Model]:
    """Every (setting, method) called as `labels` say."""
    renamed = []
    for model in made:
        setting, method = labels.get((model.setting, model.method), (model.setting, model.method))
        kind, rank = model.kind, model.rank
        if model.kind != "base":
            kind, rank = ("full", 0) if method == "full" else ("lora", int(method.removeprefix("lora-r")))
        renamed.append(Model(**{**vars(model), "setting": setting, "method": method, "kind": kind, "rank": rank}))
    return renamed


def exchange(one: str, other: str, *where: str) -> Labels:
    return {(s, a): (s, b) for s in where for a, b in ((one, other), (other, one))}


RELABELLED: list[tuple[str, tuple[str, ...], tuple[str, ...], Labels]] = [
    ("learns-less", ("code-cpt",), ("lora-r8", "full"), exchange("lora-r8", "full", "code-cpt")),
    ("forgets-less", ("math-ift",), ("lora-r8", "full"), exchange("lora-r8", "full", "math-ift")),
    ("code-cpt-order", ("code-cpt",), ("lora-r2", "lora-r8", "full"), exchange("lora-r2", "full", "code-cpt")),
    ("code-ift-order", ("code-ift",), ("lora-r2", "lora-r8", "full"), exchange("lora-r2", "lora-r8", "code-ift")),
    ("forgetting-order", ("math-cpt",), ("lora-r2", "lora-r8", "full"), exchange("lora-r2", "full", "math-cpt")),
    (
        "ift-forgets-more",
        ("code-cpt", "code-ift"),
        ("lora-r8", "full"),
        {(a, m): (b, m) for m in ("lora-r8", "full") for a, b in (("code-cpt", "code-ift"), ("code-ift", "code-cpt"))},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "where", "methods", "labels"), RELABELLED, ids=[case[0] for case in RELABELLED])
@given(seed=st.integers(0, 2**32 - 1), gain=st.floats(0, 0.5), items=st.integers(20, 200))
@settings(max_examples=40, deadline=None)
def test_what_held_cannot_hold_under_other_labels(
    name: str, where: tuple[str, ...], methods: tuple[str, ...], labels: Labels, seed: int, gain: float, items: int
) -> None:
    generator = numpy.random.default_rng(seed)
    # later in the list learns more and forgets more, by anything from nothing to very much
    world: World = {
        setting: {
            method: ([0.2 + gain * place] * 3, [0.9 - gain * place] * 3)
            for place, method in enumerate(methods, start=late)
        }
        for late, setting in enumerate(where)
    }
    made = models(world, lambda mean, *_: (generator.random(items) < mean).astype(float))
    before, after = claim(name, made), claim(name, relabelled(made, labels))
    if before.verdict is HOLDS:
        assert after.verdict is not HOLDS
    # both have the same comparisons, some in another order, each with the other sign
    signs = [sorted(c.found.value for c in judged.comparisons if c.found) for judged in (before, after)]
    assert signs[0] == pytest.approx([-value for value in reversed(signs[1])])
    clear = [c.found is not None and c.found.lower(0.05 / 3) > 0 for c in before.comparisons if c.found]
    if all(clear):
        assert after.verdict is FAILS
        assert {c.verdict for c in after.comparisons if c.found} == {FAILS}


def test_a_better_trade_off_is_a_worse_one_under_other_labels() -> None:
    pair: World = {"code-ift": {method: PRINTED["code-ift"][method] for method in ("lora-r256", "full")}}
    made = models(pair)
    assert claim("forgets-less-at-equal-learning", made).verdict is HOLDS
    labels = exchange("lora-r256", "full", "code-ift")
    assert claim("forgets-less-at-equal-learning", relabelled(made, labels)).verdict is FAILS


def test_equality_seldom_seems_a_difference() -> None:
    """Full finetuning and LoRA with the same truth: the two title claims hold in about one study of twenty."""
    generator = numpy.random.default_rng(8)
    world: World = {"math-cpt": {method: ([0.4] * 2, [0.6] * 2) for method in ("full", "lora-r8")}}
    held = {"learns-less": 0, "forgets-less": 0}
    for _ in range(1000):
        made = models(world, lambda mean, *_: (generator.random(80) < mean).astype(float))
        for name, verdict in verdicts(judge(made, FORGETTING)).items():
            if name in held:
                held[name] += verdict is HOLDS
    assert all(0.03 < count / 1000 < 0.07 for count in held.values()), held


# -- durations, and what a study lacks ------------------------------------------------------------


def whats(made: list[Model]) -> dict[str, list[str]]:
    """What each claim's comparisons compare."""
    return {
        one.claim.name: [comparison.question.text for comparison in one.comparisons] for one in judge(made, FORGETTING)
    }


def test_durations_are_those_of_the_paper_where_a_study_has_them() -> None:
    compared = whats(models(PRINTED))
    assert compared["code-cpt-order"][0] == "full minus r=256, mean of 2B to 20B tokens"
    assert compared["code-cpt-lag"] == ["r=256 at 20B tokens minus full finetuning at 4B tokens"]
    assert compared["code-ift-order"][1] == "r=64 minus r=16, at 1 epoch"
    assert compared["code-ift-match"] == ["r=256 at 4 epochs minus full finetuning at 8 epochs"]
    assert compared["math-cpt-gap"][1] == (
        "full finetuning minus r=256, mean of 4B to 20B tokens, minus the same mean of 0.25B to 2B tokens"
    )
    assert compared["math-ift-match"][1] == "r=64 minus full finetuning, mean of 4 to 8 epochs"
    assert "at 0.25B tokens minus at 20B tokens, mean of all methods" in compared["forgetting-grows"]


def test_durations_of_another_study_stand_in_the_same_relation(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("code-cpt", "math-cpt"):
        monkeypatch.setitem(DURATIONS, setting, {f"{k}K tokens": k * 1e3 for k in (32, 64, 128, 256)})
    for setting in ("code-ift", "math-ift"):
        monkeypatch.setitem(DURATIONS, setting, {"1 epoch": 1.0, "2 epochs": 2.0, "4 epochs": 4.0})
    compared = whats(models(PRINTED))
    assert compared["code-cpt-order"][0] == "full minus r=256, mean of 32K to 256K tokens"
    assert compared["code-cpt-lag"] == ["r=256 at 256K tokens minus full finetuning at 64K tokens"]
    assert compared["code-ift-match"] == ["r=256 at 1 epoch minus full finetuning at 2 epochs"]
    assert compared["math-cpt-gap"][1].endswith("mean of 64K to 256K tokens, minus the same at 32K tokens")
    assert compared["math-ift-match"][1] == "r=64 minus full finetuning, mean of 1 to 2 epochs"


def test_the_nearest_duration_is_nearest_in_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of 100K is 20K: 8K above 12K, and 10K but only 1.5 times below 30K."""
    monkeypatch.setitem(DURATIONS, "code-cpt", {f"{k}K tokens": k * 1e3 for k in (12, 30, 100)})
    (what,) = whats(models({"code-cpt": PRINTED["code-cpt"]}))["code-cpt-lag"]
    assert what == "r=256 at 100K tokens minus full finetuning at 30K tokens"


def test_a_setting_that_is_not_there_leaves_open_what_is_about_it() -> None:
    world = {setting: methods for setting, methods in PRINTED.items() if setting != "math-ift"}
    found = {one.claim.name: one for one in judge(models(world), FORGETTING)}
    assert (found["math-ift-match"].verdict, found["math-ift-match"].sentence) == (
        OPEN,
        "The study has no setting math-ift.",
    )
    for name, there, lacking in (("ift-forgets-more", "code", "math"), ("code-forgets-more", "CPT", "IFT")):
        assert found[name].verdict is OPEN
        assert only(found[name], there).verdict is HOLDS
        assert only(found[name], lacking).found is None
        assert "the study has no setting math-ift" in found[name].sentence
    assert [comparison.question.name for comparison in found["learns-less"].comparisons] == list(world)
    assert found["learns-less"].verdict is HOLDS


def test_what_is_there_can_still_fail_a_claim() -> None:
    world = deepcopy({setting: methods for setting, methods in PRINTED.items() if setting != "math-ift"})
    shifted("code-ift", ALL, 1, 0.1)(world)
    assert claim("ift-forgets-more", models(world)).verdict is FAILS


def test_what_else_a_study_may_lack() -> None:
    without_full = {s: {m: c for m, c in methods.items() if m != "full"} for s, methods in PRINTED.items()}
    found = {one.claim.name: one for one in judge(models(without_full), FORGETTING)}
    assert found["code-ift-order"].verdict is HOLDS
    for name in ("learns-less", "forgets-less", "forgets-less-at-equal-learning", "code-cpt-lag", "math-ift-match"):
        assert found[name].verdict is OPEN
        assert "has no model of full finetuning" in found[name].sentence

    one_rank = {s: {m: methods[m] for m in ("full", "lora-r64")} for s, methods in PRINTED.items()}
    found = {one.claim.name: one for one in judge(models(one_rank), FORGETTING)}
    assert found["learns-less"].verdict is HOLDS
    for name in ("code-cpt-order", "code-ift-order", "math-ift-match", "forgetting-order"):
        assert "1 rank of LoRA, 2 are needed" in found[name].sentence

    short = {s: {m: (curve[0][:1], curve[1][:1]) for m, curve in ms.items()} for s, ms in PRINTED.items()}
    found = {one.claim.name: one for one in judge(models(short), FORGETTING)}
    assert "has too few durations" in found["code-cpt-lag"].sentence
    assert "has no duration below a fifth" in found["math-cpt-gap"].sentence
    assert "has no duration from 0.25 to 0.5 of its longest" in found["math-ift-match"].sentence
    assert "has one duration, two are needed" in found["forgetting-grows"].sentence

    baseless = [model for model in models(PRINTED) if model.kind != "base"]
    assert "the base model was not asked" in claim("forgets-less-at-equal-learning", baseless).sentence


def test_methods_of_one_rank_are_that_rank() -> None:
    """Two adapters of rank 16, of which the mean is what the one had."""
    world = deepcopy(PRINTED)
    made = models(world)
    twins = [
        Model(**{**vars(m), "method": f"lora-r16-{name}", "scores": {t: s + by for t, s in m.scores.items()}})
        for name, by in (("mlp", 0.01), ("all", -0.01))
        for m in made
        if m.method == "lora-r16"
    ]
    doubled = [model for model in made if model.method != "lora-r16"] + twins
    both = (claim("code-cpt-order", study).comparisons for study in (made, doubled))
    for before, after in zip(*both, strict=True):
        assert before.found is not None
        assert after.found is not None
        assert after.found.value == pytest.approx(before.found.value)


# -- the CSV and the page -------------------------------------------------------------------------


def source(**different: Any) -> claims.JudgedStudy:
    facts: dict[str, Any] = {
        "study": "tiny", "title": "A study: made by hand", "model": "tiny Llama", "scale": "demo",
        "forgetting": FORGETTING, "models": 104, "seeds": 1, "items": {"hellaswag": 40, "gsm8k": 40},
        "fingerprint": "0123456789ab", "commit": "abc1234",
    }  # fmt: skip
    return claims.JudgedStudy(**{**facts, **different})


def judged_with_noise(amplitude: float = 0.2) -> list[Judged]:
    """Some of everything: holds, does not hold, cannot be said."""
    world = deepcopy(PRINTED)
    shifted("math-ift", ALL, 1, 0.15)(world)
    del world["code-ift"]
    judged = judge(models(world, noisy(numpy.random.default_rng(4), amplitude)), FORGETTING)
    assert set(verdicts(judged).values()) == set(Verdict)
    return judged


def test_every_comparison_has_a_row() -> None:
    judged = judged_with_noise()
    rows = claims.rows(judged, source())
    assert len(rows) == sum(len(one.comparisons) for one in judged)
    assert {row["claim"] for row in rows} == {claim.name for claim in CLAIMS}
    for row in rows:
        assert set(row) <= set(claims.COLUMNS)
        assert (row["study"], row["model"], row["scale"]) == ("tiny", "tiny Llama", "demo")
        assert row["comparison_verdict"] in set(Verdict)
        assert row["reason"]
        if "estimate" in row:
            assert float(row["lower"]) < float(row["estimate"]) < float(row["upper"])
            assert float(row["stderr"]) == float(row["stderr_items"])
            assert (row["stderr_seeds"], row["seeds"]) == ("", 1)
            assert re.fullmatch("[0-9a-f]{12}", row["fingerprint"])
    of = {(row["claim"], row["comparison"]): row for row in rows}
    # 3 ranks and full finetuning, 8 durations; one comparison of the three is tested at a third of 5 %
    assert of["learns-less", "code-cpt"]["models"] == 32
    assert float(of["learns-less", "code-cpt"]["level"]) == pytest.approx(0.05 / 3)
    assert (of["forgetting-grows", "math-cpt"]["items"], of["learns-less", "code-cpt"]["items"]) == (120, 40)
    assert "estimate" not in of["ift-forgets-more", "code"]


def test_the_page_says_what_it_is_about() -> None:
    judged = judged_with_noise()
    page = claims.page(judged, source())
    for fact in ("tiny: A study: made by hand", "tiny Llama", "104", "hellaswag 40", "0123456789ab", "abc1234"):
        assert fact in page
    assert "no evidence for or against the paper" in page.replace("\n> ", " ")
    assert "One seed: the spread over seeds is not known" in page
    assert "items only: one seed" in page
    three = claims.page(judge(models(PRINTED, seeds=3), FORGETTING), source(seeds=3, scale="paper"))
    assert "One seed" not in three
    assert "no evidence" not in three


def test_the_page_has_every_verdict_and_every_number() -> None:
    judged = judged_with_noise()
    page = claims.page(judged, source())
    headings = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    for one in judged:
        assert f"| **{one.verdict}** | {one.sentence} |" in page
        # GitHub makes an anchor of a heading: lower case, hyphens for spaces
        assert f"(#{one.claim.title.lower().replace(' ', '-')})" in page
        assert one.claim.title in headings
        assert re.fullmatch(r"[A-Za-z ]+", one.claim.title)
        for comparison in one.comparisons:
            if comparison.found:
                start = f"| **{comparison.question.name}**: {comparison.question.text} |"
                (line,) = [row for row in page.splitlines() if row.startswith(start)]
                assert f"{abs(comparison.found.value):.3f}".lstrip("0") in line
                assert f"{comparison.found.stderr:.3f}".lstrip("0") in line
                assert comparison.paper in line


def test_what_cannot_be_said_is_said_with_what_could_have_been_found() -> None:
    one = claim("math-cpt-gap", models(PRINTED, noisy(numpy.random.default_rng(5), 0.4)))
    assert one.verdict is OPEN
    found = only(one, "opening").found
    assert found is not None
    reason = only(one, "opening").reason
    assert reason.startswith(f"+.{round(found.value * 1000):03d} ± .{round(found.stderr * 1000):03d}")
    assert f".{round(found.detectable * 1000):03d} or more would be found" in reason


@pytest.mark.parametrize(
    ("value", "text"), [(0.0131, "+.013"), (-0.5, "\u2212.500"), (0.0001, ".000"), (1.2, "+1.200")]
)
def test_numbers_are_written_like_the_papers(value: float, text: str) -> None:
    assert claims.signed(value) == text


# -- from the store -------------------------------------------------------------------------------


def filled(store: Path, leave_out: str = "") -> tuple[Launch, dict[str, list[float]]]:
    """A store with the evaluations of the smoke study, and the scores in them by evaluation."""
    launch = launch_by_hand("smoke", str(store))
    scores: dict[str, list[float]] = {}
    generator = numpy.random.default_rng(6)
    for condition in launch.grid.conditions("grid"):
        for task, key in condition.evaluations.items():
            if key == leave_out or "loss" in task:
                continue
            right = [float(score) for score in generator.integers(0, 2, 12)]
            scores[key] = right

            def build(out: Path, right: list[float] = right) -> dict[str, Any]:
                lines = [{"item": item, "acc": 1 - score, "hit": score} for item, score in enumerate(right)]
                # items in any order: they are matched by their number
                write_samples([lines[item] for item in generator.permutation(len(lines))], out)
                return {"metric": "hit", "value": 0.0, "items": len(right)}

            launch.store.make(launch.grid.products[key], build, {})
    return launch, scores


def test_from_the_store_to_both_files(tmp_path: Path) -> None:
    launch, scores = filled(tmp_path / "store")
    table, text = tmp_path / "results" / "claims.csv", tmp_path / "results" / "claims.md"
    command = [sys.executable, "-m", "scripts.artifacts.claims", "--csv", str(table), "--md", str(text)]
    subprocess.run([*command, "--study", "smoke", "--store", str(tmp_path / "store")], check=True)
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = {(row["claim"], row["comparison"]): row for row in reader}
        assert tuple(reader.fieldnames or ()) == claims.COLUMNS

    def mean(method: str, setting: str, task: str) -> FloatArray:
        """Over durations, of each item."""
        those = [c for c in launch.grid.conditions("grid") if (c.setting, c.method) == (setting, method)]
        return numpy.mean([scores[c.evaluations[task]] for c in those], axis=0)

    learned = mean("full", "math-ift", "gsm8k") - mean("lora-r2", "math-ift", "gsm8k")
    row = rows["learns-less", "math-ift"]
    assert float(row["estimate"]) == pytest.approx(learned.mean())
    assert float(row["stderr"]) == pytest.approx(stats.sem(learned))
    kept = [mean("lora-r2", "code-cpt", task) - mean("full", "code-cpt", task) for task in FORGETTING]
    row = rows["forgets-less", "code-cpt"]
    assert float(row["estimate"]) == pytest.approx(numpy.mean(kept))
    assert float(row["stderr"]) == pytest.approx(numpy.hypot.reduce([stats.sem(one) for one in kept]) / 3)
    assert rows["learns-less", "math-ift"]["what"].endswith("mean of 1 to 2 epochs")
    assert rows["code-ift-order", "all"]["reason"] == "the study has no setting code-ift"
    page = text.read_text(encoding="utf-8")
    assert "smoke: Smoke study" in page
    assert "| trained models | 8, and the base model |" in page
    assert "winogrande 12" in page


def test_a_study_of_ones_own_is_silent_on_what_it_has_not(tmp_path: Path) -> None:
    launch, _ = filled(tmp_path / "store")
    own = replace(launch, study={**launch.study, "scale": "own"})
    claims.main(own, tmp_path / "claims.csv", tmp_path / "claims.md")
    page = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert "LoRA learns less" in page
    assert "has no setting" not in page
    assert "not measured" not in page
    assert "demo" not in page.lower().replace("smoke study: the demo's path", "")


def test_a_missing_evaluation_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    launch = launch_by_hand("smoke", str(tmp_path / "store"))
    missing = launch.grid.conditions("grid")[-1].evaluations["winogrande"]
    filled(tmp_path / "store", leave_out=missing)
    with pytest.raises(UserError, match=re.escape(missing)):
        claims.main(launch, tmp_path / "claims.csv", tmp_path / "claims.md")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
