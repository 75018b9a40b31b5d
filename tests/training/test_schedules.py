"""Both schedules against closed forms written another way, and against transformers'."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_wsd_schedule

from scripts.common.errors import UserError
from scripts.training.schedules import multiplier

pytestmark = pytest.mark.arithmetic


def trapezoid(warmup: int, batches: int | None, cooldown: int | None) -> dict:
    return {
        "name": "trapezoid",
        "warmup_batches": warmup,
        "batches": batches,
        "cooldown_batches": cooldown,
    }


def cosine(batches: int, warmup_fraction: float = 0.1, final_fraction: float = 0.01) -> dict:
    return {
        "name": "cosine",
        "batches": batches,
        "warmup_fraction": warmup_fraction,
        "final_fraction": final_fraction,
    }


@given(st.integers(1, 50), st.integers(0, 100), st.integers(1, 50))
def test_trapezoid_interpolates_its_corners(warmup: int, flat: int, cooldown: int) -> None:
    batches = warmup + flat + cooldown
    expected = np.interp(range(batches + 1), [0, warmup, batches - cooldown, batches], [0, 1, 1, 0])
    schedule = trapezoid(warmup, batches, cooldown)
    assert [multiplier(schedule, step) for step in range(batches + 1)] == pytest.approx(expected, abs=1e-12)


@given(st.integers(2, 60), st.data())
def test_cooldown_inside_warmup_goes_from_what_was_reached_to_zero(warmup: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, warmup - 1))
    cooldown = data.draw(st.integers(1, 30))
    steps = range(start + cooldown + 1)
    expected = np.interp(steps, [0, start, start + cooldown], [0, start / warmup, 0]) if start else 0 * np.array(steps)
    schedule = trapezoid(warmup, start + cooldown, cooldown)
    assert [multiplier(schedule, step) for step in steps] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("batches", "cooldown"), [(None, None), (100, None), (None, 20)])
def test_trunk_stays_up(batches: int | None, cooldown: int | None) -> None:
    schedule = trapezoid(10, batches, cooldown)
    assert [multiplier(schedule, step) for step in (0, 5, 10, 99, 10**6)] == [0, 0.5, 1, 1, 1]


def test_trunk_and_branch_agree_until_the_cooldown() -> None:
    for step in range(81):
        assert multiplier(trapezoid(10, None, None), step) == multiplier(trapezoid(10, 100, 20), step)


def foundry(step: int, warmup: int, batches: int, cooldown: int) -> float:
    """`InverseSquareRootWithWarmupScheduler`, alpha_f_decay = 1 (llmfoundry/optim/scheduler.py), term by term."""
    cooldown_start = max(warmup, batches - cooldown)
    if step < warmup:
        return min(1.0, step / warmup)
    if step < cooldown_start:
        return 1.0
    return 1.0 + min(1.0, (step - cooldown_start) / cooldown) * (0.0 - 1.0)


@given(st.integers(1, 60), st.integers(1, 120), st.data())
def test_warmup_only_is_llm_foundrys_formula_as_it_stands(warmup: int, batches: int, data: st.DataObject) -> None:
    cooldown = data.draw(st.integers(1, batches))
    schedule = {**trapezoid(warmup, batches, cooldown), "short_branch": "warmup_only"}
    expected = [foundry(step, warmup, batches, cooldown) for step in range(batches)]
    assert [multiplier(schedule, step) for step in range(batches)] == pytest.approx(expected, abs=1e-12)


def test_the_papers_quarter_billion_branch_never_leaves_the_warmup() -> None:
    schedule = {**trapezoid(1000, 318, 64), "short_branch": "warmup_only"}
    assert [multiplier(schedule, step) for step in (0, 254, 317)] == [0, 0.254, 0.317]


def test_warmup_only_changes_no_branch_that_is_long_enough() -> None:
    plain = trapezoid(10, 100, 20)
    for step in range(100):
        assert multiplier({**plain, "short_branch": "warmup_only"}, step) == multiplier(plain, step)


@pytest.mark.parametrize("schedule", [trapezoid(10, 40, 8), trapezoid(10, None, None), cosine(40), cosine(40, 0.0)])
def test_a_lag_of_one_is_composers_late_batch(schedule: dict) -> None:
    on_time = [multiplier(schedule, step) for step in range(40)]
    late = [multiplier({**schedule, "lag": 1}, step) for step in range(41)]
    assert late == [on_time[0], *on_time]


def test_no_warmup_starts_at_the_peak() -> None:
    assert multiplier(trapezoid(0, 10, 2), 0) == 1
    assert multiplier(cosine(10, warmup_fraction=0.0), 0) == 1


@given(st.integers(1, 400), st.floats(0, 0.9), st.floats(0, 1))
def test_cosine_is_a_squared_half_angle(batches: int, warmup_fraction: float, final: float) -> None:
    schedule = cosine(batches, warmup_fraction, final)
    warmup = math.floor(batches * warmup_fraction)
    for step in {0, 1, warmup - 1, warmup, batches // 2, batches - 1, batches, batches + 3} - {-1}:
        if step < warmup:
            expected = step / warmup
        else:
            angle = math.pi / 2 * min(1, (step - warmup) / (batches - warmup))
            expected = final + (1 - final) * math.cos(angle) ** 2
        assert multiplier(schedule, step) == pytest.approx(expected, abs=1e-12)


def rates(make_scheduler, steps: int) -> list[float]:
    """The rates of torch's scheduler for a peak of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_the_papers_trapezoid_equals_transformers() -> None:
    expected = rates(
        lambda optimizer: get_wsd_schedule(
            optimizer,
            num_warmup_steps=1000,
            num_decay_steps=5086,
            num_training_steps=25431,
            warmup_type="linear",
            decay_type="linear",
            min_lr_ratio=0,
        ),
        25431,
    )
    schedule = trapezoid(1000, 25431, 5086)
    assert [multiplier(schedule, step) for step in range(25431)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("batches", [193, 386, 3088])
def test_the_papers_cosine_equals_transformers(batches: int) -> None:
    expected = rates(
        lambda optimizer: get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, num_warmup_steps=int(0.1 * batches), num_training_steps=batches, min_lr_rate=0.01
        ),
        batches,
    )
    assert [multiplier(cosine(batches), step) for step in range(batches)] == pytest.approx(expected, abs=1e-12)


def test_unknown_schedule() -> None:
    with pytest.raises(UserError, match="'linear' is unknown; allowed are trapezoid and cosine"):
        multiplier({"name": "linear"}, 0)


def test_unknown_short_branch() -> None:
    with pytest.raises(UserError, match="'never' is unknown; allowed are from_reached and warmup_only"):
        multiplier({**trapezoid(10, 20, 4), "short_branch": "never"}, 0)
