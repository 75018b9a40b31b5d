"""What an architecture is, and which methods train it, is known from config.json: before any weight is downloaded."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.common.errors import UserError
from scripts.components.methods import method_of
from scripts.components.models import LockedArchitecture
from scripts.components.models.hub import HubModel
from scripts.models.architecture import linear_modules, measured, skeleton
from scripts.spectra.singular_values import spectra
from scripts.study import datalock
from tests.conftest import House, copy_checkout
from tests.standins.hub import Hub, use
from tests.training import architectures
from tests.vocabularies import small_files

ROOT = Path(__file__).resolve().parents[2]
NAME = "owner/net"
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 4, "context": 512, "vocabulary": 64}
SPLIT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
MODULES = {
    "Llama": (SPLIT, GATED),
    "Gemma3": (SPLIT, GATED),
    "Phi-3": (("self_attn.qkv_proj", "self_attn.o_proj"), ("mlp.gate_up_proj", "mlp.down_proj")),
    "GPT-NeoX": (("attention.query_key_value", "attention.dense"), ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")),
    "OPT": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"), ("fc1", "fc2")),
    "Falcon": (
        ("self_attention.query_key_value", "self_attention.dense"), ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
    "GPT-2": (("attn.c_attn", "attn.c_proj"), ("mlp.c_fc", "mlp.c_proj")),
    "Mixtral": (SPLIT, ()),
}  # fmt: skip
"""The linear modules of a layer, as the models' own papers and code call them: those of attention, those of the MLP."""


def config(name: str) -> dict[str, Any]:
    return architectures.config(name) | {"max_position_embeddings": 512}


@pytest.mark.parametrize("name", MODULES)
def test_linear_modules_are_those_of_attention_and_those_of_the_mlp(name: str) -> None:
    found = linear_modules(skeleton(config(name), name))
    layers = {"GPT-NeoX": "gpt_neox.layers", "OPT": "model.decoder.layers", "Falcon": "transformer.h"}
    at = layers.get(name, "transformer.h" if name == "GPT-2" else "model.layers")
    attention, mlp = MODULES[name]
    expected = {f"{at}.{layer}.{module}": "attention" for layer in range(2) for module in attention}
    assert found == expected | {f"{at}.{layer}.{module}": "mlp" for layer in range(2) for module in mlp}


@pytest.mark.parametrize("name", ["Gemma3", "Phi-3", "GPT-NeoX", "OPT", "Falcon", "GPT-2", "Mixtral", "Qwen3"])
def test_what_a_study_is_planned_by_is_read_of_any_architecture(name: str) -> None:
    """Whatever their configs call it; GPT-2 does not say the width of its MLP, which is four times its own."""
    network = skeleton(config(name), name)
    found = measured(network, name)
    LockedArchitecture.model_validate(found)
    assert (found["hidden_size"], found["layers"], found["heads"]) == (32, 2, 4)
    assert (found["vocabulary"], found["context"]) == (64, 512)
    assert found["intermediate_size"] == (128 if name == "GPT-2" else 48)
    assert found["parameters"] == sum(value.numel() for value in network.parameters())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as hub:
        use(hub, monkeypatch, tmp_path / "home")
        yield hub


GEMMA2 = {
    "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 512, "final_logit_softcapping": 1.0,
}  # fmt: skip
"""An attention with a softcap, which torch's scaled_dot_product_attention does not have."""
BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "modules", "reason"),
    [
        (GEMMA2, "all-linear", "a model of the kind 'gemma2' cannot be trained here"),
        ({"model_type": "nobody-has-it"}, "all-linear", "no causal language model of its config.json"),
        (config("Llama") | {"hidden_size": "32"}, "all-linear", "no causal language model of its config.json"),
        (config("Llama") | {"hidden_size": 64}, "all-linear", "hidden_size is 64, not 32"),
        (config("GPT-NeoX"), ["q_proj"], "(methods.lora) has no linear module 'q_proj'; allowed are dense, "),
        (config("Mixtral") | {"output_router_logits": True}, "attention", "the balance of its experts"),
        (config("Mixtral"), "mlp", "(methods.lora) has a mixture of experts"),
        (BERT, "all-linear", "its attention sees what comes after a token"),
    ],
    ids=["gemma2", "unknown", "types", "shape", "names", "balance", "experts", "encoder"],
)
def test_what_cannot_be_trained_is_refused_by_its_config(
    hub: Hub, changed: dict[str, Any], modules: Any, reason: str
) -> None:
    commit = hub.commit("model", NAME, {"config.json": json.dumps(changed).encode(), "model.safetensors": b"x"})
    model = HubModel.model_validate({"label": "net", "source": "hub", "repository": NAME, "architecture": SHAPE})
    lora = method_of({"kind": "lora", "rank": 2, "alpha": 4.0, "modules": modules})
    with pytest.raises(UserError) as refused:
        model.require_trainable({"revision": commit}, {"full": method_of({"kind": "full"}), "lora": lora})
    assert str(refused.value).startswith(f"model {NAME}")
    assert reason in str(refused.value)
    assert set(hub.downloads()) == {"config.json"}


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("Llama, grouped queries", ""),
        ("Gemma3", ""),
        ("Phi-3", "model.layers.0."),
        ("GPT-2", "transformer.h.0."),
        ("GPT-NeoX", "gpt_neox.layers.0."),
    ],
)
def test_spectra_are_of_all_linear_matrices_or_refused(hub: Hub, tmp_path: Path, name: str, unknown: str) -> None:
    """Before the model is downloaded; and again of its files, by whose names they are taken."""
    changed = {**config(name), "hidden_size": 32} if name == "GPT-2" else config(name)
    commit = hub.commit("model", NAME, {"config.json": json.dumps(changed).encode(), "model.safetensors": b"x"})
    model = HubModel.model_validate({"label": "net", "source": "hub", "repository": NAME, "architecture": SHAPE})
    base = architectures.make(name, tmp_path / "base")
    tries: list[Callable[[], object]] = [
        lambda: model.require_trainable({"revision": commit}, {}, decomposed=True),
        lambda: spectra(base, base, [], lambda *_: None),
    ]
    for attempt in tries:
        if not unknown:
            attempt()
            continue
        with pytest.raises(UserError, match="leave `spectra` out of the study") as refused:
            attempt()
        assert f"(model.layers.0.self_attn.q_proj), and {unknown}" in str(refused.value)


@pytest.mark.parametrize(("changed", "locked"), [(GEMMA2, False), (config("GPT-NeoX"), True)])
def test_only_what_can_be_trained_is_locked(hub: Hub, tmp_path: Path, changed: dict[str, Any], locked: bool) -> None:
    files = {"config.json": json.dumps(changed).encode(), "model.safetensors": b"x"}
    hub.commit("model", NAME, {**small_files(), **files})
    house = House(copy_checkout(ROOT, tmp_path / "house"))

    def finetunes(study: dict[str, Any]) -> None:
        study["model"] = {"label": "net", "source": "hub", "repository": NAME, "architecture": SHAPE}
        study["methods"]["lora-r2"]["modules"] = "all-linear"

    house.edit(finetunes)
    said = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=locked)
    assert "Traceback" not in said
    refused = [line for line in said.splitlines() if line.startswith("not locked: model: model owner/net: ")]
    assert len(refused) == (not locked)
    assert (f"model:{NAME}" in datalock.read(house.root / "config/data.lock")) == locked
