"""Takes a model of the Hugging Face hub at a commit, after a look at its shape; safetensors alone, never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.data.hub import Repository

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
    """Takes the weights of a model and those of the `wanted` files that it has; the shape is checked first.

    Args:
        files: what `Repository.files` says of the commit.
        architecture: the shape that the model must have; unchecked, if None.
        scratch: see `Repository.take`.

    Raises:
        UserError: no safetensors, another shape, or what `Repository.take` raises.
    """
    if CONFIG not in files:
        raise UserError(f"{repository}: has no {CONFIG} at the commit {revision[:12]}; it is no model of transformers")
    if INDEX not in files and WEIGHTS not in files:
        pickled = sorted(path for path in files if path.endswith((".bin", ".pt", ".pth")))
        has = f"pickled weights alone ({pickled[0]}), which are never loaded" if pickled else "no weights"
        raise UserError(f"{repository}: has {has}; safetensors are needed ({WEIGHTS} or {INDEX})")

    def read(name: str) -> Any:
        path = repository.download(name, revision, files[name], scratch)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{repository}: its {name} is not valid JSON") from error

    if architecture is not None:
        check_shape(read(CONFIG), architecture, repository)
    parts = [WEIGHTS]
    if INDEX in files:
        parts = [INDEX, *sorted(set(read(INDEX)["weight_map"].values()))]
        if lost := [part for part in parts if part not in files]:
            raise UserError(f"{repository}: its {INDEX} names {lost[0]}, which it does not have")
    chosen = dict.fromkeys([*(name for name in wanted if name in files), *parts])
    repository.take({name: files[name] for name in chosen}, revision, out, scratch)


def check_shape(config: Mapping[str, Any], architecture: Mapping[str, Any], where: object) -> None:
    """Compares a config.json with the study's `model.architecture`.

    Raises:
        UserError: they differ; the sentence names every difference.
    """
    differences = [
        f"{key} is {config.get(theirs)}, not {architecture[key]}"
        for key, theirs in _SHAPE.items()
        if key in architecture and config.get(theirs) != architecture[key]
    ]
    if differences:
        raise UserError(f"{where}: has another shape than the study's model.architecture: {', '.join(differences)}")
