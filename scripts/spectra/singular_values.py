"""Computes the singular values of what a run changed in every linear matrix of its base model.

python -m scripts.spectra.singular_values KEY
"""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError, run
from scripts.launch.command import current_launch, find, make, product_parser
from scripts.launch.launch import Launch
from scripts.launch.missing import Missing
from scripts.plan.product import Product
from scripts.spectra.ranks import FILE, LINEAR, place, require_linear
from scripts.store.store import Build

if TYPE_CHECKING:
    from torch import Tensor

Report = Callable[[int, int, float], None]
"""Is told after each matrix how many are done, of how many, and which share of the work that is."""

_OF_A_LAYER = re.compile(r"\.\d+\.")
_REPORT_SECONDS = 10.0
_DROWNED = 0.1
"""The share of a change's variance from which on rounding decides the rank that explains 90 % of it."""


def main(launch: Launch, name: str) -> None:
    """Makes what is missing of the spectra of one run, or of a family of them.

    Raises:
        UserError: no such product; its inputs are not there; run and base model do not belong together.
    """
    product = find(launch, name)
    if product.kind not in ("spectra", "decomposed"):
        raise UserError(f"{product.key}: is of the kind {product.kind!r}, not 'spectra'")
    members = [product]
    if product.members:
        members = [launch.grid.products[key] for key in Missing(launch.grid, launch.store).members(product.key)]
    for member in members:
        make(launch, member, builder(launch, member))
    if product.kind == "decomposed":
        make(launch, product, lambda out: {})
    print(f"{product.key}: complete")


def builder(launch: Launch, product: Product) -> Build:
    """Writes ``spectra.safetensors``: see `spectra`, and `scripts.spectra.ranks.read_spectra` for reading it.

    Where finetuned weights lie in 16 bits the results have `rounding`: of every matrix, which share of the variance of
    its change rounding is expected to be.

    Of a model whose training diverged nothing is written; the results say at which step it did.
    """
    subject = next(key for key in product.inputs if key.endswith(product.spec["subject"]))
    base = next(key for key in product.inputs if key != subject)

    def decompose(out: Path) -> dict[str, Any]:
        from safetensors.torch import save_file

        store = launch.store
        if diverged := store.require(subject)["results"].get("diverged"):
            return {"diverged": diverged["step"]}
        try:
            values, shapes, noise = spectra(
                store.bytes_of(base), store.bytes_of(subject), product.spec["whole"], _reporter(product.name)
            )
        except UserError as error:
            raise UserError(f"{product.key}: {error}") from error
        save_file(values, out / FILE)
        results = {"matrices": len(shapes), "shapes": {name: list(shape) for name, shape in shapes.items()}}
        if noise:
            results["rounding"] = noise
            drowned = sum(share > _DROWNED for share in noise.values())
            print(
                f"{product.name}: the finetuned weights lie in 16 bits; in {drowned} of {len(noise)} matrices more "
                f"than {_DROWNED:.0%} of the change is their rounding, so that its rank says nothing",
                file=sys.stderr,
            )
        return results

    return decompose


def spectra(
    base: Path, finetuned: Path, whole: Sequence[str], report: Report
) -> tuple[dict[str, "Tensor"], dict[str, tuple[int, int]], dict[str, float]]:
    """Singular values of the difference between a finetuned and its base model (figures 6 and S7 of the paper).

    All arithmetic is in float64, whatever the weights are stored in, and one matrix is in memory at a time. The values
    come from a decomposition of the matrix itself: the roots of the eigenvalues of its Gram matrix would be quicker,
    and lose what lies below 1e-8 of the largest value.

    Args:
        base: a transformers model directory, its weights in one safetensors file or in several with an index.
        finetuned: such a directory with all weights; or a peft adapter directory (LoRA, DoRA). Of an adapter on a base
            model in 4 bits, what those take from the base model is no part of the difference.
        whole: names of matrices of which the base and the finetuned weights' own spectra are wanted too.
        report: see `Report`.

    Returns:
        ``delta.NAME`` for every linear matrix, ``base.NAME`` and ``tuned.NAME`` for those of `whole`: float64,
        [min(rows, columns)], from the largest value down. The shape of every linear matrix. And, of every matrix whose
        finetuned weights lie in 16 bits, the share of their rounding in the variance of the difference (`_Weights`).

    Raises:
        UserError: a matrix is missing in one of the two, has another shape, or holds a value that is not finite; the
            base model lacks one of `whole`; the adapter is of another kind than LoRA and DoRA.
    """
    from torch.linalg import svdvals

    before = _Tensors.of(base, "model")
    require_linear(before.matrices(), base)
    shapes = before.linears()
    if not shapes:
        raise UserError(f"{base} has no linear matrix of a name such as model.layers.0.self_attn.q_proj")
    if unknown := [name for name in whole if name not in shapes]:
        raise UserError(f"{base} has no linear matrix {unknown[0]!r}; it has {', '.join(list(shapes)[:3])}, ...")
    after: _Weights | _Adapter
    if (finetuned / "adapter_config.json").is_file():
        after = _Adapter.of(finetuned, before, shapes)
    else:
        after = _Weights.of(finetuned, before, shapes)
    values: dict[str, Tensor] = {}
    noise: dict[str, float] = {}
    # what a decomposition costs grows so
    work = {name: max(shape) * min(shape) ** 2 for name, shape in shapes.items()}
    done = 0
    for number, name in enumerate(shapes, start=1):
        values[f"delta.{name}"] = delta = after.difference(name)
        if isinstance(after, _Weights) and (rounding := after.rounding(name)) is not None:
            noise[name] = min(1.0, rounding / changed) if (changed := float(delta.square().sum())) else 0.0
        if name in whole:
            values[f"base.{name}"] = svdvals(before.read(f"{name}.weight"))
            values[f"tuned.{name}"] = svdvals(after.read(name))
        done += work[name]
        report(number, len(shapes), done / sum(work.values()))
    return values, shapes, noise


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a directory of safetensors files, read one by one."""

    directory: Path
    files: dict[str, Path]
    """Name of a tensor to the file that holds it."""

    @classmethod
    def of(cls, directory: Path, stem: str) -> "_Tensors":
        """Those in ``STEM.safetensors``, or in the files that ``STEM.safetensors.index.json`` names."""
        from safetensors import safe_open

        file, index = directory / f"{stem}.safetensors", directory / f"{stem}.safetensors.index.json"
        if index.is_file():
            entries = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return cls(directory, {name: directory / part for name, part in entries.items()})
        if not file.is_file():
            raise UserError(f"{directory} has no weights: neither {file.name} nor {index.name} is there")
        with safe_open(file, framework="pt") as opened:
            return cls(directory, dict.fromkeys(opened.keys(), file))

    def matrices(self) -> list[str]:
        """The modules of numbered layers that have a matrix, or several in one tensor, for a weight."""
        modules = (name.removesuffix(".weight") for name in self.files if name.endswith(".weight"))
        return [name for name in modules if _OF_A_LAYER.search(name) and len(self.shape(f"{name}.weight")) > 1]

    def linears(self) -> dict[str, tuple[int, int]]:
        """Linear matrices of the layers, in the layers' order, and their shapes: rows, columns."""
        modules = (name.removesuffix(".weight") for name in self.files if name.endswith(".weight"))
        names = sorted(filter(LINEAR.fullmatch, modules), key=place)
        shapes = {}
        for name in names:
            rows, columns = self.shape(f"{name}.weight")
            shapes[name] = (rows, columns)
        return shapes

    def shape(self, name: str) -> tuple[int, ...]:
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as opened:
            return tuple(opened.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors calls it: F32, BF16, F16."""
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as opened:
            return str(opened.get_slice(name).get_dtype())

    def read(self, name: str) -> "Tensor":
        """In float64."""
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name).double()
        if not tensor.isfinite().all():
            raise UserError(f"{self.files[name]} holds values in {name} that are not finite")
        return tensor


@dataclass(frozen=True)
class _Weights:
    """A model with all its weights."""

    before: _Tensors
    tensors: _Tensors

    @classmethod
    def of(cls, directory: Path, before: _Tensors, shapes: dict[str, tuple[int, int]]) -> "_Weights":
        tensors = _Tensors.of(directory, "model")
        found = tensors.linears()
        for one, other, lacking in ((shapes, found, directory), (found, shapes, before.directory)):
            if missing := [name for name in one if name not in other]:
                raise UserError(f"{lacking} has no linear matrix {missing[0]}, which the other model has")
        for name, shape in shapes.items():
            _check_shape(f"{name} in {directory}", found[name], shape)
        return cls(before, tensors)

    def read(self, name: str) -> "Tensor":
        return self.tensors.read(f"{name}.weight")

    def rounding(self, name: str) -> float | None:
        """The expected sum of squares of what the stored weights were rounded by; None where they lie in 32 bits.

        A number between 2**e and 2**(e + 1) lies in steps of 2**e * eps, and is off by the square of a step over 12 in
        the mean, as whatever is rounded evenly.
        """
        import torch

        stored = {"BF16": torch.bfloat16, "F16": torch.float16}.get(self.tensors.dtype(f"{name}.weight"))
        if stored is None:
            return None
        _, exponents = torch.frexp(self.read(name))
        eps = torch.full(exponents.shape, torch.finfo(stored).eps, dtype=torch.float64)
        steps = torch.ldexp(eps, exponents - 1)
        return float((steps.square() / 12).sum())

    def difference(self, name: str) -> "Tensor":
        """Singular values of finetuned minus base."""
        from torch.linalg import svdvals

        values: Tensor = svdvals(self.read(name) - self.before.read(f"{name}.weight"))
        return values


@dataclass(frozen=True)
class _Adapter:
    """LoRA: the base model's weights plus scaling * B A where there is an adapter, and unchanged elsewhere.

    DoRA: there each row of that sum has the length that the adapter says.
    """

    before: _Tensors
    tensors: _Tensors
    shapes: dict[str, tuple[int, int]]
    scaling: float
    decomposed: bool

    @classmethod
    def of(cls, directory: Path, before: _Tensors, shapes: dict[str, tuple[int, int]]) -> "_Adapter":
        file = directory / "adapter_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        # each of these makes the difference something else than is said above
        odd = [key for key in ("rank_pattern", "alpha_pattern", "fan_in_fan_out") if config.get(key)]
        if config.get("peft_type") != "LORA" or not isinstance(config.get("target_modules"), list) or odd:
            raise UserError(
                f"{file} is not of a plain LoRA adapter ({odd[0] if odd else 'peft_type or target_modules'}): "
                "spectra are there for peft_type LORA with a list of target_modules, without patterns"
            )
        rank, decomposed = config["r"], bool(config.get("use_dora"))
        tensors = _Tensors.of(directory, "adapter_model")
        expected: dict[str, tuple[int, ...]] = {}
        for name, (rows, columns) in shapes.items():
            # as peft takes them: a name, or its last words
            if any(f".{name}".endswith(f".{target}") for target in config["target_modules"]):
                expected |= {_factor(name, "A"): (rank, columns), _factor(name, "B"): (rows, rank)}
                expected |= {_lengths(name): (rows,)} if decomposed else {}
        for name, shape in expected.items():
            if name not in tensors.files:
                raise UserError(f"{directory} has no {name}, although its configuration names that module")
            _check_shape(f"{name} in {directory}", tensors.shape(name), shape)
        if other := sorted(tensors.files.keys() - expected.keys()):
            raise UserError(f"{directory} has {other[0]}, which belongs to no linear matrix of {before.directory}")
        scaling = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
        return cls(before, tensors, shapes, scaling, decomposed)

    def read(self, name: str) -> "Tensor":
        weight = self.before.read(f"{name}.weight")
        if _factor(name, "A") in self.tensors.files:
            a, b = (self.tensors.read(_factor(name, part)) for part in "AB")
            weight += self.scaling * b @ a
            if self.decomposed:
                weight *= (self.tensors.read(_lengths(name)) / weight.norm(dim=1))[:, None]
        return weight

    def difference(self, name: str) -> "Tensor":
        """Singular values of finetuned minus base.

        Of scaling * B A they are those of the small matrix between the orthogonal bases of B and A: as many as the
        rank, and the others are exactly zero.
        """
        import torch

        values = torch.zeros(min(self.shapes[name]), dtype=torch.float64)
        if _factor(name, "A") in self.tensors.files and self.decomposed:
            values = torch.linalg.svdvals(self.read(name) - self.before.read(f"{name}.weight"))
        elif _factor(name, "A") in self.tensors.files:
            a, b = (self.tensors.read(_factor(name, part)) for part in "AB")
            core = torch.linalg.qr(b, mode="r").R @ torch.linalg.qr(a.T, mode="r").R.T
            found = torch.linalg.svdvals(self.scaling * core)
            values[: len(found)] = found
        return values


def _factor(name: str, part: str) -> str:
    return f"base_model.model.{name}.lora_{part}.weight"


def _lengths(name: str) -> str:
    return f"base_model.model.{name}.lora_magnitude_vector"


def _check_shape(what: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise UserError(f"{what} has the shape {list(found)}; the base model asks for {list(expected)}")


def _reporter(name: str) -> Report:
    started = time.monotonic()
    last = -math.inf

    def report(done: int, total: int, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _REPORT_SECONDS and done < total:
            return
        last, spent = now, now - started
        print(
            f"{name}: matrix {done} of {total}, {60 * done / spent:.1f} a minute, "
            f"{spent * (1 - share) / share:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return report


if __name__ == "__main__":
    parser = product_parser(__doc__)
    run(lambda arguments: main(current_launch(arguments), arguments.product), parser)
