"""A launch above the site's threshold is started only with a budget, which its plan says how to give."""

import math
from collections.abc import Sequence

from scripts.common.commands import snakemake_again
from scripts.common.errors import UserError
from scripts.launch.launch import Launch
from scripts.launch.site import SITE, VARIABLE

KEY = "budget_gpu_hours"
"""Of `--config`: GPU-hours that a launch may take at most."""


def require_confirmed(launch: Launch, hours: float, budget: float | None, words: Sequence[str]) -> None:
    """Raises UserError where a launch has to be given a budget and has none; see `unconfirmed`."""
    if reason := unconfirmed(launch, hours, budget, words):
        raise UserError(f"{reason}; nothing was started")


def unconfirmed(launch: Launch, hours: float, budget: float | None, words: Sequence[str]) -> str | None:
    """Why a launch has to be given a budget, and the command that does so; None where it needs none or has one.

    Args:
        launch: its site may have a threshold, `confirm_gpu_hours`.
        hours: GPU-hours of the plan.
        budget: what `--config` says of `KEY`; whether it is enough, `cluster.require_budget` asks.
        words: Snakemake's command line, without the program.
    """
    threshold = launch.site.get("confirm_gpu_hours")
    if threshold is None or hours <= threshold or budget is not None:
        return None
    where = f"confirm_gpu_hours of {SITE} or {VARIABLE.format('CONFIRM_GPU_HOURS')}"
    return (
        f"the plan takes about {hours:,.1f} GPU-hours, and above {threshold:,.1f} ({where}) a launch has to be given a "
        f"budget: `{snakemake_again(words, f'{KEY}={math.ceil(hours)}')}`"
    )
