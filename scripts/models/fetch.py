"""Takes a model of the Hugging Face hub at a commit, after a look at its shape; safetensors alone, never pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.common.files import read_object
from scripts.data.hub import Repository
from scripts.models.architecture import skeleton

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
_SHAPE = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "context": "max_position_embeddings",
    "vocabulary": "vocab_size",
}
"""What a study calls the parts of a shape, and what transformers does."""


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
        index = read_object(repository.download(INDEX, revision, files[INDEX], scratch), repository)
        parts = [INDEX, *sorted(set(index["weight_map"].values()))]
        if lost := [part for part in parts if part not in files]:
            raise UserError(f"{repository}: its {INDEX} names {lost[0]}, which it does not have")
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
    if INDEX not in files and WEIGHTS not in files:
        pickled = sorted(path for path in files if path.endswith((".bin", ".pt", ".pth")))
        has = f"pickled weights alone ({pickled[0]}), which are never loaded" if pickled else "no weights"
        raise UserError(f"{repository}: has {has}; safetensors are needed ({WEIGHTS} or {INDEX})")
    config = read_object(repository.download(CONFIG, revision, files[CONFIG], cache), repository)
    return skeleton(config, repository)


def check_shape(config: Any, architecture: Mapping[str, Any], where: object) -> None:
    """Compares a transformers config with the study's `model.architecture`, as far as it has such numbers.

    Raises:
        UserError: they differ; the sentence names every difference.
    """
    found = {key: getattr(config, theirs, None) for key, theirs in _SHAPE.items()}
    differences = [
        f"{key} is {found[key]}, not {architecture[key]}"
        for key in _SHAPE
        if key in architecture and found[key] not in (None, architecture[key])
    ]
    if differences:
        raise UserError(f"{where}: has another shape than the study's model.architecture: {', '.join(differences)}")
