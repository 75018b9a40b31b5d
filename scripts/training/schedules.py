"""Learning-rate multipliers as pure functions of the step, so that a resumed run needs no scheduler state.

`step` counts batches from 0. The batch `step` is trained with `learning_rate * multiplier(schedule, step)`,
which is the convention of torch and transformers; with a warmup the first batch has a multiplier of 0.
"""

import math
from collections.abc import Mapping
from typing import Any

from scripts.common.errors import UserError


def multiplier(schedule: Mapping[str, Any], step: int) -> float:
    """The factor on the peak learning rate, in [0, 1], for the batch with index `step`.

    `trapezoid` is llm-foundry's `inv_sqrt_with_warmup` with alpha_f_decay = 1 (paper, appendix A): linear
    warmup, constant, linear cooldown to 0. With `batches` or `cooldown_batches` None it is a trunk, which never
    cools down. A branch that is so short that its cooldown begins before the trunk's warmup is over cools down from
    what was reached (`short_branch` "from_reached", or absent); with "warmup_only" it follows llm-foundry's formula
    as it stands, which puts the start of the cooldown off to the end of the warmup, so that a branch within the
    warmup never cools down.

    `cosine` is Composer's `cosine_with_warmup`: from the end of the warmup down to `final_fraction`.

    `lag` (absent: 0) is by how many batches both come late. With 1 the batch b has the factor of b - 1, and the
    first two batches that of 0: Composer asks its schedulers before it counts the batch.
    """
    step = max(0, step - schedule.get("lag", 0))
    if schedule["name"] == "trapezoid":
        batches, cooldown = schedule["batches"], schedule["cooldown_batches"]
        short_branch = schedule.get("short_branch", "from_reached")
        return _trapezoid(step, schedule["warmup_batches"], batches, cooldown, short_branch)
    if schedule["name"] == "cosine":
        return _cosine(step, schedule["batches"], schedule["warmup_fraction"], schedule["final_fraction"])
    raise UserError(f"The schedule {schedule['name']!r} is unknown; allowed are trapezoid and cosine.")


def _trapezoid(step: int, warmup: int, batches: int | None, cooldown: int | None, short_branch: str) -> float:
    if batches is None or not cooldown:
        return _warmup(step, warmup)
    start = batches - cooldown
    if short_branch == "warmup_only":
        start = max(warmup, start)
    elif short_branch != "from_reached":
        raise UserError(f"The short_branch {short_branch!r} is unknown; allowed are from_reached and warmup_only.")
    if step < start:
        return _warmup(step, warmup)
    return _warmup(start, warmup) * max(0.0, (start + cooldown - step) / cooldown)


def _cosine(step: int, batches: int, warmup_fraction: float, final_fraction: float) -> float:
    warmup = int(warmup_fraction * batches)  # Composer truncates
    if step < warmup:
        return step / warmup
    position = min(1.0, (step - warmup) / (batches - warmup))
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * position)) / 2


def _warmup(step: int, warmup: int) -> float:
    return 1.0 if step >= warmup else step / warmup
