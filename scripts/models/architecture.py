"""What the architecture of a model is, told from its config.json before any weight is there."""

from collections.abc import Mapping
from typing import Any, Literal

from scripts.common.errors import UserError
from scripts.components.models import DTYPES

Part = Literal["attention", "mlp"]
SHAPE = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "context": "max_position_embeddings",
    "vocabulary": "vocab_size",
}
"""What a study calls the parts of a shape, and what transformers does."""


def skeleton(config: Mapping[str, Any], where: object) -> Any:
    """The transformers model of a config.json, without memory for its weights.

    Raises:
        UserError: transformers has no such causal language model, or none that can be trained here.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_layers import GradientCheckpointingLayer

    kind = str(config.get("model_type"))
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise UserError(
            f"{where}: its weights are quantized ({method or 'quantization_config'} in its config.json); "
            "take the model that they were made from"
        )
    if config.get("is_encoder_decoder"):
        raise UserError(
            f"{where}: is an encoder with a decoder (model_type {kind!r}); causal language models are trained here"
        )
    try:
        read = AutoConfig.for_model(kind, **{key: value for key, value in config.items() if key != "model_type"})
        with torch.device("meta"):
            network: Any = AutoModelForCausalLM.from_config(read)  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise UserError(
            f"{where}: transformers makes no causal language model of its config.json, whose model_type is {kind!r}"
        ) from error
    obstacle = None
    if not network._supports_sdpa:
        obstacle = "transformers does not have its attention by torch's scaled_dot_product_attention"
    elif not any(isinstance(part, GradientCheckpointingLayer) for part in network.modules()):
        obstacle = "transformers does not have its decoder layers as layers that can be checkpointed"
    elif any(getattr(part, "is_causal", True) is False for part in network.modules()):
        obstacle = "its attention sees what comes after a token: it is an encoder"
    elif getattr(read, "output_router_logits", False):
        obstacle = "its loss has a part for the balance of its experts (output_router_logits)"
    if obstacle:
        raise UserError(
            f"{where}: a model of the kind {kind!r} cannot be trained here, as {obstacle}; "
            "choose one of an architecture that docs/architectures.md has"
        )
    return network


def measured(network: Any, where: object, **otherwise: int) -> dict[str, Any]:
    """What ``config/data.lock`` has of an architecture, see `scripts.components.models.LockedArchitecture`.

    Args:
        network: its `skeleton`.
        otherwise: what is taken where its config.json does not say it.

    Raises:
        UserError: it does not, and nothing else does.
    """
    config = network.config.get_text_config(decoder=True)
    found: dict[str, Any] = {key: getattr(config, theirs, None) or otherwise.get(key) for key, theirs in SHAPE.items()}
    if found["intermediate_size"] is None:  # GPT-2's, Falcon's: the wide side of the MLP's matrices
        mlp = [name for name, part in linear_modules(network).items() if part == "mlp"]
        found["intermediate_size"] = max((max(network.get_submodule(name).weight.shape) for name in mlp), default=None)
    if lost := [key for key, value in found.items() if value is None]:
        raise UserError(f"{where}: its config.json does not say its {lost[0]} ({SHAPE[lost[0]]})")
    heads = found["heads"]
    return {
        **found,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or found["hidden_size"] // heads,
        "tied": bool(config.tie_word_embeddings),
        "parameters": network.num_parameters(),
        "dtype": dtype if (dtype := str(config.dtype).removeprefix("torch.")) in DTYPES else "float32",
    }


def linear_modules(network: Any) -> dict[str, Part]:
    """The linear modules of a transformers model's decoder layers, by their full names, and what they are part of.

    Those inside of a module that is called an attention belong to it, all others of a layer to its MLP. The output
    layer is none of them. Experts that lie in one tensor are no modules.
    """
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.pytorch_utils import Conv1D

    found: dict[str, Part] = {}
    for layer_name, layer in network.named_modules():
        if not isinstance(layer, GradientCheckpointingLayer):
            continue
        attentions = [name for name, part in layer.named_modules() if name and "Attention" in type(part).__name__]
        for name, part in layer.named_modules():
            if isinstance(part, torch.nn.Linear | Conv1D):
                inside = any(name.startswith(f"{attention}.") for attention in attentions)
                found[f"{layer_name}.{name}"] = "attention" if inside else "mlp"
    return found


def has_experts(network: Any) -> bool:
    """Whether a layer's experts are not modules but parts of one tensor [experts, rows, columns]."""
    return any(value.ndim == 3 and "experts" in name for name, value in network.named_parameters())
