"""Takes a model of the Hugging Face hub at a commit, after a look at its shape; safetensors alone, never pickle."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.common.files import read_object
from scripts.data.hub import Repository
from scripts.models.architecture import SHAPE, skeleton

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"


def take_model(
    repository: Repository,
    revision: str,
    files: Mapping[str, str | None],
    wanted: list[str],
    architecture: Mapping[str, Any] | None,
    out: Path,
    scratch: Path,
) -> None:
    """Takes the weights of a model and those of the `wanted` files that it has; what it is is checked first.

    Args:
        files: what `Repository.files` says of the commit.
        architecture: the shape that the model must have; unchecked, if None.
        scratch: see `Repository.take`.

    Raises:
        UserError: no safetensors, another shape, an architecture that cannot be trained here, or what `Repository.take`
            raises.
    """
    network = read_architecture(repository, revision, files, scratch)
    if architecture is not None:
        check_shape(network.config, architecture, repository)
    parts = [WEIGHTS]
    if INDEX in files:
        parts = [INDEX, *shards(repository.download(INDEX, revision, files[INDEX], scratch), files, repository)]
    chosen = dict.fromkeys([*(name for name in wanted if name in files), *parts])
    repository.take({name: files[name] for name in chosen}, revision, out, scratch)


def read_architecture(
    repository: Repository, revision: str, files: Mapping[str, str | None], cache: Path | None = None
) -> Any:
    """The `skeleton` of a model of the hub, of which its config.json alone is downloaded.

    Args:
        files: what `Repository.files` says of the commit.
        cache: see `Repository.download`.

    Raises:
        UserError: it has none or no weights in safetensors, it cannot be had, or what `skeleton` raises.
    """
    if CONFIG not in files:
        raise UserError(f"{repository}: has no {CONFIG} at the commit {revision[:12]}; it is no model of transformers")
    require_safetensors(files, repository)
    config = read_object(repository.download(CONFIG, revision, files[CONFIG], cache), repository)
    return skeleton(config, repository)


def require_safetensors(files: Collection[str], where: object) -> None:
    """Raises UserError where a model with these files has no weights in safetensors."""
    if INDEX not in files and WEIGHTS not in files:
        pickled = sorted(path for path in files if path.endswith((".bin", ".pt", ".pth")))
        has = f"pickled weights alone ({pickled[0]}), which are never loaded" if pickled else "no weights"
        raise UserError(f"{where}: has {has}; safetensors are needed ({WEIGHTS} or {INDEX})")


def require_rows(tokens: int, rows: int, where: object) -> None:
    """Raises UserError where a tokenizer has more tokens than the model that it comes with has rows of embedding."""
    if tokens > rows:
        raise UserError(f"{where}: its tokenizer has {tokens} tokens, and its embedding {rows} rows (vocab_size)")


def shards(index: Path, files: Collection[str], where: object) -> list[str]:
    """The names of the files that an index says weights lie in.

    Raises:
        UserError: it is no index, or names a file that is not among `files`.
    """
    named = read_object(index, where).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise UserError(f"{where}: its {INDEX} has no weight_map")
    parts = sorted(set(map(str, named.values())))
    if lost := [part for part in parts if part not in files]:
        raise UserError(f"{where}: its {INDEX} names {lost[0]}, which it does not have")
    return parts


def check_shape(config: Any, architecture: Mapping[str, Any], where: object) -> None:
    """Compares a transformers config with the study's `model.architecture`, as far as it has such numbers.

    Raises:
        UserError: they differ; the sentence names every difference.
    """
    found = {key: getattr(config, theirs, None) for key, theirs in SHAPE.items()}
    differences = [
        f"{key} is {found[key]}, not {architecture[key]}"
        for key in SHAPE
        if key in architecture and found[key] not in (None, architecture[key])
    ]
    if differences:
        raise UserError(f"{where}: has another shape than the study's model.architecture: {', '.join(differences)}")
