"""How long products are expected to take: by the operations they need and by what the device has of its peak for them,
or by what the store has measured. Progress lines depend on it, and the minutes and GPU-hours of jobs on a cluster.
No result does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from scripts.common import devices
from scripts.common.devices import CPU, DEVICES, Device
from scripts.components import flops
from scripts.components.asking.answers import Programs
from scripts.components.methods import Method, method_of
from scripts.components.shape import Shape
from scripts.components.sources.generated import LENGTH
from scripts.components.tasks import Task
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.plan.specs import Asked, Recipe, Trained
from scripts.store.store import Store
from scripts.study.schema import InstructionFinetuning

CHARACTERS_OF_TOKEN = 3.5
"""Of English and Python in Llama-2's vocabulary."""
UNKNOWN_ITEMS = 1000
"""Of a benchmark that says nothing of its length."""


@dataclass(frozen=True)
class Shares:
    """Of a device's peak, what each kind of work reaches."""

    training: float
    reading: float
    """Sequences that are only read: likelihoods, prompts."""
    writing: float
    """Token by token, many sequences side by side."""


ON_GPU = Shares(training=0.4, reading=0.4, writing=0.1)
"""Training: 0.41 for LoRA (NeMo AutoModel's table: Llama-3-8B, 402 TFLOP/s on an H100), 0.41 to 0.48 for full
finetuning (Megatron-LM's README, H100), 0.54 at most (MaxText, Llama-2-7B on 8 H100). Writing: 0.20 in vLLM (12,553
tokens/s of Llama-3.1-8B on an H100), of which this project's goal is two thirds. None is measured here yet."""
ON_CPU = Shares(training=0.5, reading=0.2, writing=0.028)
"""Measured on one core of an EPYC with the demo's model of 0.7M parameters."""
SINGULAR_VALUES = 8e9
"""FLOP/s of a core in float64: 2048 x 2048 matrices with MKL on an EPYC."""
DECOMPOSING_CORES = 4
"""More make it no faster: half of the operations are products of a matrix and a vector, which wait for memory."""
PROGRAM_SECONDS = 0.02
"""Of a program with its tests in the sandbox: most of it is the start of its process."""


_LOOKED_AT = 5
"""Of the products of the same work: the first of a process takes longer, so one says too little."""
_MEASURED = ("leg", "run", "samples", "evaluation", "spectra")


class Estimate:
    """What is expected of a study's products.

    Args:
        grid: the study.
        store: where it looks for how many examples a dataset has, and what the same kind of work took on the same kind
            of device.
        measures: whether the latter counts more than the operations.
    """

    def __init__(self, grid: Grid, store: Store, *, measures: bool = True) -> None:
        self.grid = grid
        self.store = store
        self._measures = measures
        self._resources = grid.study.resources
        self._parameters = grid.study.model.parameters
        self._shape = Shape.of_study(grid.study.model, 4)
        self._costs: dict[str, float | None] = {}
        self._work: dict[Product, float] = {}
        self._methods: dict[str, Method] = {}

    def seconds(self, product: Product, made: set[str]) -> float:
        """Of the job that makes `product`, when the products in `made` exist already.

        What depends on records that nobody has counted yet is left out; see `tokens`.
        """
        members = [self.grid.products[key] for key in product.members if key not in made] or [product]
        work = sum(self.work(member) for member in members)
        has_model = product.kind not in ("records", "tokenizer", "rows", "overlaps", "published")
        return work + (self._resources.startup_seconds if has_model else 1.0)

    def tokens(self, product: Product) -> float | None:
        """Tokens that a leg or run trains on, after the leg that it starts from; 0 for all else.

        None where that is known only once its records are read.
        """
        if product.kind not in ("leg", "run"):
            return 0.0
        spec = Trained.read(product.spec)
        start = next((Trained.read(self.grid.products[key].spec).amount for key in product.inputs_of("leg")), 0)
        amount = float(spec.amount - start)
        rows = self.grid.products[product.inputs_of("rows")[0]]
        length = int(rows.spec["sequence_length"])
        if spec.unit == "batches":
            return amount * int(rows.spec["batch_rows"]) * length
        setting = self.grid.study.settings[product.key.within.split("/")[0]]
        assert isinstance(setting, InstructionFinetuning)
        manifest = self.store.read(rows.key)
        said = manifest["results"] if manifest else None
        if said and setting.packing != "foundry":
            return amount * int(said["tokens"])
        examples = int(said["examples"]) if said else self.grid.study.datasets[setting.dataset].expected_records
        if not examples:
            return None
        # as many examples as a step's groups of rows take, and no step that is not full; see scripts.data.packing
        groups = int(rows.spec["batch_rows"]) // int(rows.spec["group_rows"])
        of_a_step = groups * int(rows.spec["group_rows"] * (setting.packing_ratio or 1.0))
        return amount * (examples // of_a_step) * int(rows.spec["batch_rows"]) * length

    def work(self, product: Product) -> float:
        """Seconds of the work itself, without the start of a job; a family has none of its own."""
        if product not in self._work:  # a plan asks several times
            self._work[product] = self._compute(product)
        return self._work[product]

    def _compute(self, product: Product) -> float:
        if self._shape is None:
            return 0.0
        match product.kind:
            case "leg" | "run":
                return self._training(product)
            case "samples" | "evaluation":
                return self._judging(product) if product.is_judged else self._asking(product)
            case "spectra":
                return self._decomposing(product)
            case "throughput":
                return self._measuring(product)
            case "model" if tokens := self.grid.study.model.tokens_to_train(product.key):
                made_from = self.grid.study.model.made_from
                length = made_from[1].sequence_length if made_from else 0
                cpu = DEVICES[CPU].fp32 * ON_CPU.training
                return tokens * flops.trained(self._shape, 0, self._parameters, length) / cpu
        return 0.0

    def _training(self, product: Product) -> float:
        found = self._resources.devices
        if measured := self._measured(product, found.gpus):
            return (self.tokens(product) or 0.0) * measured / found.count
        return self.operations(product) / self._rate("training", found.gpus) / found.count

    def operations(self, product: Product) -> float:
        """Those of the training of a leg or run, in FLOP."""
        length = self.grid.products[product.inputs_of("rows")[0]].spec["sequence_length"]
        return (self.tokens(product) or 0.0) * self._training_flops(_recipe(product).method, length)

    def _training_flops(self, method: dict[str, Any], length: int) -> float:
        """Of a token."""
        assert self._shape
        known = self._method(method)
        trained = known.trained_parameters(self.grid.study.model)
        return flops.trained(self._shape, self._parameters if known.is_adapter else 0, trained, length)

    def _method(self, spec: dict[str, Any]) -> Method:
        name = json.dumps(spec)
        if name not in self._methods:
            self._methods[name] = method_of(spec)
        return self._methods[name]

    def _asking(self, product: Product) -> float:
        """Of what a model reads and writes, on the GPUs of an evaluation's job."""
        gpus = self._resources.jobs.evaluation.gpus
        if measured := self._measured(product, gpus):
            return measured / max(gpus, 1)
        assert self._shape
        task, settings, items, share = self._asked(product)
        shots = settings.get("shots") or 0
        length = share * (task.size.read + shots * task.size.shot) / CHARACTERS_OF_TOKEN
        read = items * length * flops.read(self._shape, self._parameters, round(length)) / self._rate("reading", gpus)
        written = 0.0
        if task.writes:
            most = settings.get("max_new_tokens") or settings.get("max_length") or task.size.written
            each = min(most, share * task.size.written / CHARACTERS_OF_TOKEN)
            cost = flops.read(self._shape, self._parameters, round(length + each / 2))
            written = items * settings.get("samples", 1) * each * cost / self._rate("writing", gpus)
        return (read + written) / max(gpus, 1)

    def _judging(self, product: Product) -> float:
        task, settings, items, _ = self._asked(product)
        if not isinstance(task.answers, Programs):
            return 0.0
        if measured := self._measured(product, 0):
            return measured
        programs: int = items * settings.get("samples", 1)
        return programs * PROGRAM_SECONDS / self._resources.jobs.judging.cpus

    def _asked(self, product: Product) -> tuple[Task, dict[str, Any], int, float]:
        """The task, its settings, how many items it has, and how long they are beside the benchmark's own."""
        settings = product.spec
        if product.is_judged:
            settings = self.grid.products[product.inputs_of("samples")[0]].spec
        asked = Asked.read(settings)
        task = self.grid.study.evaluation.task(asked.task)
        records = next(
            self.grid.products[key].spec for key in product.inputs_of("records") if key.endswith(asked.records)
        )
        items = int(records.get("records") or records.get("limit") or task.items or UNKNOWN_ITEMS)
        return task, asked.settings, items, LENGTH if records["source"] == "generated" else 1.0

    def _decomposing(self, product: Product) -> float:
        """On the cores of a job of a cluster. What reads an adapter decomposes its small factors alone."""
        assert self._shape
        if measured := self._measured(product, 0):
            return measured
        spec = self._method_behind(product)
        sizes = self._shape.matrices
        whole = [size for size in sizes[: len(product.spec["whole"])] for _ in "01"]
        if rank := spec.get("rank"):
            # two factors are brought to triangles, by 2 r^2 operations for each of their rows
            work = float(sum(2 * int(rank) ** 2 * (rows + columns) for rows, columns in sizes))
        else:
            work = flops.singular_values(sizes)
        cores = min(self._resources.jobs.spectra.cpus, DECOMPOSING_CORES)
        return (work + flops.singular_values(whole)) / SINGULAR_VALUES / cores

    def _measuring(self, product: Product) -> float:
        spec, found = product.spec, self._resources.jobs.throughput.gpus
        rows: int = sum(spec["batch_rows"]) * (spec["steps"] + 1)
        length: int = spec["sequence_length"]
        return rows * length * self._training_flops(spec["method"], length) / self._rate("training", found)

    def _rate(self, work: str, gpus: int) -> float:
        """FLOP/s of one GPU, or of one core where there are no GPUs."""
        device = DEVICES[self._resources.devices.kind if gpus else CPU]
        share: float = getattr(ON_GPU if gpus else ON_CPU, work)
        return device.peak(self.grid.study.precision) * share

    def _method_behind(self, spectra: Product) -> dict[str, Any]:
        """That of the model which is decomposed."""
        subject = next(self.grid.products[key] for key in spectra.inputs if key.endswith(spectra.spec["subject"]))
        method: dict[str, Any] = subject.spec["method"] if subject.kind == "published" else _recipe(subject).method
        return method

    def _measured(self, product: Product, gpus: int) -> float | None:
        """Device-seconds that a product of the same work took, on the same kind of device; for training of a token.

        None where the store has none.
        """
        work = self._kind_of_work(product)
        if work not in self._costs:
            device = DEVICES[self._resources.devices.kind] if gpus else None
            others = self._made_by_work.get(work, [])
            looked_at = others[:: max(len(others) // _LOOKED_AT, 1)]
            found = [_cost(self.store.read(other.key), device) for other in looked_at]
            costs = [cost for cost in found if cost is not None]
            self._costs[work] = median(costs) if costs else None
        return self._costs[work]

    @cached_property
    def _made_by_work(self) -> dict[str, list[Product]]:
        made = self.store.made(product.key for product in self.grid) if self._measures else set()
        found: dict[str, list[Product]] = {}
        for product in self.grid:
            if product.key in made and product.kind in _MEASURED:
                found.setdefault(self._kind_of_work(product), []).append(product)
        return found

    def _kind_of_work(self, product: Product) -> str:
        """The same for products that cost the same, or of training as much for a token."""
        parts: list[Any] = [product.kind, product.is_judged]
        if product.kind in ("leg", "run"):
            recipe = _recipe(product)
            rows = self.grid.products[product.inputs_of("rows")[0]].spec
            parts = ["training", recipe.method, recipe.optimizer["name"], rows["batch_rows"], rows["sequence_length"]]
        elif product.kind == "spectra":
            parts += [self._method_behind(product), len(product.spec["whole"])]
        else:
            ours = ("subject", "versions", "sampled")
            parts.append({name: value for name, value in product.spec.items() if name not in ours})
        return json.dumps(parts)


def _recipe(product: Product) -> Recipe:
    return Trained.read(product.spec).recipe


def _cost(manifest: dict[str, Any] | None, device: Device | None) -> float | None:
    """Seconds, times the devices that were used, of a product; for training of a token.

    None where it was made on something else than `device` (None: a CPU), or by an earlier version that did not say.
    """
    if manifest is None:
        return None
    provenance = manifest["provenance"]
    if training := provenance.get("training"):
        names = {attempt["device"] for attempt in training["attempts"]}
        amount = manifest["results"].get("tokens")
    else:
        names = {name for name in [provenance.get("evaluation", {}).get("device")] if name}
        amount = 1
    if not amount or any(devices.known(name) is not device for name in names):
        return None
    return device_seconds(manifest) / float(amount)


def device_seconds(manifest: Mapping[str, Any]) -> float:
    """What a product took, by its manifest: seconds times devices, of all attempts at a training."""
    provenance = manifest["provenance"]
    if training := provenance.get("training"):
        return float(training["device_seconds"])
    return float(provenance["seconds"] * provenance.get("evaluation", {}).get("devices", 1))
