"""A model in a transformers directory of one's own: which files of it count, what they say, and taking them."""

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.common.files import read_object
from scripts.components.making import DATA_LOCK, lock_command
from scripts.data.encoding import FILES, TOKENIZER, Encoding
from scripts.data.hub import TOKENIZER_FILES
from scripts.models.architecture import measured, skeleton
from scripts.models.fetch import CONFIG, INDEX, WEIGHTS, require_rows, require_safetensors, shards
from scripts.models.published import ADAPTER_CONFIG
from scripts.models.weights import NAMES, counted
from scripts.store.fingerprint import file_sha256

_TOKENIZER_FILES = tuple(name for name in TOKENIZER_FILES if name != "generation_config.json")
"""How a model samples by default decides nothing here."""


def locked(directory: Path) -> dict[str, Any]:
    """The entry of ``config/data.lock``: the SHA-256 of each file that counts, and the architecture that they have.

    Raises:
        UserError: it is no directory of a whole causal language model in safetensors, with its tokenizer.
    """
    weights = weight_files(directory)
    network = read_network(directory)
    architecture = measured(network, directory) | _numbers(directory, weights)
    if architecture["parameters"] < (whole := network.num_parameters()):
        raise UserError(
            f"{directory}: its safetensors hold {architecture['parameters']:,} weights, and a model of its {CONFIG} "
            f"has {whole:,}: they are not whole, or of another model"
        )
    require_rows(tokenizer(directory).size, architecture["vocabulary"], directory)
    files = {}
    for name in [*tokenizer_files(directory), *weights]:
        print(f"{directory / name}: reading", file=sys.stderr, flush=True)
        files[name] = file_sha256(directory / name)
    return {"files": files, "architecture": architecture}


def weight_files(directory: Path) -> list[str]:
    """The names of the files that the weights lie in, with that of their index.

    Raises:
        UserError: see `locked`.
    """
    if not directory.is_dir():
        what = "is not there"
        if directory.is_file():
            with directory.open("rb") as file:
                what = "is a GGUF file" if file.read(4) == b"GGUF" else "is a file"
        raise UserError(f"{directory}: {what}; a directory that transformers' save_pretrained wrote is needed")
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    if ADAPTER_CONFIG in names:
        raise UserError(
            f"{directory}: holds an adapter ({ADAPTER_CONFIG}); name the directory of a whole model, such as peft's "
            "merge_and_unload makes it"
        )
    if CONFIG not in names:
        below = sorted(path.parent.relative_to(directory) for path in directory.glob(f"*/*/{CONFIG}"))
        below = below or sorted(path.parent.relative_to(directory) for path in directory.glob(f"*/{CONFIG}"))
        hint = f"; there is one in {below[0]}" if below else ""
        raise UserError(f"{directory}: has no {CONFIG}, so it is no model of transformers{hint}")
    require_safetensors(names, directory)
    return [INDEX, *shards(directory / INDEX, names, directory)] if INDEX in names else [WEIGHTS]


def tokenizer_files(directory: Path) -> list[str]:
    """The names of the files that decide the tokenizer, config.json among them."""
    return [name for name in _TOKENIZER_FILES if (directory / name).is_file()]


def read_network(directory: Path) -> Any:
    """The `skeleton` of the model."""
    return skeleton(read_object(directory / CONFIG, directory), directory)


def tokenizer(directory: Path, *settings: Any) -> Encoding:
    """The tokenizer of the model; `settings` are those of `Encoding`."""
    if not (directory / TOKENIZER).is_file():
        raise UserError(f"{directory}: has no {TOKENIZER}; save the model's tokenizer beside its weights")
    files = {name: directory / name for name in tokenizer_files(directory) if name in FILES}
    return Encoding(files, directory, *settings)


def take(files: Mapping[str, str], directory: Path, out: Path, study: str) -> None:
    """Copies files of a directory that was locked; what a person does to them later reaches no copy.

    Args:
        files: name to SHA-256.

    Raises:
        UserError: one is not there any more, or is another; the sentence names the command that locks it anew.
    """
    first_small = sorted(files.items(), key=lambda file: file[0].endswith(".safetensors"))
    for number, (name, sha256) in enumerate(first_small, start=1):
        print(f"{directory}: {name} ({number} of {len(files)})", file=sys.stderr, flush=True)
        there = (directory / name).is_file()
        if there:
            shutil.copyfile(directory / name, out / name)
        if not there or file_sha256(out / name) != sha256:
            raise UserError(
                f"{directory}: its {name} is {'not the one' if there else 'gone'} that {DATA_LOCK} has "
                f"({sha256[:12]}...); restore it, or lock what is there now with `{lock_command(study)}`"
            )


def _numbers(directory: Path, weights: list[str]) -> dict[str, Any]:
    """How many weights there are, and what most of them are in: told by the heads of the safetensors."""
    from safetensors import SafetensorError

    counts: Counter[str] = Counter()
    for name in weights:
        if name == INDEX:
            continue
        try:
            counts += counted(directory / name)
        except SafetensorError as error:
            raise UserError(f"{directory}: its {name} cannot be read as safetensors ({error})") from error
    stored = max(counts, key=lambda dtype: counts[dtype], default="nothing")
    if stored not in NAMES:
        raise UserError(f"{directory}: its weights are in {stored}; allowed are {', '.join(NAMES)}")
    return {"parameters": counts.total(), "dtype": NAMES[stored]}
