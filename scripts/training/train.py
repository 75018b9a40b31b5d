"""Trains a leg, a branch or a run; or a family of them, one after another, in one process.

python -m scripts.training.train KEY
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.study.command import current_launch, find, make, product_parser
from scripts.study.errors import UserError, run
from scripts.study.grid import Product
from scripts.study.launch import Launch
from scripts.study.store import Build

_REPORT_SECONDS = 10.0


def main(launch: Launch, name: str) -> None:
    """Makes what is missing of a leg, a run or a family of them.

    Raises:
        UserError: no such product; its inputs are not there; training diverged.
    """
    product = find(launch, name)
    if product.kind == "trained":
        for key in product.members:
            train(launch, launch.grid.products[key])
        make(launch, product, lambda out: {})
    elif product.kind in ("leg", "run"):
        train(launch, product)
    else:
        raise UserError(f"{product.key}: is of the kind {product.kind!r}, which is not trained")
    print(f"{product.key}: complete")


def train(launch: Launch, product: Product) -> dict[str, Any]:
    """Makes what is missing of one leg or run and returns its manifest."""
    return make(launch, product, builder(launch, product))


def builder(launch: Launch, product: Product) -> Build:
    """Writes the weights (safetensors; an adapter alone for LoRA) and, for a leg, the optimizer's state."""
    spec = product.spec
    trunk = spec.get("trunk", spec)
    model, rows, *legs = product.inputs

    def fit_product(out: Path) -> dict[str, Any]:
        from scripts.data.products import data_bytes
        from scripts.training.loop import Fit, fit

        store = launch.store
        rows_directory = data_bytes(launch, rows)
        start = legs[0] if legs else None
        schedule, stop_step = _schedule(spec, rows_directory)
        job = Fit(
            method=trunk["method"],
            optimizer=trunk["optimizer"],
            schedule=schedule,
            seed=trunk["seed"],
            precision=trunk["precision"],
            base=store.bytes_of(model),
            rows=rows_directory,
            start=store.bytes_of(start) if start else None,
            start_step=store.require(start)["spec"]["batches"] if start else 0,
            stop_step=stop_step,
            out=out,
            checkpoints=store.scratch(product.key),
            keep_optimizer=spec["kind"] == "leg",
            checkpoint_seconds=float(launch.grid.study.resources.checkpoint_seconds),
        )
        try:
            return fit(job, _reporter(product.name))
        except UserError as error:
            raise UserError(f"{product.key}: {error}") from error

    return fit_product


def _schedule(spec: dict[str, Any], rows: Path) -> tuple[dict[str, Any], int]:
    """The schedule of a product and the step at which it stops."""
    if "trunk" in spec:
        branch = spec["kind"] == "run"
        schedule = {
            "name": "trapezoid",
            "warmup_batches": spec["trunk"]["warmup_batches"],
            "batches": spec["batches"] if branch else None,
            "cooldown_batches": spec["cooldown_batches"] if branch else None,
        }
        return schedule, spec["batches"]
    from scripts.data.batches import Batches

    steps = Batches(rows).steps_per_epoch
    if not steps:
        raise UserError(f"{rows}: too few examples for one batch of this setting")
    batches = steps * spec["epochs"]
    schedule = {
        "name": "cosine",
        "batches": batches,
        "warmup_fraction": spec["warmup_fraction"],
        "final_fraction": spec["final_fraction"],
    }
    return schedule, batches


def _reporter(name: str) -> Callable[[dict[str, Any]], None]:
    last = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last < _REPORT_SECONDS and event["step"] < event["steps"]:
            return
        last = time.monotonic()
        print(
            f"{name}: step {event['step']} of {event['steps']}, loss {event['loss']:.3f}, "
            f"{event['tokens_per_second']:,.0f} tokens/s, {event['eta_seconds']:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return report


if __name__ == "__main__":
    parser = product_parser(__doc__)
    run(lambda arguments: main(current_launch(arguments), arguments.product), parser)
