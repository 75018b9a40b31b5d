"""Every method: what it says of itself against transformers, peft and what is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.common.errors import UserError
from scripts.components.methods import METHODS, method_of
from scripts.components.modules import ALL_LINEAR
from scripts.study.load import load_study

LORA: dict[str, Any] = {"kind": "lora", "rank": 8, "alpha": 16.0, "modules": list(ALL_LINEAR)}
METHODS_TESTED: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": LORA,
    "two modules": LORA | {"modules": ["q_proj", "down_proj"]},
    "DoRA": LORA | {"decomposed": True},
    "PiSSA": LORA | {"initialization": "pissa"},
}


def test_all_are_tested() -> None:
    assert {method["kind"] for method in METHODS_TESTED.values()} == METHODS.keys()


def test_sentences_tell_them_apart() -> None:
    labels = [member.label for member in METHODS.values()]
    assert all(labels)
    assert len(set(labels)) == len(labels)


def llama() -> LlamaForCausalLM:
    """The demo's base model, without its weights."""
    shape = load_study("demo").model.architecture
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("name", METHODS_TESTED)
def test_trained_parameters_as_peft_counts_them(name: str) -> None:
    """On the meta device: shapes without weights."""
    spec, model = METHODS_TESTED[name], load_study("demo").model
    with torch.device("meta"):
        network: Any = llama()
        assert model.parameters == network.num_parameters()
        if spec["kind"] == "lora":
            dora = spec.get("decomposed", False)
            network = get_peft_model(network, LoraConfig(r=8, target_modules=list(spec["modules"]), use_dora=dora))
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert method_of(spec).trained_parameters(model) == trained


@pytest.mark.parametrize("name", METHODS_TESTED)
def test_what_is_written_has_the_size_that_is_forecast(name: str, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    out = tmp_path / "out"
    out.mkdir()
    method = method_of(METHODS_TESTED[name])
    built = method.build(tmp_path / "base", 0, None, "fp32")
    model = load_study("demo").model
    trained = sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
    assert method.trained_parameters(model) == trained
    method.save(built, out)
    written = 0
    for file in out.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            written += sum(tensors.get_tensor(key).size for key in tensors.keys())  # noqa: SIM118
    assert method.written_parameters(model) == written


@pytest.mark.parametrize("name", METHODS_TESTED)
def test_a_spec_is_read_back(name: str) -> None:
    method = method_of(METHODS_TESTED[name])
    assert method_of(method.spec()).spec() == method.spec()


def test_cells_say_what_a_method_of_the_paper_is() -> None:
    assert method_of(METHODS_TESTED["full"]).cells() == {}
    assert method_of(LORA).cells() == {"rank": 8, "alpha": "16", "modules": "all"}
    some = method_of(LORA | {"alpha": 0.5, "modules": ["k_proj", "gate_proj"]}).cells()
    assert some == {"rank": 8, "alpha": "0.5", "modules": "gate_proj+k_proj"}


def test_unknown_method() -> None:
    with pytest.raises(UserError, match="The method 'ia3' is unknown; allowed are full, lora"):
        method_of(LORA | {"kind": "ia3"})
