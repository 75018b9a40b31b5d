"""Whether training and evaluation fit into the memory of what they run on, said before anything is submitted.

By the arithmetic of `scripts.components.memory`. Where a base model is not locked yet, nobody knows its shape, and
nothing is said.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from typing import Any

from scripts.common.devices import CPU, DEVICES
from scripts.common.errors import UserError
from scripts.components.memory import MASTER_BYTES, Training, evaluated_bytes
from scripts.components.methods import Method, method_of
from scripts.components.optimizers import OPTIMIZERS
from scripts.components.shape import Shape
from scripts.launch.launch import Launch
from scripts.plan.product import Product
from scripts.planning.disk import spoken
from scripts.study.schema import Devices

PROCESS_BYTES = 10**9
"""Of a process on a CPU: Python with torch and its libraries."""
ITEM_TOKENS = 1024
"""Of an item of a task with its shots, as far as nobody has read it."""
NEW_TOKENS = 256
"""That are written to an item, of a task that does not say it."""
NODE_GPUS = 8
"""That a node has at most, where more are proposed."""


@dataclass(frozen=True)
class Room:
    """What one process has for its tensors.

    Attributes:
        size: bytes; None where nobody knows.
        where: what has them, as a sentence says it.
        gpu: whether it is a GPU.
    """

    size: int | None
    where: str
    gpu: bool


@dataclass(frozen=True)
class Misfit:
    """What is too large.

    Attributes:
        what: the setting and method, or the task.
        needed: bytes of one process, at its peak.
        remedies: what would fit, the best first.
    """

    what: str
    needed: int
    room: Room
    remedies: tuple[str, ...]


def require_fits(launch: Launch, products: Iterable[Product], *, here: bool = False) -> None:
    """Raises UserError where a job that makes `products` needs more memory than what it runs on has.

    Args:
        launch: the study.
        products: those that have jobs.
        here: whether the jobs run on this machine, where each is one process, and not on a cluster.
    """
    products = list(products)
    found = list(Fit(launch, here=here).misfits(products))
    if not found:
        return
    worst = max(found, key=lambda one: one.needed)
    if here and not any(Fit(launch).misfits(products)):
        worst = replace(worst, remedies=(*worst.remedies, "a cluster as the study has it (`--profile slurm`)"))
    also = f" ({len(found) - 1} more are too large, too)" if len(found) > 1 else ""
    said = ", or ".join(worst.remedies) or "nothing that the study could say instead"
    raise UserError(
        f"{worst.what} needs {spoken(worst.needed)} at its peak{also}, and {worst.room.where} has "
        f"{spoken(worst.room.size or 0)}; what would fit: {said}; nothing was started"
    )


class Fit:
    """What the jobs of a study need."""

    def __init__(self, launch: Launch, *, here: bool = False) -> None:
        self._grid, self._here = launch.grid, here
        study = launch.grid.study
        self._model, self._resources = study.model, study.resources
        self._shape = Shape.of_study(study.model, 2 if study.precision == "bf16" else MASTER_BYTES)
        self._methods: dict[str, Method] = {}
        self._found: dict[Any, Misfit | None] = {}

    def misfits(self, products: Iterable[Product]) -> Iterator[Misfit]:
        """What is too large, each kind of work once, in the order of the products."""
        if self._shape is None:
            return
        seen: set[Any] = set()
        for job in products:
            for product in [self._grid.products[key] for key in job.members] or [job]:
                work = _work(product)
                if work in seen:
                    continue
                seen.add(work)
                if found := self._misfit(product):
                    yield found

    def fits(self, product: Product) -> bool:
        """Whether a leg, a run or an evaluation does; true of what nobody can tell."""
        return self._shape is None or self._misfit(product) is None

    def _misfit(self, product: Product) -> Misfit | None:
        if (work := _work(product)) not in self._found:
            finds = self._trained if product.kind in ("leg", "run") else self._evaluated
            self._found[work] = finds(product) if work else None
        return self._found[work]

    def _trained(self, product: Product) -> Misfit | None:
        devices = self._devices
        room = self._room("training", devices.gpus)
        training = self._training(product, _recipe(product)["method"], devices)
        if room.size is None or (needed := self._needed(training)) <= room.size:
            return None
        setting, method = product.key.within.split("/")[:2]
        return Misfit(f"training {setting} with {method}", needed, room, tuple(self._remedies(product, devices, room)))

    def _needed(self, training: Training) -> int:
        """Of a training process. A CPU has a copy of what a checkpoint writes, besides."""
        written = (1 + training.states) * MASTER_BYTES * training.trained // training.shards
        return training.peak + (0 if training.gpu else written + PROCESS_BYTES)

    def _training(self, product: Product, spec: dict[str, Any], devices: Devices) -> Training:
        assert self._shape
        rows = self._grid.products[product.inputs_of("rows")[0]].spec
        method = self._method(spec)
        sharded = devices.count > 1 and not method.is_adapter
        # within a machine, where there are several with several processes each
        shards = devices.processes if devices.processes > 1 else devices.count
        return Training(
            shape=self._shape,
            parameters=self._model.parameters,
            trained=method.trained_parameters(self._model),
            adapter=method.is_adapter,
            states=len(OPTIMIZERS[_recipe(product)["optimizer"]["name"]].state),
            rows=-(-rows["batch_rows"] // devices.count),
            length=rows["sequence_length"],
            gpu=devices.gpus > 0,
            processes=devices.count,
            shards=shards if sharded else 1,
            quantized=spec.get("quantization") is not None,
        )

    def _remedies(self, product: Product, devices: Devices, room: Room) -> Iterator[str]:
        spec = _recipe(product)["method"]
        batch_rows = self._grid.products[product.inputs_of("rows")[0]].spec["batch_rows"]

        def needed(on: Devices, spec: dict[str, Any] = spec) -> int:
            return self._needed(self._training(product, spec, on))

        if room.gpu:
            more = [] if self._method(spec).is_adapter or self._here else range(devices.gpus + 1, NODE_GPUS + 1)
            for gpus in more:
                on = devices.model_copy(update={"gpus": gpus})
                if batch_rows % on.count == 0 and needed(on) <= DEVICES[on.kind].memory:
                    yield f"{gpus} GPUs a node (`{_said(on)}`, {spoken(needed(on))} each)"
                    break
            yield from _larger(devices, needed(devices))
            if self._grid.study.precision == "fp32":
                halved = self._training(product, spec, devices)
                halved = replace(halved, shape=replace(halved.shape, item_bytes=2))
                if (size := self._needed(halved)) <= (room.size or 0):
                    yield f"`precision: bf16` in the study ({spoken(size)})"
        elif not self._here:
            yield f"`resources.jobs.training.memory_gb: {_gib(needed(devices))}` in the study"
        of_adapter = self._method(spec).is_adapter
        if of_adapter and room.gpu and not spec.keys() & {"quantization", "initialization"}:
            size = self._needed(replace(self._training(product, spec, devices), quantized=True))
            if size <= (room.size or 0):
                yield f"`quantization: nf4` in the method ({spoken(size)})"
        adapters = {name: method for name, method in self._grid.study.methods.items() if method.is_adapter}
        sizes = {name: needed(devices, method.spec()) for name, method in adapters.items()}
        fitting = [name for name, size in sizes.items() if size <= (room.size or 0)]
        if fitting:
            largest = max(fitting, key=lambda name: sizes[name])
            other = "a smaller adapter" if of_adapter else "LoRA in its place, which trains less"
            yield f"{other} ({largest}: {spoken(sizes[largest])})"

    def _evaluated(self, product: Product) -> Misfit | None:
        assert self._shape
        room = self._room("evaluation", self._resources.jobs.evaluation.gpus)
        settings = product.spec
        new = settings.get("max_new_tokens", NEW_TOKENS) if product.kind == "samples" else 0
        longest = settings.get("max_length") or ITEM_TOKENS + new
        context = self._model.shape.context if self._model.shape else longest
        length = min(context, longest)
        needed = evaluated_bytes(self._shape, self._model.parameters, 1, length, min(new, length // 2))
        if not room.gpu:  # weights are read in fp32 whatever is computed in
            needed = max(needed, MASTER_BYTES * self._model.parameters) + PROCESS_BYTES
        if room.size is None or needed <= room.size:
            return None
        if room.gpu:
            remedies = tuple(_larger(self._resources.devices, needed))
        else:
            asked = f"`resources.jobs.evaluation.memory_gb: {_gib(needed)}` in the study"
            remedies = () if self._here else (asked,)
        return Misfit(f"evaluating {self._model.label} by {settings['task']}", needed, room, remedies)

    @property
    def _devices(self) -> Devices:
        """What a training runs on: here one process, and on a GPU only where there is one."""
        devices = self._resources.devices
        if not self._here:
            return devices
        return Devices(kind=devices.kind, gpus=1) if devices.gpus and has_gpu() else Devices(kind=CPU)

    def _room(self, row: str, gpus: int) -> Room:
        kind = self._resources.devices.kind
        if gpus and kind != CPU and (not self._here or has_gpu()):
            return Room(DEVICES[kind].memory, f"each {kind}", gpu=True)
        if self._here:
            return Room(memory_here(), "this machine", gpu=False)
        size: int = getattr(self._resources.jobs, row).memory_gb
        return Room(size * 2**30, f"a node by resources.jobs.{row}.memory_gb", gpu=False)

    def _method(self, spec: dict[str, Any]) -> Method:
        name = repr(spec)
        if name not in self._methods:
            self._methods[name] = method_of(spec)
        return self._methods[name]


def _work(product: Product) -> Any:
    """The same for products that need the same; None for those that need no model."""
    spec = product.spec
    if product.kind in ("leg", "run"):
        recipe = _recipe(product)
        return repr(recipe["method"]), recipe["optimizer"]["name"], product.inputs_of("rows")[0]
    if product.kind in ("samples", "evaluation") and not product.is_judged:
        return product.kind, spec["task"], spec.get("max_new_tokens"), spec.get("max_length")
    return None


def _recipe(product: Product) -> dict[str, Any]:
    """What a leg or run says of its method and optimizer; read as it stands, for many products."""
    found: dict[str, Any] = product.spec.get("trunk", product.spec)
    return found


def _larger(devices: Devices, needed: int) -> Iterator[str]:
    """The kind of GPU with the least memory that suffices, if there is one."""
    larger = sorted((device.memory, kind) for kind, device in DEVICES.items() if device.memory >= needed)
    for _, kind in larger[:1]:
        yield f"another kind of GPU (`{_said(devices.model_copy(update={'kind': kind}))}`)"


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, as far as that can be told without torch."""
    return which("nvidia-smi") is not None or Path("/proc/driver/nvidia/gpus").is_dir()


def memory_here(file: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of this machine's memory; None where the system does not say it so."""
    try:
        lines = file.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _said(devices: Devices) -> str:
    return f"--config devices='{{kind: {devices.kind}, nodes: {devices.nodes}, gpus: {devices.gpus}}}'"


def _gib(size: int) -> int:
    return -(-size // 2**30)
