"""Takes a checkpoint that the paper's authors published, in the place of a run of one's own.

What a repository says of itself is not enough (the paper's repository of rank 64 was seen to hold an adapter of
rank 16): rank and modules are read off the weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.components.methods import METHODS
from scripts.components.methods.lora import ADAPTER
from scripts.components.models.hub import ModelEntry
from scripts.components.modules import llama
from scripts.data.hub import Repository
from scripts.models.fetch import CONFIG, take_model

ADAPTER_CONFIG = "adapter_config.json"


def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
    """Writes what a run of the method would have written: a peft adapter, or a transformers model directory."""
    repository = Repository("model", spec["repository"])
    revision = context.locked(spec["revision"], ModelEntry.key(repository.name))
    where = f"{repository}, branch {spec['branch']}"
    files = repository.files(revision)
    if not METHODS[spec["method"]["kind"]].is_adapter:
        if ADAPTER_CONFIG in files:
            raise UserError(f"{where}: holds an adapter ({ADAPTER_CONFIG}); a fully finetuned model is expected")
        take_model(repository, revision, files, [CONFIG], spec.get("architecture"), out, context.scratch)
    else:
        if lost := [name for name in (ADAPTER_CONFIG, ADAPTER) if name not in files]:
            raise UserError(f"{where}: has no {lost[0]}; a LoRA adapter in safetensors is expected")
        repository.take({name: files[name] for name in (ADAPTER_CONFIG, ADAPTER)}, revision, out, context.scratch)
        check_adapter(out, spec["method"], where)
    return {"repository": repository.name, "branch": spec["branch"], "revision": revision}


def check_adapter(directory: Path, method: Mapping[str, Any], where: str) -> None:
    """Compares an adapter with the method that it is to stand for: rank, modules, alpha.

    Args:
        directory: with adapter_config.json and adapter_model.safetensors.
        method: `rank`, `modules` and `alpha` of the study's method.

    Raises:
        UserError: they differ; the sentence says what was expected and what was found.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / ADAPTER, framework="numpy") as weights:
            shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{where}: {ADAPTER} cannot be read ({error})") from error
    # base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight, [rank, inputs]
    ranks = {name.split(".lora_A.")[0]: shape[0] for name, shape in shapes.items() if ".lora_A." in name}
    found = sorted(set(ranks.values()))
    if found != [method["rank"]]:
        ranks_found = " and ".join(map(str, found)) or "none (it has no lora_A weights)"
        raise UserError(f"{where}: rank {method['rank']} is expected, but its weights have rank {ranks_found}")
    modules, wanted = {name.rpartition(".")[2] for name in ranks}, llama(method["modules"])
    if modules != set(wanted):
        raise UserError(
            f"{where}: an adapter of {_listed(wanted)} is expected, but its weights adapt {_listed(modules)}"
        )
    config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if (config.get("r"), config.get("lora_alpha")) != (method["rank"], method["alpha"]):
        raise UserError(
            f"{where}: rank {method['rank']} and alpha {method['alpha']:g} are expected, but {ADAPTER_CONFIG} says "
            f"rank {config.get('r')} and alpha {config.get('lora_alpha')}"
        )
    if other := [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(key)]:
        raise UserError(f"{where}: plain LoRA is expected, but {ADAPTER_CONFIG} sets {other[0]}")


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
