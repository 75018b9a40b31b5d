"""TensorBoard and Weights & Biases, by accelerate's trackers: optional, and no part of any spec."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.plan.product import Product

VARIABLE = "FORGETTING_TRACKER"
"""Names the tracker; jobs that rules start inherit it."""
TRACKERS = ("tensorboard", "wandb")
DIRECTORY = Path("results/logs")
"""What trackers write is under `tensorboard/<key>` and `wandb/` here."""


def chosen() -> str | None:
    """The tracker that the environment names; None without one.

    Raises:
        UserError: it is unknown, or its package is not installed.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    if name not in TRACKERS:
        raise UserError(f"{VARIABLE}: the tracker {name!r} is unknown; allowed are {' and '.join(TRACKERS)}")
    from accelerate.tracking import get_available_trackers

    if name not in [str(tracker) for tracker in get_available_trackers()]:
        raise UserError(f"the tracker {name} is not installed; `pip install {name}` in this environment installs it")
    return name


@contextmanager
def tracked(name: str | None, product: Product) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What the loop's reports are given to.

    The tracker starts with the first report, so only in the process that reports. Attempts at a product go on in one
    chart: TensorBoard is told which steps are done again, W&B's run has the product's fingerprint as its id. W&B's
    project is `WANDB_PROJECT`, or else "forgetting".
    """
    tracker: Any = None

    def log(event: Mapping[str, Any]) -> None:
        nonlocal tracker
        if name is None:
            return
        if tracker is None:
            tracker = _started(name, product, event["resumed_at"])
        values = {key: value for key, value in event.items() if key not in ("step", "resumed_at") and value is not None}
        tracker.log(values, step=event["step"])

    try:
        yield log
    finally:
        if tracker is not None:
            tracker.finish()


def _started(name: str, product: Product, step: int) -> Any:
    """A tracker of accelerate that has begun, for an attempt that begins after `step`."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # the trackers ask it who the main process is; it waits for no other one
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, Any]
    if name == "tensorboard":
        arguments = {"run_name": product.key, "logging_dir": DIRECTORY / "tensorboard", "purge_step": step + 1}
    else:
        arguments = {
            "run_name": os.environ.get("WANDB_PROJECT", "forgetting"),
            "name": product.key,
            "id": product.fingerprint,
            "resume": "allow",
            "config": product.spec,
            "dir": str(DIRECTORY),
        }
    tracker = LOGGER_TYPE_TO_CLASS[name](**arguments)
    tracker.start()
    return tracker
