"""Learning-rate multipliers as pure functions of the step, so that a resumed run needs no scheduler state.

`step` counts batches from 0. The batch `step` is trained with `learning_rate * multiplier(schedule, step)`,
which is the convention of torch and transformers; with a warmup the first batch has a multiplier of 0.
"""

import math
from collections.abc import Mapping
from typing import Any

from scripts.study.errors import UserError


def multiplier(schedule: Mapping[str, Any], step: int) -> float:
    """The factor on the peak learning rate, in [0, 1], for the batch with index `step`.

    `trapezoid` is llm-foundry's `inv_sqrt_with_warmup` with alpha_f_decay = 1 (paper, appendix A): linear
    warmup, constant, linear cooldown to 0. With `batches` or `cooldown_batches` None it is a trunk, which never
    cools down. `cosine` is Composer's `cosine_with_warmup`: from the end of the warmup down to `final_fraction`.
    """
    if schedule["name"] == "trapezoid":
        return _trapezoid(step, schedule["warmup_batches"], schedule["batches"], schedule["cooldown_batches"])
    if schedule["name"] == "cosine":
        return _cosine(step, schedule["batches"], schedule["warmup_fraction"], schedule["final_fraction"])
    raise UserError(f"The schedule {schedule['name']!r} is unknown; allowed are trapezoid and cosine.")


def _trapezoid(step: int, warmup: int, batches: int | None, cooldown: int | None) -> float:
    if batches is None or not cooldown or step < batches - cooldown:
        return _warmup(step, warmup)
    # A short branch may start its cooldown before the trunk's warmup is over. llm-foundry's formula would
    # never leave warmup then; here the cooldown starts from the multiplier that was reached.
    start = batches - cooldown
    return _warmup(start, warmup) * max(0.0, (batches - step) / cooldown)


def _cosine(step: int, batches: int, warmup_fraction: float, final_fraction: float) -> float:
    warmup = int(warmup_fraction * batches)  # Composer truncates
    if step < warmup:
        return step / warmup
    position = min(1.0, (step - warmup) / (batches - warmup))
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * position)) / 2


def _warmup(step: int, warmup: int) -> float:
    return 1.0 if step >= warmup else step / warmup
