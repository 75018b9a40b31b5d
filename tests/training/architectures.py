"""Tiny random models of the architectures that docs/architectures.md tells of, built from transformers' own configs.

python -m tests.training.architectures, which writes the table there.
"""

from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
HEAD = "## The table\n\n"
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

_LOGITS = "its logits are scaled behind the output layer"
_WINDOWS = "sliding windows"

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
    "GPT-NeoX": ("gpt_neox", {**_SHAPE, "hidden_dropout": 0.1}),
    "OPT": ("opt", {**_SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2, "layerdrop": 0.1}),
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
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        | {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1},
    ),
    "Mixtral": ("mixtral", {**_SHAPE, **_GROUPED, "num_local_experts": 4}),
}
"""Name to transformers' `model_type` and what its config is given; windows are shorter than the tests' rows."""

FACTS = {
    "Gemma3": _WINDOWS,
    "Mistral": _WINDOWS,
    "Phi-3": _WINDOWS,
    "OPT": "its dropout is off",
    "Falcon": "its dropout, if any, is off",
    "GPT-2": "its dropout is off",
    "Granite": _LOGITS,
    "Cohere": _LOGITS,
}
"""What of an architecture is honoured, and would be lost on the way to a loss computed as a Llama's."""

WORDS = ("all-linear", "attention", "mlp")


def config(name: str) -> dict[str, Any]:
    """What stands in config.json."""
    kind, settings = ARCHITECTURES[name]
    return {"model_type": kind, **settings}


def lora(modules: str) -> dict[str, Any]:
    return {"kind": "lora", "rank": 2, "alpha": 4.0, "modules": modules, "dropout": 0.1}


def refusals(name: str) -> dict[str, str]:
    """The sentence for each of `full` and WORDS with which an architecture is refused; "" where it is trained."""
    from scripts.common.errors import UserError
    from scripts.components.methods import method_of
    from scripts.models.architecture import skeleton

    try:
        network = skeleton(config(name), "the model")
    except UserError as refused:
        return dict.fromkeys(("full", *WORDS), str(refused))
    found = {"full": ""}
    for word in WORDS:
        try:
            method_of(lora(word)).require_modules(network, "the model")
            found[word] = ""
        except UserError as refused:
            found[word] = str(refused)
    return found


def table() -> str:
    """The table in docs/architectures.md."""
    from scripts.common.errors import UserError
    from scripts.models.architecture import linear_modules, skeleton

    lines = ["| architecture | `model_type` | full | LoRA | `attention` | `mlp` | honoured |", "|" + "---|" * 7]
    notes: dict[str, int] = {}
    for name, (kind, _) in ARCHITECTURES.items():
        refused = refusals(name)
        parts: dict[str, list[str]] = {"attention": [], "mlp": []}
        try:
            for module, part in linear_modules(skeleton(config(name), name)).items():
                parts[part].append(f"`{module.rpartition('.')[2]}`")
        except UserError:
            pass
        adapted = [word for word in WORDS if not refused[word]]
        marks = []
        for cell, sentences in (
            ("yes" if not refused["full"] else "no", [refused["full"]]),
            (
                "yes" if len(adapted) == len(WORDS) else ", ".join(f"`{word}`" for word in adapted) or "no",
                [refused[word] for word in WORDS],
            ),
        ):
            numbers = {notes.setdefault(sentence, len(notes) + 1) for sentence in sentences if sentence}
            marks.append(" ".join([cell, *(f"({number})" for number in sorted(numbers))]))
        columns = [", ".join(dict.fromkeys(parts[part])) for part in ("attention", "mlp")]
        lines.append("| " + " | ".join([name, f"`{kind}`", *marks, *columns, FACTS.get(name, "")]) + " |")
    return "\n".join([*lines, "", *(f"({number}) {sentence}  " for sentence, number in notes.items())]) + "\n"


def make(name: str, directory: Path) -> Path:
    """Writes the model directory of an architecture, with random weights, the same in every call."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(directory)
    return directory


if __name__ == "__main__":
    print(f"{DOCUMENT}: {len(ARCHITECTURES)} architectures")
    before, _, _ = DOCUMENT.read_text(encoding="utf-8").partition(HEAD)
    DOCUMENT.write_text(before + HEAD + table(), encoding="utf-8")
