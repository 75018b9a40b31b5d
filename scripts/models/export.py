"""Takes a finished model out of the store, into a directory that transformers or peft loads without this project.

python -m scripts.models.export KEY DIRECTORY
python -m scripts.models.export KEY DIRECTORY --merge --dtype bfloat16

A fully finetuned model becomes a model directory of transformers, LoRA an adapter directory of peft; with `--merge`
the adapter is put into the base model's weights. The tokenizer that it was trained with and a model card come along.
"""

import argparse
import json
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.commands import python_command, snakemake_command
from scripts.common.errors import UserError, run
from scripts.common.files import read_object
from scripts.components.methods import METHODS, Method, method_of
from scripts.components.methods.lora import ADAPTER
from scripts.components.models import DTYPES
from scripts.data.encoding import Encoding
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.launch.missing import Missing
from scripts.models.card import Base, Finished, load_lines, model_card, template_of
from scripts.models.fetch import CONFIG
from scripts.models.published import ADAPTER_CONFIG
from scripts.models.weights import NAMES, counted
from scripts.plan.conditions import Condition
from scripts.plan.product import Key
from scripts.plan.specs import Trained
from scripts.store.fingerprint import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

ROUNDED_TO = ("float32", "bfloat16", "float16")
"""What weights can be rounded to."""
_GENERATION = "generation_config.json"
_KINDS = ("run", "published", "model")
"""The kinds of products that are finished models."""


@dataclass(frozen=True)
class Options:
    """How a model is taken out."""

    merge: bool = False
    """Whether an adapter is put into the weights of its base model."""
    dtype: str | None = None
    """One of `ROUNDED_TO`; None: as the weights lie, or float32 where an adapter is merged, as evaluation merges it."""
    base: str | None = None
    """What an adapter calls its base model: a repository of the hub, or a directory; None: as the study knows it."""


@dataclass(frozen=True)
class _Files:
    """What a directory is made of, by the names in it; the bytes are what the manifests say."""

    base: Path
    """The base model's directory in the store."""
    own: Path
    """The model's own, which is the same of the base model."""
    tokenizer: Path
    """Where the tokenizer lies that the model was trained with."""
    beside: dict[str, Path]
    """Configuration and tokenizer."""
    weights: dict[str, Path]
    """The adapter's, or the whole model's; where an adapter is merged, those that it is merged into."""


def main(launch: Launch, name: str, directory: Path, options: Options) -> None:
    """Writes the directory, complete or not at all, and prints how it is loaded and published.

    Args:
        launch: the study and the store.
        name: key of a run, a published checkpoint or the base model, with or without its fingerprint.
        directory: does not exist, or is empty.
        options: see there.

    Raises:
        UserError: there is no such model, it is not finished or its bytes are gone, it cannot be taken out in this way,
            there is no room for it, or something is there already.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: is there already and not empty; nothing is overwritten, name another directory")
    model = _finished(launch, name, options)
    files = _files(launch, model)
    dtype = _dtype_to_make(model, files, options)
    _require_room(directory, files, dtype)
    weights = _made(model, files, dtype) if dtype else None
    with _appearing(directory) as out:
        for name, path in (files.beside if dtype else files.beside | files.weights).items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)
        if weights is not None:
            _save(weights, out)
        study = launch.grid.study
        template = template_of(study, model.condition)
        encoding = Encoding.read(files.tokenizer, study.bos, study.join, template)
        _write_generation_config(files, out, encoding.ends)
        if model.is_adapter:
            _write_adapter_config(model, out)
        dtypes = " and ".join(sorted(_header(out)[1]))
        card = out / "README.md"
        card.write_text(model_card(launch, model, out, encoding, dtypes), encoding="utf-8")
        written = [path for path in out.rglob("*") if path.is_file()]
        for path in written:
            path.chmod(card.stat().st_mode)  # safetensors lets nobody else read what it writes
        size = sum(path.stat().st_size for path in written)
    print(
        f"{directory}: {model.key}{' merged into its base model' if model.is_merged else ''}, {dtypes}, {size:,} bytes"
    )
    print("\nTo load it:\n")
    print("\n".join(f"    {line}" for line in load_lines(model, json.dumps(str(directory)))))
    upload = shlex.join(["hf", "upload", f"YOUR_NAME/{directory.resolve().name}", str(directory)])
    print(f"\nTo put it on the Hugging Face hub, after a look at its README.md:\n\n    {upload}")


def _finished(launch: Launch, name: str, options: Options) -> Finished:
    """The model that is meant, and as what it is taken out."""
    grid = launch.grid
    product = grid.find(name)
    if product.kind not in _KINDS:
        raise UserError(
            f"{product.key}: is of the kind {product.kind!r} and no finished model; allowed are {', '.join(_KINDS)}"
        )
    manifest = _require_made(launch, product.key)
    _require_made(launch, grid.model.key)
    if diverged := manifest["results"].get("diverged"):
        raise UserError(
            f"{product.key}: training diverged at step {diverged['step']}, so there is no model to take out"
        )
    method = _method(product.spec)
    has_adapter = method is not None and method.is_adapter
    if options.merge and not has_adapter:
        raise UserError(f"{product.key}: has no adapter to merge; leave --merge out")
    if options.base is not None and (options.merge or not has_adapter):
        raise UserError(f"{product.key}: --base is for an adapter, and none is written here; leave it out")
    is_adapter = has_adapter and not options.merge
    base = Base(grid.model.spec.get("repository"), grid.model.spec.get("revision"))
    if is_adapter and options.base is not None:
        base = _said(launch, options.base)
    elif is_adapter and not base.name:
        merging = python_command("scripts.models.export", product.key, "DIRECTORY", "--merge")
        taking = python_command("scripts.models.export", grid.model.key, "BASE")
        raise UserError(
            f"{product.key}: its base model has no name on the hub for the adapter to give; `{merging}` writes a model "
            f"that needs no other, or `{taking}` writes the base model and `--base BASE` gives its name"
        )
    conditions = [one for block in grid.blocks.values() for one in block if one.product == product.key]
    return Finished(conditions, manifest, method, base, is_adapter)


def _method(spec: Mapping[str, Any]) -> Method | None:
    """The method of a run or a published checkpoint; None of the base model."""
    if spec["kind"] == "model":
        return None
    return method_of(spec["method"] if spec["kind"] == "published" else Trained.read(spec).recipe.method)


def _require_made(launch: Launch, key: Key) -> dict[str, Any]:
    """The manifest of a model; raises UserError with the command that makes it where there is none."""
    grid, missing = launch.grid, Missing(launch.grid, launch.store)
    if not missing.is_made(key):
        block = next(name for name, found in grid.blocks.items() if any(one.product == key for one in found))
        targets = [f"{launch.seen_store}/{job}.json" for job in missing.jobs(block, [key])]
        raise UserError(f"{key} is not made yet; `{snakemake_command(*targets)}` makes it")
    if key in missing.renamed:
        launch.store.link(grid.products[key], missing.renamed[key])
    return launch.store.require(key)


def _said(launch: Launch, name: str) -> Base:
    """The base model that `--base` names.

    Raises:
        UserError: it is neither a directory with the weights of the study's base model nor a repository's name.
    """
    directory, key = Path(name), launch.grid.model.key
    if directory.is_dir():
        for file, known in launch.store.require(key)["files"].items():
            path = directory / file
            if _is_weights(file) and not (path.is_file() and file_sha256(path) == known["sha256"]):
                taking = python_command("scripts.models.export", key, "BASE")
                raise UserError(f"--base {name}: does not have the weights of {key}; `{taking}` writes them")
        return Base(directory=directory.resolve())
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(f"--base {name}: is neither a directory nor a repository's name, OWNER/NAME") from None
    return Base(name)


def _files(launch: Launch, model: Finished) -> _Files:
    """What the directory is made of; raises UserError where bytes are gone or damaged."""
    store, base, own = launch.store, launch.grid.model.key, model.key

    def found(key: str) -> dict[str, Path]:
        directory = store.bytes_of(key)
        return {name: directory / name for name in store.require(key)["files"]}

    of_base, of_own = found(base), found(own)
    beside = {name: path for name, path in of_base.items() if not _is_weights(name)}
    tokenizer = store.directory(base)
    if other := _own_tokenizer(launch, model.condition):
        configs = (CONFIG, _GENERATION)
        beside = {name: beside[name] for name in configs if name in beside}
        beside |= {name: path for name, path in found(other).items() if name not in configs}
        tokenizer = store.directory(other)
    if not model.is_merged:
        beside |= {name: path for name, path in of_own.items() if not _is_weights(name)}
    weights = {name: path for name, path in (of_base if model.is_merged else of_own).items() if _is_weights(name)}
    return _Files(store.directory(base), store.directory(own), tokenizer, beside, weights)


def _own_tokenizer(launch: Launch, condition: Condition) -> Key | None:
    """The product of a setting's own tokenizer, where it has one instead of the base model's."""
    if condition.is_base or launch.grid.study.settings[condition.setting].tokenizer is None:
        return None
    return launch.grid.rows(condition.setting, condition.seed).inputs_of("tokenizer")[0]


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json"))


def _header(*places: Path) -> tuple[int, set[str]]:
    """How many weights safetensors files, or those of a directory, have; and their types, as torch calls them."""
    files = [file for place in places for file in (place.glob("*.safetensors") if place.is_dir() else [place])]
    found = sum(map(counted, files), start=Counter[str]())
    return found.total(), {NAMES.get(dtype, dtype) for dtype in found}


def _tensors(files: _Files) -> list[Path]:
    return [path for name, path in files.weights.items() if name.endswith(".safetensors")]


def _dtype_to_make(model: Finished, files: _Files, options: Options) -> str | None:
    """What weights are made in; None where they are copied."""
    if model.is_merged:
        return options.dtype or "float32"
    return None if options.dtype is None or _header(*_tensors(files))[1] == {options.dtype} else options.dtype


def _require_room(directory: Path, files: _Files, dtype: str | None) -> None:
    """Raises UserError where the disk has less room than the files will take."""
    size = sum(path.stat().st_size for path in files.beside.values())
    if dtype:
        size += _header(*_tensors(files))[0] * DTYPES[dtype]
    else:
        size += sum(path.stat().st_size for path in files.weights.values())
    place = next(place for place in directory.resolve().parents if place.is_dir())
    if (free := shutil.disk_usage(place).free) < size:
        raise UserError(f"{directory}: takes {size / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB left")


def _made(model: Finished, files: _Files, dtype: str) -> Any:
    """A transformers model whose parameters are in `dtype`, or the tensors of an adapter.

    Raises:
        UserError: a weight is too large for it; or what `Method.load` raises.
    """
    if model.is_adapter:
        from safetensors.torch import load_file

        return {name: _rounded(name, value, dtype) for name, value in load_file(files.own / ADAPTER).items()}
    kind = "full" if model.method is None else model.method.kind
    network = METHODS[kind].load(files.base, files.own, True)
    for name, parameter in network.named_parameters():  # one after another: two copies of all of them may not fit
        parameter.data = _rounded(name, parameter.data, dtype)
    return network


def _rounded(name: str, value: "Tensor", dtype: str) -> "Tensor":
    import torch

    rounded = value.to(getattr(torch, dtype))
    if dtype == "float16" and not torch.isfinite(rounded).all():
        raise UserError(f"--dtype float16: {name} has a weight beyond its range; bfloat16 and float32 hold it")
    return rounded


def _save(weights: Any, out: Path) -> None:
    if isinstance(weights, dict):
        from safetensors.torch import save_file

        save_file(weights, out / ADAPTER, metadata={"format": "pt"})
        return
    from transformers import GenerationConfig

    weights.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # ours is written afterwards, and transformers refuses some
    weights.save_pretrained(out)


def _write_generation_config(files: _Files, out: Path, trained: Collection[int]) -> None:
    """The model's own, or what transformers makes of its config.json; its texts end where those in training ended."""
    from transformers import AutoConfig, GenerationConfig

    if path := files.beside.get(_GENERATION):
        entries = read_object(path, path.parent)
    else:
        config = AutoConfig.from_pretrained(files.beside[CONFIG].parent)
        entries = GenerationConfig.from_model_config(config).to_diff_dict()
    ends = entries.get("eos_token_id")
    if not {*trained} <= {*(ends if isinstance(ends, list) else [ends])}:
        entries["eos_token_id"] = sorted(trained) if len(trained) > 1 else min(trained)
    _write_json(out / _GENERATION, entries)


def _write_adapter_config(model: Finished, out: Path) -> None:
    entries = read_object(out / ADAPTER_CONFIG, model.key)
    named = {"base_model_name_or_path": model.base.name, "revision": model.base.revision}
    _write_json(out / ADAPTER_CONFIG, entries | named)


def _write_json(path: Path, entries: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _appearing(directory: Path) -> Iterator[Path]:
    """A directory beside `directory`, which becomes it when the block ends without error."""
    final = directory.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    new = final.with_name(f".{final.name}.{os.getpid()}")
    new.mkdir()
    try:
        yield new
        os.replace(new, final)  # refused where another process has filled it meanwhile
    finally:
        shutil.rmtree(new, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", help="key of a run or of the base model, with or without its fingerprint")
    parser.add_argument("directory", type=Path, help="what is written; must not exist, or be empty")
    parser.add_argument("--merge", action="store_true", help="put an adapter into the weights of its base model")
    parser.add_argument(
        "--dtype", choices=ROUNDED_TO, help="what weights are rounded to (default: as they lie; float32 with --merge)"
    )
    parser.add_argument(
        "--base",
        metavar="NAME",
        help="what an adapter calls its base model, where that is of no repository: OWNER/NAME, or a directory",
    )
    launch_options(parser)

    def by_hand(arguments: argparse.Namespace) -> None:
        options = Options(arguments.merge, arguments.dtype, arguments.base)
        main(current_launch(arguments), arguments.model, arguments.directory, options)

    run(by_hand, parser)
