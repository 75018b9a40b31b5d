"""Tiny random models of the architectures that docs/architectures.md tells of, built from transformers' own configs."""

from pathlib import Path
from typing import Any

VOCABULARY = 64
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_GROUPED = {"num_key_value_heads": 2}
_NARROW = {"head_dim": 8}
_WINDOW = {"sliding_window": 6}
_SLIDING = {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", _SHAPE),
    "Llama, tied embeddings": ("llama", {**_SHAPE, "tie_word_embeddings": True}),
    "Llama, grouped queries": ("llama", {**_SHAPE, **_GROUPED}),
    "Qwen2": ("qwen2", {**_SHAPE, **_GROUPED}),
    "Qwen3": ("qwen3", {**_SHAPE, **_GROUPED, **_NARROW}),
    "Gemma": ("gemma", {**_SHAPE, **_GROUPED, **_NARROW}),
    "Gemma2": ("gemma2", {**_SHAPE, **_GROUPED, **_NARROW, **_SLIDING, "final_logit_softcapping": 1.0}),
    "Gemma3": ("gemma3_text", {**_SHAPE, **_GROUPED, **_NARROW, **_SLIDING}),
    "Mistral": ("mistral", {**_SHAPE, **_GROUPED, **_WINDOW}),
    "Phi-3": ("phi3", {**_SHAPE, **_GROUPED, **_WINDOW, "resid_pdrop": 0.1, "embd_pdrop": 0.1}),
    "GPT-NeoX": ("gpt_neox", _SHAPE),
    "OPT": (
        "opt",
        {**_SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2, "dropout": 0.1},
    ),
    "OLMo2": ("olmo2", {**_SHAPE, **_GROUPED}),
    "SmolLM3": ("smollm3", {**_SHAPE, **_GROUPED, "no_rope_layer_interval": 2}),
    "Falcon": ("falcon", {**_SHAPE, "new_decoder_architecture": True, "num_kv_heads": 2, "hidden_dropout": 0.1}),
    "Granite": (
        "granite",
        {**_SHAPE, **_GROUPED, "logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    ),
    "Cohere": ("cohere", {**_SHAPE, **_GROUPED, "logit_scale": 0.0625}),
    "GPT-2": (
        "gpt2",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "initializer_range": 0.2,
        },
    ),
    "Mixtral": ("mixtral", {**_SHAPE, **_GROUPED, "num_local_experts": 4}),
}
"""Name to transformers' `model_type` and what its config is given; windows are shorter than the tests' rows."""


def make(name: str, directory: Path) -> Path:
    """Writes the model directory of an architecture, with random weights, the same in every call."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = ARCHITECTURES[name]
    config = AutoConfig.for_model(kind, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory
