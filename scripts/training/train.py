"""Trains a leg, a branch or a run; or a family of them, one after another, in one process.

python -m scripts.training.train KEY
python -m scripts.training.train KEY --deadline SECONDS
python -m scripts.training.train KEY --lock-wait SECONDS
python -m scripts.training.train KEY --tracker tensorboard

The deadline counts from the start of the process. Before it, it saves a checkpoint and ends with status 75; the same
call goes on from there. Where another job makes the same product it waits, and finds it done; with `--lock-wait` it
gives up after so many seconds, with status 75 too.

Under torchrun, `accelerate launch` or as tasks of SLURM's srun, several processes train together; see
`scripts.training.parallel`.
"""

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.launch.command import current_launch, find, make, product_parser
from scripts.launch.launch import Launch
from scripts.launch.missing import Missing
from scripts.plan.product import Product
from scripts.plan.specs import Trained, Trapezoid
from scripts.store.store import Build
from scripts.training import devices, trackers
from scripts.training.parallel import ALONE, Group, launched
from scripts.training.trackers import tracked

_REPORT_SECONDS = 10.0


def main(launch: Launch, name: str, deadline: float | None = None, lock_wait: float = math.inf) -> None:
    """Makes what is missing of a leg, a run or a family of them.

    Args:
        launch: the study and the store.
        name: key of the product, with or without its fingerprint.
        deadline: moment of `time.monotonic` before which it saves and ends with SystemExit(75).
        lock_wait: how many seconds it waits for another job that makes the same product.

    Raises:
        LockedError: another job was still making it.
        UserError: no such product; its inputs are not there or not what they were.
    """
    with launched() as group:
        if group.is_first:
            _lead(launch, name, deadline, lock_wait, group)
            group.told(None)
        else:
            _follow(group)


def _lead(launch: Launch, name: str, deadline: float | None, lock_wait: float, group: Group) -> None:
    """What the first process does of `main`: all but its part of the training."""
    trackers.chosen()  # a mistake in it shows before anything is waited for
    product = find(launch, name)
    with ExitStack() as held:
        # once, at the first training: CUDA stays on the devices that a process began with
        claim = cache(lambda: held.enter_context(devices.claimed(launch.store.root, deadline=deadline)))
        if product.kind == "trained":
            # what is complete is not made again, also where its bytes were deleted to save room
            for key in Missing(launch.grid, launch.store).members(product.key):
                train(launch, launch.grid.products[key], deadline, claim, lock_wait, group)
            make(launch, product, lambda out: {})
        elif product.kind in ("leg", "run"):
            train(launch, product, deadline, claim, lock_wait, group)
        else:
            raise UserError(f"{product.key}: is of the kind {product.kind!r}, which is not trained")
    print(f"{product.key}: complete")


def _follow(group: Group) -> None:
    """What the other processes do: take part in whatever the first one trains, until there is no more of it."""
    while (job := group.told(None)) is not None:
        from scripts.training.loop import fit

        fit(replace(job, deadline=None), lambda _: None, group)  # a moment of the first one's clock


def train(
    launch: Launch,
    product: Product,
    deadline: float | None = None,
    claim: Callable[[], object] = tuple,
    lock_wait: float = math.inf,
    group: Group = ALONE,
) -> dict[str, Any]:
    """Makes what is missing of one leg or run and returns its manifest; see `main` and `builder`."""
    until = min(time.monotonic() + lock_wait, math.inf if deadline is None else deadline)
    return make(launch, product, builder(launch, product, deadline, claim, group), until)


def builder(
    launch: Launch,
    product: Product,
    deadline: float | None = None,
    claim: Callable[[], object] = tuple,
    group: Group = ALONE,
) -> Build:
    """Writes the weights (safetensors; an adapter alone for LoRA) and, for a leg, the optimizer's state.

    Where training diverged it writes nothing, and the results have `diverged`: `step`, `loss` and `rule`, see
    `scripts.training.divergence`. So do those of every leg and branch after a leg that diverged, which are not trained
    then; there `leg` is the key of the one that did.

    `claim` is called before the device is used; the other processes of `group` are then told what is trained. What the
    loop reports on the way lies beside the manifest, in `<key>.metrics.jsonl` (see `Log`): it has times in it, so it is
    no part of the product. The manifest's provenance has `training`, what all attempts took (see `Attempts`).
    """
    spec = Trained.read(product.spec)
    recipe = spec.recipe
    model, rows, *legs = product.inputs

    def fit_product(out: Path) -> dict[str, Any]:
        from scripts.data.products import data_bytes
        from scripts.training.attempts import attempt
        from scripts.training.loop import Fit, fit
        from scripts.training.metrics import Log

        store = launch.store
        start = legs[0] if legs else None
        leg = store.require(start) if start else None
        if leg and "diverged" in leg["results"]:
            return _after(product, leg)
        rows_directory = data_bytes(launch, rows)
        start_step = _end(Trained.read(leg["spec"]), rows_directory) if leg else 0
        # what a recipe does not say is as the loop has it by default
        choices: dict[str, Any] = {"loss": recipe.loss, "attention": recipe.attention}
        choices = {name: choice for name, choice in choices.items() if choice is not None}
        if recipe.attention_dropout:
            choices["attention_dropout"] = recipe.attention_dropout["rate"]
        if leg:
            choices["best_loss"] = leg["results"].get("best_loss")
        job = Fit(
            method=recipe.method,
            optimizer=recipe.optimizer,
            schedule=_schedule(spec, rows_directory),
            seed=recipe.seed,
            precision=recipe.precision,
            base=store.bytes_of(model),
            rows=rows_directory,
            start=store.bytes_of(start) if start else None,
            start_step=start_step,
            stop_step=_end(spec, rows_directory),
            out=out,
            checkpoints=store.scratch(product.key),
            keep_optimizer=spec.kind == "leg",
            checkpoint_seconds=float(launch.grid.study.resources.checkpoint_seconds),
            **choices,
            product=product.key,
            deadline=deadline,
        )
        log, tell = Log(job.checkpoints / "metrics.jsonl"), _reporter(product.name)
        claim()
        group.told(job)
        try:
            with (
                attempt(job.checkpoints / "attempts.json", group.world) as attempts,
                tracked(trackers.chosen(), product) as track,
            ):

                def report(event: dict[str, Any]) -> None:
                    attempts.report(event["memory_bytes"])
                    for receive in (log.add, tell, track):
                        receive(event)

                results = fit(job, report, group)
        except UserError as error:
            raise UserError(f"{product.key}: {error}") from error
        results["provenance"] = {"training": attempts.totals()}
        if log.path.exists():
            with atomic_path(store.manifest_path(product.key).with_suffix(".metrics.jsonl")) as kept:
                shutil.copyfile(log.path, kept)
        if "diverged" in results:
            _say(product, results["diverged"])
        if leg and job.stop_step == start_step:  # the leg's weights as they are
            results["final_loss"] = leg["results"]["final_loss"]
        return results

    return fit_product


def _after(product: Product, leg: dict[str, Any]) -> dict[str, Any]:
    """The results of a leg, branch or run that starts from a leg that diverged: there is nothing to train."""
    diverged = {"leg": leg["key"], **leg["results"]["diverged"]}
    _say(product, diverged)
    return {"steps": 0, "tokens": 0, "final_loss": None, "loss_curve": [], "seconds": 0.0, "diverged": diverged}


def _say(product: Product, diverged: dict[str, Any]) -> None:
    where = f" of {diverged['leg']}" if "leg" in diverged else ""
    print(
        f"{product.name}: training diverged at step {diverged['step']}{where} ({diverged['rule']}); that is its result",
        file=sys.stderr,
        flush=True,
    )


def _schedule(spec: Trained, rows: Path) -> dict[str, Any]:
    """The schedule of a product.

    A CPT trunk never cools down and its branches do. An IFT run has the cosine of its own length, unless it and its
    legs are parts of one long run, evaluated on the way.
    """
    plan = spec.schedule
    schedule: dict[str, Any]
    if isinstance(plan, Trapezoid):
        schedule = {
            "name": "trapezoid",
            "warmup_batches": plan.warmup_batches,
            "batches": spec.amount if spec.kind == "run" else None,
            "cooldown_batches": plan.cooldown_batches,
        }
        if plan.short_branch is not None:
            schedule["short_branch"] = plan.short_branch
    else:
        schedule = {
            "name": "cosine",
            "batches": _steps_per_epoch(rows) * (spec.amount if plan.epochs is None else plan.epochs),
            "warmup_fraction": plan.warmup_fraction,
            "final_fraction": plan.final_fraction,
        }
    if spec.recipe.lag is not None:
        schedule["lag"] = spec.recipe.lag
    return schedule


def _end(spec: Trained, rows: Path) -> int:
    """The step at which a leg or run ends, counted from the start of the trunk or run."""
    return spec.amount if spec.unit == "batches" else _steps_per_epoch(rows) * spec.amount


def _steps_per_epoch(rows: Path) -> int:
    from scripts.data.batches import Batches

    steps = Batches(rows).steps_per_epoch
    if not steps:
        raise UserError(f"{rows}: too few examples for one batch of this setting")
    return steps


def _reporter(name: str) -> Callable[[dict[str, Any]], None]:
    """Says how far a job is: a bar on a terminal, elsewhere a line every ten seconds."""
    return _bar(name) if sys.stderr.isatty() else _lines(name)


def _lines(name: str) -> Callable[[dict[str, Any]], None]:
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


def _bar(name: str) -> Callable[[dict[str, Any]], None]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar = None

    def report(event: dict[str, Any]) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=name, total=event["steps"], initial=event["resumed_at"], unit="step", dynamic_ncols=True)
        mfu = "" if event["mfu"] is None else f", MFU {event['mfu']:.1%}"
        bar.set_postfix_str(
            f"loss {event['loss']:.3f}, {event['tokens_per_second']:,.0f} tokens/s{mfu}, "
            f"{event['memory_bytes'] / 1e9:.1f} GB",
            refresh=False,
        )
        bar.update(event["step"] - bar.n)
        if event["step"] == event["steps"]:
            bar.close()

    return report


def _lock_wait(seconds: float) -> float:
    if not seconds >= 0:
        raise UserError(f"--lock-wait: must be a number of seconds, 0 or more, not {seconds}")
    return seconds


def _moment(seconds: float | None) -> float | None:
    """The moment of `time.monotonic` at which this process is `seconds` old."""
    if seconds is None:
        return None
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"--deadline: must be a number of seconds above 0, not {seconds}")
    return time.monotonic() + seconds - _age()


def _age() -> float:
    """Seconds since this process began; 0 where there is no /proc, so that they count from now."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    parser = product_parser(__doc__)
    parser.add_argument(
        "--deadline", type=float, metavar="SECONDS", help="age of the process before which it saves and ends, status 75"
    )
    parser.add_argument(
        "--lock-wait",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="how long to wait for another job that makes the same product, then status 75 (default: without end)",
    )
    parser.add_argument(
        "--tracker",
        choices=trackers.TRACKERS,
        help=f"where to show the loss as it falls (default: what {trackers.VARIABLE} says; else nowhere)",
    )

    def by_hand(arguments: argparse.Namespace) -> None:
        if arguments.tracker:
            os.environ[trackers.VARIABLE] = arguments.tracker
        deadline, lock_wait = _moment(arguments.deadline), _lock_wait(arguments.lock_wait)
        main(current_launch(arguments), arguments.product, deadline, lock_wait)

    run(by_hand, parser)
