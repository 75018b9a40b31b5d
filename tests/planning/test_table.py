"""The plan's numbers, against sums by hand and bounds that hold for every schedule."""

import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.common.files import read_yaml
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES
from scripts.launch.launch import Launch, launch_by_hand, new_launch
from scripts.launch.missing import Missing
from scripts.plan.product import PLACES, Key, Product
from scripts.planning import table
from scripts.planning.estimate import Estimate
from scripts.planning.table import STAGES, Amount, Job, Machine, Plan, most_at_once, plan_of, starts

CLUSTER = Machine(200, "200 jobs at a time", is_cluster=True)
LAPTOP = Machine(2, "a job on each of 2 cores", is_cluster=False)


@pytest.fixture
def smoke(tmp_path: Path) -> Launch:
    return new_launch("smoke", str(tmp_path / "store"), "condition")


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return launch_by_hand("paper", str(tmp_path_factory.mktemp("paper")))


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Hours of every job, by the kind of its product; of a family, those of what its job makes."""
    of_kind: dict[str, float] = {}

    def seconds(estimate: Estimate, product: Product, made: set[str]) -> float:
        members = [estimate.grid.products[key] for key in product.members if key not in made] or [product]
        return 3600 * math.fsum(of_kind.get(member.kind, 0.0) for member in members)

    monkeypatch.setattr(Estimate, "seconds", seconds)
    return of_kind


def everything(launch: Launch) -> list[Key]:
    """The evaluations of the main grid, as figure 2 asks for them."""
    return [key for condition in launch.grid.conditions("grid") for key in condition.evaluations.values()]


def planned(launch: Launch, machine: Machine, asked: list[Key]) -> Plan:
    """The plan of what is missing, and one figure that waits for all of it."""
    grid, now = launch.grid, Missing(launch.grid, launch.store)
    keys = now.behind(now.jobs("grid", asked))
    place = {key: index for index, key in enumerate(keys)}
    jobs = [Job(grid.products[key], tuple(place[other] for other in now.before(key))) for key in keys]
    nothing = Missing(grid, ())
    whole = [grid.products[key] for key in nothing.behind(nothing.jobs("grid", asked))]
    return plan_of(Estimate(grid, launch.store), [*jobs, Job(None, tuple(range(len(jobs))))], whole, machine)


def test_tokens_and_gpu_hours_of_a_family_of_the_paper(paper: Launch, hours: dict[str, float]) -> None:
    """Batches of 192 rows of 4096: leg ends at 254, 508, ... 16256, and a branch from the last before 80 % of each."""
    hours |= {"leg": 2.0, "run": 0.5, "evaluation": 0.25, "samples": 0.125}
    family = [c for c in paper.grid.conditions("grid", "code-cpt") if c.method == "full"]
    plan = planned(paper, CLUSTER, [key for condition in family for key in condition.evaluations.values()])
    ends = [254 * 2**power for power in range(7)]
    batches = [round(tokens / (192 * 4096)) for tokens in (0.25e9, 0.5e9, 1e9, 2e9, 4e9, 8e9, 16e9, 20e9)]
    branches = sum(end - max(leg for leg in ends if leg <= end - round(0.2 * end)) for end in batches)
    assert plan.stages["training"].tokens == 192 * 4096 * (ends[-1] + branches)
    assert plan.stages["training"].jobs == 7 + 8
    assert plan.stages["training"].gpu_hours == pytest.approx(32 * (7 * 2.0 + 8 * 0.5))  # 4 nodes of 8
    # each model is asked three tasks of language understanding, and writes programs that are judged without a GPU
    assert plan.stages["evaluation"] == Amount(8 * 4, pytest.approx(8 * (3 * 0.25 + 0.125)))
    assert plan.stages["judging"] == Amount(8, 0.0, pytest.approx(8 * 0.25 * 32))
    assert plan.groups["code-cpt full"].jobs == 7 + 8 + 8 * 5
    assert plan.total.jobs == sum(plan.stages[name].jobs for name in plan.stages)
    # seven legs one after another, of which the last has the longest branch behind it, and evaluations after that
    assert plan.wall_seconds == pytest.approx(3600 * (7 * 2.0 + 0.5 + 0.125 + 0.25) + 1)


def test_the_total_is_the_sum_of_the_stages(smoke: Launch) -> None:
    plan = planned(smoke, LAPTOP, everything(smoke))
    assert set(plan.stages) <= set(STAGES)
    for name in ("jobs", "gpu_hours", "cpu_hours", "tokens"):
        assert getattr(plan.total, name) == pytest.approx(math.fsum(getattr(c, name) for c in plan.stages.values()))
        measured = ("training", "evaluation", "judging", "spectra")
        of_models = math.fsum(getattr(plan.stages[stage], name) for stage in measured if stage in plan.stages)
        assert of_models == pytest.approx(math.fsum(getattr(cost, name) for cost in plan.groups.values()))
    # each setting and method is trained once; and the base model is asked
    assert set(plan.groups) == {
        "the base model",
        *(f"{c.setting} {c.method}" for c in smoke.grid.conditions("grid") if c.setting),
    }


def test_a_cluster_gives_the_cpus_that_jobs_ask_for(smoke: Launch, hours: dict[str, float]) -> None:
    hours |= {"rows": 1.0, "records": 1.0}
    alone, shared = (planned(smoke, machine, everything(smoke)).stages["data"] for machine in (LAPTOP, CLUSTER))
    keys = Missing(smoke.grid, ())
    kinds = Counter(smoke.grid.products[key].kind for key in keys.behind(keys.jobs("grid", everything(smoke))))
    assert alone.cpu_hours == pytest.approx(kinds["rows"] + kinds["records"])
    # records are read where Snakemake runs
    assert shared.cpu_hours == pytest.approx(2 * kinds["rows"] + kinds["records"])


@pytest.mark.parametrize("grain", ["condition", "family"])
def test_what_the_store_has_is_subtracted_and_said(tmp_path: Path, grain: str, hours: dict[str, float]) -> None:
    hours |= {"records": 0.5, "rows": 1.0, "leg": 3.0, "run": 2.0, "evaluation": 0.25, "samples": 0.125}
    launch = new_launch("smoke", str(tmp_path / "store"), grain)
    asked = everything(launch)
    before = planned(launch, CLUSTER, asked)
    assert before.in_store == Amount()
    products = [product for product in launch.grid if not product.members]
    made = products[: len(products) // 2]
    for product in made:
        launch.store.make(product, lambda out: {}, {})
    after = planned(launch, CLUSTER, asked)
    assert 0 < after.total.jobs < before.total.jobs
    assert after.in_store
    assert after.in_store.jobs == before.total.jobs - after.total.jobs
    if grain == "condition":
        nothing = Missing(launch.grid, ())
        needed = set(nothing.behind(nothing.jobs("grid", asked)))
        assert after.in_store.jobs == len({product.key for product in made} & needed)
    assert after.in_store.cpu_hours > 0
    for name in ("gpu_hours", "cpu_hours", "tokens"):
        assert getattr(after.in_store, name) == pytest.approx(
            getattr(before.total, name) - getattr(after.total, name), abs=1e-12
        )
    (line,) = (line for line in table.lines(after, launch.store.root) if line.startswith("In the store"))
    assert f": {after.in_store.jobs} jobs, " in line


# -- wall time -----------------------------------------------------------------------------------------------------


def wall_seconds(durations: list[float], after: list[tuple[int, ...]], at_once: int) -> float:
    begun = starts(durations, after, at_once)
    return max((start + duration for start, duration in zip(begun, durations, strict=True)), default=0)


def test_wall_time_by_hand() -> None:
    assert wall_seconds([], [], 1) == 0
    chain: list[tuple[int, ...]] = [(), (0,), (1,)]
    assert wall_seconds([1, 2, 3], chain, 5) == 6
    assert wall_seconds([3, 3, 3, 3], [()] * 4, 2) == 6
    # a diamond: 1, then 5 beside 2 + 2, then 1
    diamond: list[tuple[int, ...]] = [(), (0,), (0,), (2,), (1, 3)]
    assert wall_seconds([1, 5, 2, 2, 1], diamond, 2) == 7
    assert wall_seconds([1, 5, 2, 2, 1], diamond, 1) == 11
    # a job that waits twice for one other waits once
    assert wall_seconds([1, 1], [(), (0, 0)], 2) == 2


def test_gpus_at_once_by_hand() -> None:
    """Two jobs of 8 and 4 side by side; the third takes the place of the first, with no moment in which both count."""
    assert most_at_once([], [], []) == 0
    assert most_at_once([0, 0, 2], [2, 5, 3], [8, 4, 8]) == 12
    assert most_at_once([0, 2], [2, 2], [8, 8]) == 8


@given(st.data(), st.integers(1, 5))
def test_wall_time_is_within_graham_s_bounds(data: Any, at_once: int) -> None:
    """Graham (1966): list scheduling takes no more than work / m + (1 - 1/m) of the longest chain."""
    durations = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    after = [
        tuple(data.draw(st.sets(st.integers(0, job - 1), max_size=3))) if job else () for job in range(len(durations))
    ]
    chain: list[int] = []
    for own, before in zip(durations, after, strict=True):
        chain.append(own + max((chain[other] for other in before), default=0))
    longest, work = max(chain), sum(durations)
    begun = starts(durations, after, at_once)
    assert all(begun[job] >= begun[other] + durations[other] for job in range(len(after)) for other in after[job])
    assert most_at_once(begun, durations, [1] * len(durations)) <= at_once
    found = wall_seconds(durations, after, at_once)
    assert max(longest, work / at_once) <= found <= work / at_once + (1 - 1 / at_once) * longest + 1e-9
    assert wall_seconds(durations, after, 1) == work
    assert wall_seconds(durations, after, len(durations)) == longest


# -- as text -------------------------------------------------------------------------------------------------------


def test_lines_say_what_is_downloaded_and_not_locked_and_the_money(
    paper: Launch, tmp_path: Path, hours: dict[str, float]
) -> None:
    priced = paper.study["resources"] | {"gpu_hour_price": {"amount": 2.5, "currency": "USD"}}
    launch = replace(paper, study=paper.study | {"resources": priced})
    hours |= {"leg": 2.0, "run": 1.0, "evaluation": 0.125, "samples": 0.125}
    plan = planned(launch, CLUSTER, everything(launch))
    text = table.lines(plan, tmp_path)
    assert f"Money: {2.5 * plan.total.gpu_hours:,.0f} USD, at 2.5 USD a GPU-hour." in text
    (fetched,) = (line for line in text if line.startswith("Downloads: "))
    # Llama-2-7B, the chat model's tokenizer, and data: 4 to train on, 2 benchmarks of the hub and 3 for language
    named = {one.identity: one for one in plan.downloads}
    assert named["model:meta-llama/Llama-2-7b-hf"].bytes == 2 * 6_738_415_616
    assert named["model:meta-llama/Llama-2-7b-hf"].gated
    metamath = named["dataset:meta-math/MetaMathQA"]
    assert (metamath.bytes, metamath.gated, metamath.licence) == (None, False, None)
    assert "13.5 GB of model:meta-llama/Llama-2-7b-hf" in fetched
    assert f"the size of the other {len(named) - 1} is not known" in fetched
    assert (
        "Terms to be accepted first, on its page: dataset:bigcode/starcoderdata, model:meta-llama/Llama-2-7b-hf."
        in text
    )
    (licences,) = (line for line in text if line.startswith("Licences: "))
    assert "MIT (dataset:Rowan/hellaswag, dataset:cais/mmlu and 2 more); " in licences
    # the chat model's, for its tokenizer
    assert "Llama 2 Community License (model:meta-llama/Llama-2-7b-chat-hf, model:meta-llama/Llama-2-7b-hf)" in licences
    unknown = [one.identity for one in plan.downloads if one.licence is None]
    assert licences.endswith(f"; not known of {unknown[0]}, {unknown[1]} and {len(unknown) - 2} more.")
    (unlocked,) = (line for line in text if line.startswith("Not locked: "))
    assert "scripts.data.lock --study paper`" in unlocked
    assert set(plan.unlocked) <= set(named)
    assert all(not identity.startswith("package:") for identity in plan.unlocked)
    assert len(text) < 40


def test_licences_are_of_what_the_lock_can_name() -> None:
    patterns = read_yaml(table.LICENCES)
    assert list(patterns) == sorted(patterns, key=str.casefold)
    for pattern in patterns:
        kind, _, name = pattern.partition(":")
        (entry,) = (
            choice.entry
            for choice in (*SOURCES.values(), *MODELS.values())
            if choice.entry and choice.entry.kind == kind
        )
        assert kind in ("dataset", "model", "package", "gguf")
        assert entry.can_be_named(name) or kind == "gguf"


def test_the_dearest_are_shown_and_the_others_in_one_line(
    paper: Launch, tmp_path: Path, hours: dict[str, float]
) -> None:
    hours |= {"leg": 2.0, "run": 1.0}
    plan = planned(paper, CLUSTER, everything(paper))
    text = table.lines(plan, tmp_path)
    head = next(index for index, line in enumerate(text) if line.startswith("What is trained"))
    rows = text[head + 2 : text.index("", head)]
    assert len(rows) == 9
    shown = [" ".join(row.split()[:2]) for row in rows[:-1]]
    assert shown == sorted(f"{setting} {method}" for setting, method in itertools.product(
        ("code-cpt", "math-cpt"), ("full", "lora-r16", "lora-r64", "lora-r256")
    ))  # fmt: skip
    assert rows[-1].startswith(f"and {len(plan.groups) - 8} more ")
    totals = [float(row.split()[-3].replace(",", "")) for row in rows]
    assert sum(totals) == pytest.approx(plan.stages["training"].gpu_hours, rel=1e-3)


def test_nothing_is_said_of_what_is_not_there(smoke: Launch) -> None:
    text = "\n".join(table.lines(planned(smoke, LAPTOP, everything(smoke)), smoke.store.root))
    assert not re.search("Money|Downloads|Not locked|Budget", text)


@pytest.mark.parametrize(
    ("tokens", "text"), [(5, "5"), (999, "999"), (32_000, "32K"), (999_600, "1M"), (329.4e9, "329B"), (1.5e12, "1.5T")]
)
def test_spoken_tokens(tokens: float, text: str) -> None:
    assert table.spoken_tokens(tokens) == text


@pytest.mark.parametrize(
    ("hours_", "text"), [(10321.24, "10,321.2"), (9.96, "10.0"), (0.0567, "0.06"), (1e-4, "<0.01")]
)
def test_spoken_hours(hours_: float, text: str) -> None:
    assert table.spoken_hours(hours_) == text


def test_stages_cover_every_kind(paper: Launch, tmp_path: Path) -> None:
    kinds = {product.kind: product for product in paper.grid}
    kinds |= {product.kind: product for product in launch_by_hand("released", str(tmp_path)).grid}
    assert set(PLACES) == set(kinds)
    assert {table.stage(product) for product in kinds.values()} | {"judging", "figures"} == set(STAGES)
