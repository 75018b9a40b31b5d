"""What each of several processes does in tests of training together.

python -m tests.training.ranks WORLD DIRECTORY, in every process, as a launcher starts it; what was found lies in the
directory then.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from scripts.common.errors import UserError
from scripts.data.batches import Batches
from scripts.training import checkpoints, loop, parallel, train
from scripts.training.loop import Fit, fit
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward
from scripts.training.parallel import Group
from tests.training.houses import OPTIMIZER, RECIPE, House

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "rank": 2, "alpha": 4.0, "modules": MODULES, "dropout": 0.05},
}
SEED, STOP, LENGTH = 5, 8, 16
UNEVEN = {"five": torch.arange(15.0).view(5, 3), "three": torch.arange(3.0), "two": torch.ones(2, 2)}


def job(place: Path, kind: str, name: str, **changes: Any) -> Fit:
    """A job on the rows and the base model in `place`; its directories are called by `kind` and `name`."""
    own = place / f"{kind}-{name}"
    fields: dict[str, Any] = {
        "method": METHODS[kind],
        "optimizer": OPTIMIZER,
        "schedule": {"name": "trapezoid", "warmup_batches": 3, "batches": STOP, "cooldown_batches": 2},
        "seed": SEED,
        "precision": "fp32",
        "base": place / "base",
        "rows": place / "rows",
        "start": None,
        "start_step": 0,
        "stop_step": STOP,
        "out": own / "out",
        "checkpoints": own / "checkpoints",
        "keep_optimizer": True,
        "checkpoint_seconds": 1e9,
    }
    made = Fit(**(fields | changes))
    made.out.mkdir(parents=True, exist_ok=True)
    return made


def attempt(made: Fit, group: Group, report: Callable[[dict[str, Any]], None] = lambda _: None) -> Any:
    """The metrics, or what was told or returned instead."""
    try:
        return fit(made, report, group)
    except SystemExit as stopped:
        return stopped.code
    except UserError as error:
        return str(error)


def gradients(
    place: Path, kind: str, group: Group, pass_rows: int, precision: str = "fp32"
) -> tuple[dict[str, torch.Tensor], float]:
    """The first batch's gradient and loss, `pass_rows` rows a pass; an adapter's B is no longer 0."""
    torch.manual_seed(1)
    model = trainable_model(place / "base", METHODS[kind], SEED, None).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    objective = parallel.spread(
        lambda: Objective(model, precision), group, group.world > 1 and kind == "full", precision
    )
    batches = Batches(place / "rows")
    input_ids, labels = (torch.as_tensor(array) for array in batches.batch(0))
    loss, _ = backward(
        objective,
        input_ids,
        labels,
        batches.group_rows,
        seed=SEED,
        step=0,
        pass_tokens=pass_rows * LENGTH,
        share=group.share(batches.batch_rows),
    )
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return parallel.gathered(found, group), group.total(loss.detach().view(1)).item()


def keep_gradients(place: Path, group: Group, passes: list[int]) -> dict[str, float]:
    """Writes the gradients of both methods to `place`; returns the losses."""
    losses = {}
    for kind in METHODS:
        for rows in passes:
            name = f"{kind}-{group.world}-{rows}"
            found, losses[name] = gradients(place, kind, group, rows)
            if group.is_first:
                save_file(found, place / f"gradient-{name}.safetensors")
    found, losses["bf16"] = gradients(place, "full", group, 3, "bf16")
    if group.is_first:
        save_file(found, place / f"gradient-bf16-{group.world}.safetensors")
    return losses


class Signal:
    """One process gets a SIGTERM in the middle of a step."""

    def __init__(self, step: int, here: bool) -> None:
        self.step, self.here = step, here

    def __enter__(self) -> None:
        self.backward = loop.backward
        loop.backward = self.stepping

    def __exit__(self, *_: object) -> None:
        loop.backward = self.backward

    def stepping(self, *arguments: Any, **options: Any) -> Any:
        if self.here and options["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.backward(*arguments, **options)


def two(place: Path, group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {"losses": keep_gradients(place, group, [1, 2, 3, 6])}
    for kind in METHODS:
        found[f"{kind}-whole"] = attempt(job(place, kind, "two-whole"), group)

        cut = job(place, kind, "two-cut", checkpoint_seconds=0.0)
        with Signal(step=3, here=group.rank == 1):
            found[f"{kind}-stopped"] = attempt(cut, group)
        if group.is_first:
            shutil.copytree(cut.checkpoints, place / f"{kind}-four" / "checkpoints")
            *_, last = sorted((cut.checkpoints / "step-000004").glob("shard-*"))
            last.write_bytes(last.read_bytes()[:-7])
        group.together(lambda: None)
        found[f"{kind}-resumed"] = attempt(cut, group)

    # the disk is full for one of them
    full = job(place, "full", "two-full-disk", checkpoint_seconds=0.0)
    sha256 = checkpoints.file_sha256

    def no_room(path: Path) -> str:
        if group.rank == 1 and "step-000003" in str(path):
            raise OSError(28, "No space left on device")
        return sha256(path)

    checkpoints.file_sha256 = no_room
    found["full-disk"] = attempt(full, group)
    checkpoints.file_sha256 = sha256

    # products: a leg and a branch from its end, and the leg when it is there
    train.launched = lambda: nullcontext(group)
    house: Any = House(place / "store", place / "base", place / "rows") if group.is_first else None
    products = []
    if group.is_first:
        trunk = {**RECIPE, "method": METHODS["full"], "warmup_batches": 2}
        leg = house.product({"kind": "leg", "trunk": trunk, "batches": 3})
        products = [leg, house.product({"kind": "run", "trunk": trunk, "batches": STOP, "cooldown_batches": 2}, leg)]
    for number in (0, 1, 0):
        train.find = lambda *_, number=number: products[number]
        train.main(house, "")
    found["products"] = [house.store.read(product.key) for product in products]

    found["place"] = [group.rank, group.world, group.local_rank, group.local_world]
    keep(place, group, found)
    # the end: one of them is killed, and the other one does not wait for it
    with Signal(step=2, here=False):
        if group.rank == 1:
            loop.backward = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        fit(job(place, "lora", "two-killed"), lambda _: None, group)
    return found


def four(place: Path, group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {"losses": keep_gradients(place, group, [1, 2, 3])}
    for kind in METHODS:  # what two processes began
        begun = job(place, kind, "four")
        with Signal(step=6, here=group.rank == 3):
            found[f"{kind}-stopped"] = attempt(begun, group)
        if group.is_first:
            shutil.copytree(begun.checkpoints, place / f"{kind}-one" / "checkpoints")
        group.together(lambda: None)
        found[f"{kind}-finished"] = attempt(begun, group)

    # shards of other sizes, and none at all
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (group.world,))
    owner = checkpoints.Owner("uneven", 12)
    spread = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in UNEVEN.items()}
    with checkpoints.Writer(place / "uneven", owner, spread, group) as writer:
        writer.save(checkpoints.Progress(1), spread, {})
    empty = {name: torch.zeros_like(tensor) for name, tensor in spread.items()}
    assert checkpoints.load(place / "uneven", owner, empty, {}, group) == checkpoints.Progress(1)
    read = parallel.gathered(empty, group)
    found["uneven"] = all(torch.equal(read[name], UNEVEN[name]) for name in read)

    uneven = replace(job(place, "full", "four-uneven"), rows=place / "ten")
    found["rows"] = attempt(uneven, group)
    found["place"] = [group.rank, group.world, group.local_rank, group.local_world]
    keep(place, group, found)
    return found


def keep(place: Path, group: Group, found: dict[str, Any]) -> None:
    (place / f"found-{group.world}-{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop.REPORT_SECONDS = 0
    with parallel.launched() as together:
        {2: two, 4: four}[int(sys.argv[1])](Path(sys.argv[2]), together)
