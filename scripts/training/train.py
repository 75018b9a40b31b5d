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
_CHOICES = ("loss", "attention", "attention_dropout")
"""Of `Fit`: where a spec does not have one, the loop's default holds."""


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
        leg = store.require(start) if start else None
        start_step = _end(leg["spec"], rows_directory) if leg else 0
        job = Fit(
            method=trunk["method"],
            optimizer=trunk["optimizer"],
            schedule=_schedule(spec, rows_directory),
            seed=trunk["seed"],
            precision=trunk["precision"],
            base=store.bytes_of(model),
            rows=rows_directory,
            start=store.bytes_of(start) if start else None,
            start_step=start_step,
            stop_step=_end(spec, rows_directory),
            out=out,
            checkpoints=store.scratch(product.key),
            keep_optimizer=spec["kind"] == "leg",
            checkpoint_seconds=float(launch.grid.study.resources.checkpoint_seconds),
            **{choice: trunk[choice] for choice in _CHOICES if choice in trunk},
        )
        try:
            results = fit(job, _reporter(product.name))
        except UserError as error:
            raise UserError(f"{product.key}: {error}") from error
        if leg and job.stop_step == start_step:  # the leg's weights as they are
            results["final_loss"] = leg["results"]["final_loss"]
        return results

    return fit_product


def _schedule(spec: dict[str, Any], rows: Path) -> dict[str, Any]:
    """The schedule of a product.

    A CPT trunk never cools down and its branches do; both have `batches`. An IFT run has `epochs` and the cosine of
    its own length, unless it and its legs are parts of one long run (`schedule_epochs`), evaluated on the way.
    """
    trunk = spec.get("trunk", spec)
    schedule: dict[str, Any]
    if "batches" in spec:
        branch = spec["kind"] == "run"
        schedule = {
            "name": "trapezoid",
            "warmup_batches": trunk["warmup_batches"],
            "batches": spec["batches"] if branch else None,
            "cooldown_batches": spec["cooldown_batches"] if branch else None,
        }
        if "short_branch" in spec:
            schedule["short_branch"] = spec["short_branch"]
    else:
        schedule = {
            "name": "cosine",
            "batches": _steps_per_epoch(rows) * trunk.get("schedule_epochs", spec["epochs"]),
            "warmup_fraction": trunk["warmup_fraction"],
            "final_fraction": trunk["final_fraction"],
        }
    if "lag" in trunk:
        schedule["lag"] = trunk["lag"]
    return schedule


def _end(spec: dict[str, Any], rows: Path) -> int:
    """The step at which a leg or run ends, counted from the start of the trunk or run."""
    return int(spec["batches"]) if "batches" in spec else _steps_per_epoch(rows) * int(spec["epochs"])


def _steps_per_epoch(rows: Path) -> int:
    from scripts.data.batches import Batches

    steps = Batches(rows).steps_per_epoch
    if not steps:
        raise UserError(f"{rows}: too few examples for one batch of this setting")
    return steps


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
