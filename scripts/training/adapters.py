"""Models to train and to evaluate: full finetuning and LoRA through peft, always in fp32 weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scripts.study.errors import UserError
from scripts.training.dropout import use_lora_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trainable_model(
    base: Path, method: Mapping[str, Any], seed: int, start: Path | None, attention_dropout: float = 0.0
) -> Any:
    """The model of `method` on the CPU, its trained parameters (and no others) requiring gradients.

    `start` is the directory of a leg end, whose weights are taken. Without one, LoRA has B = 0 and A drawn from
    Kaiming-uniform (peft's default) with `seed` alone: no earlier random number matters, nor does the device.
    `attention_dropout` is transformers' (on the attention's probabilities, while training) and is not written with
    the weights. `method` may have `dropout`, LoRA's on the input of A (absent: 0), which is scripts.training.dropout's.
    Raises UserError for an unknown kind and for modules that the base model does not have.
    """
    if method["kind"] == "full":
        return _with_attention_dropout(_pretrained(start or base), attention_dropout)
    if method["kind"] != "lora":
        raise UserError(f"The method kind {method['kind']!r} is unknown; allowed are full and lora.")
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    network = _with_attention_dropout(_pretrained(base), attention_dropout)
    parts = network.named_modules()
    linears = {name.rpartition(".")[2] for name, part in parts if isinstance(part, torch.nn.Linear)}
    if unknown := sorted(set(method["modules"]) - linears):
        allowed = ", ".join(sorted(linears))
        raise UserError(f"The base model {base} has no linear module {unknown[0]!r}; allowed are {allowed}.")
    config = LoraConfig(
        r=method["rank"],
        lora_alpha=method["alpha"],
        target_modules=list(method["modules"]),
        lora_dropout=method.get("dropout", 0.0),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(network, config)
    use_lora_dropout(model)
    if start is not None:
        adapter = load_file(start / "adapter_model.safetensors")
        if adapter.keys() != get_peft_model_state_dict(model, save_embedding_layers=False).keys():
            raise UserError(f"The adapter in {start} is not one of this method on this base model.")
        set_peft_model_state_dict(model, adapter)
    return model


def save_model(model: Any, out: Path) -> None:
    """Write the trained weights in fp32: a transformers model directory, or a peft adapter directory.

    The bytes depend on weights and method alone: no model card, no path of the base model, no order of a set.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import save_file

    if not isinstance(model, PeftModel):
        model.save_pretrained(out)
        return
    # save_embedding_layers="auto", the default, may ask the hub.
    adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in adapter.items()},
        out / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config: Any = model.peft_config["default"]
    entries = config.to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    entries["target_modules"] = sorted(config.target_modules)
    (out / "adapter_config.json").write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")


def load_model(base: Path, run: Path | None, method_kind: str | None, merge: bool = True) -> "PreTrainedModel":
    """The model to evaluate, in fp32 and in evaluation mode: the base model alone where `run` is None.

    `run` is what `save_model` wrote for `method_kind`. `merge` adds the adapter to the base weights
    (W + alpha / r * B A) in fp32, so that generation costs what it costs for the base model.
    """
    if run is None or method_kind == "full":
        model = _pretrained(run or base)
    elif method_kind == "lora":
        from peft import PeftModel

        model = PeftModel.from_pretrained(_pretrained(base), run)
        if merge:
            model = model.merge_and_unload()
    else:
        raise UserError(f"The method kind {method_kind!r} is unknown; allowed are full and lora.")
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def _with_attention_dropout(network: Any, probability: float) -> Any:
    """Set on the modules, not in the config: what is saved says nothing of how it was trained."""
    layers = [module for module in network.modules() if hasattr(module, "attention_dropout")]
    if probability and not layers:
        raise UserError(f"A base model of the kind {network.config.model_type!r} has no attention_dropout.")
    for module in layers:
        module.attention_dropout = probability
    return network


def _pretrained(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for every file loaded or saved would bury the run's own progress
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
