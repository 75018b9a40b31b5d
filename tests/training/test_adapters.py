"""LoRA against numpy in float64 and against plain peft; what is written and read back."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from scripts.common.errors import UserError
from scripts.components.methods.full import Full
from scripts.components.methods.lora import Lora
from scripts.loading.models import load_model
from scripts.training.dropout import dropout_of, keep_mask
from scripts.training.loop import Fit
from scripts.training.model import trainable_model

pytestmark = pytest.mark.arithmetic

TOKENS = torch.arange(3, 35).view(2, 16)


def adapters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if "lora_" in name}


@pytest.fixture
def filled(base: Path, words: SimpleNamespace) -> torch.nn.Module:
    """A LoRA model whose B is not zero."""
    model = trainable_model(base, words.LORA, 0, None).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in adapters(model).items():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=draw))
    return model


@pytest.mark.parametrize("module", ["self_attn.k_proj", "mlp.down_proj"])
def test_forward_and_merge_equal_numpy(filled: torch.nn.Module, tmp_path: Path, base: Path, module: str) -> None:
    Lora.save(filled, tmp_path)
    name = f"model.layers.1.{module}"
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"].double().numpy() for part in "AB")
    w = load_file(base / "model.safetensors")[f"{name}.weight"].double().numpy()
    assert a.shape == (2, w.shape[1])
    assert b.shape == (w.shape[0], 2)
    merged = w + 4.0 / 2 * b @ a

    x = np.random.default_rng(0).normal(size=(5, w.shape[1]))
    with torch.no_grad():
        forward = filled.get_submodule(f"base_model.model.{name}")(torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(forward, x @ merged.T, atol=1e-5)
    found = load_model(base, tmp_path, "lora").get_submodule(name).weight.detach().numpy()
    np.testing.assert_allclose(found, merged, atol=1e-6)


def test_plain_peft_reads_the_same_model(filled: torch.nn.Module, tmp_path: Path, base: Path) -> None:
    Lora.save(filled, tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path).eval()
    with torch.no_grad():
        expected = filled(TOKENS).logits
        assert torch.equal(plain(TOKENS).logits, expected)
        assert torch.equal(load_model(base, tmp_path, "lora", merge=False)(TOKENS).logits, expected)
        merged = load_model(base, tmp_path, "lora")
        assert not isinstance(merged, PeftModel)
        torch.testing.assert_close(merged(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(load_model(base, None, None)(TOKENS).logits, expected, atol=1e-2)


def test_full_weights_come_back(base: Path, tmp_path: Path, words: SimpleNamespace) -> None:
    model = trainable_model(base, words.FULL, 0, None).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.1)
        Full.save(model, tmp_path)
        assert torch.equal(load_model(base, tmp_path, "full")(TOKENS).logits, model(TOKENS).logits)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    assert all(value.requires_grad for value in model.parameters())


def test_untrained_lora_is_the_base_model(base: Path, words: SimpleNamespace) -> None:
    with torch.no_grad():
        untrained = trainable_model(base, words.LORA, 0, None)(TOKENS).logits
        assert torch.equal(untrained, load_model(base, None, None)(TOKENS).logits)


def test_initialisation_depends_on_the_seed_alone(base: Path, words: SimpleNamespace) -> None:
    torch.manual_seed(100)
    first = adapters(trainable_model(base, words.LORA, 1, None))
    follows = torch.rand(1)
    torch.manual_seed(100)
    assert torch.equal(torch.rand(1), follows)  # nobody else's random numbers are used up
    again = adapters(trainable_model(base, words.LORA, 1, None))
    other = adapters(trainable_model(base, words.LORA, 2, None))
    assert len(first) == 2 * 7 * 2
    for name, value in first.items():
        assert value.requires_grad
        assert torch.equal(again[name], value)
        if "lora_B" in name:
            assert not value.any()
        else:
            assert not torch.equal(other[name], value)
            bound = value.shape[1] ** -0.5  # Kaiming-uniform with a = sqrt(5)
            assert 0.8 * bound < value.abs().max() <= bound


def test_only_adapters_are_trained(base: Path, words: SimpleNamespace) -> None:
    model = trainable_model(base, words.LORA | {"modules": ["q_proj", "v_proj"]}, 0, None)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert all(".q_proj.lora_" in name or ".v_proj.lora_" in name for name in trained)


def test_attention_dropout_is_not_saved(base: Path, words: SimpleNamespace, tmp_path: Path) -> None:
    exact = load_model(base, None, None)(TOKENS).logits
    model = trainable_model(base, words.FULL, 0, None, 0.3).train()
    with torch.no_grad(), dropout_of(0, 0, torch.arange(len(TOKENS))[:, None], torch.arange(TOKENS.shape[1])):
        assert not torch.allclose(model(TOKENS).logits, exact, atol=1e-2)
        assert torch.equal(model.eval()(TOKENS).logits, exact)
    Full.save(model, tmp_path)  # what is saved is evaluated and finetuned further without
    assert torch.equal(load_model(base, tmp_path, "full").train()(TOKENS).logits, exact)


def test_lora_dropout_is_on_the_input_of_a(filled: torch.nn.Module, base: Path, words: SimpleNamespace) -> None:
    model = trainable_model(base, words.LORA | {"dropout": 0.25}, 0, None).train()
    model.load_state_dict(filled.state_dict())
    module = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    rows, positions = torch.tensor([0, 0, 7]), torch.tensor([2, 3, 2])
    kept = keep_mask(5, 6, "model.layers.0.mlp.up_proj", rows, positions, 32, 0.25)
    with torch.no_grad():
        with dropout_of(5, 6, rows, positions):
            found = module(x).numpy()
        w, a, b = (
            part.weight.double().numpy()
            for part in (module.base_layer, module.lora_A["default"], module.lora_B["default"])
        )
        assert sorted(set(kept.flatten().tolist())) == pytest.approx([0, 4 / 3])
        dropped = (kept * x).double().numpy()
        np.testing.assert_allclose(found, x.numpy() @ w.T + 4.0 / 2 * dropped @ a.T @ b.T, atol=1e-5)
        assert torch.equal(model.eval()(TOKENS).logits, filled(TOKENS).logits)


def test_adapter_bytes_hold_no_path_and_no_order(filled: torch.nn.Module, tmp_path: Path, base: Path) -> None:
    Lora.save(filled, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    text = (tmp_path / "adapter_config.json").read_text()
    assert str(base) not in text
    modules = json.loads(text)["target_modules"]
    assert modules == sorted(modules)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ia3"}, "'ia3' is unknown; allowed are full, lora"),
        (
            {"modules": ["q_proj", "c_attn"]},
            "no linear module 'c_attn'; allowed are .*, or instead of a list all",
        ),
        ({"rank": 0}, "lora.rank: Input should be greater than 0"),
    ],
)
def test_bad_method(base: Path, words: SimpleNamespace, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trainable_model(base, words.LORA | change, 0, None)


def test_a_base_model_without_these_modules(words: SimpleNamespace, tmp_path: Path) -> None:
    """GPT-2 has one module for queries, keys and values, and none of its linear modules is an `nn.Linear`."""
    GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=4, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no linear module 'q_proj'; allowed are c_attn, c_fc, c_proj"):
        trainable_model(tmp_path, words.LORA | {"modules": ["q_proj"]}, 0, None)


def test_start_of_another_method(job: Callable[..., Fit], words: SimpleNamespace, base: Path) -> None:
    leg = job("leg", method=words.LORA | {"modules": ["q_proj"]}, stop_step=1, keep_optimizer=True)
    words.train(leg)
    with pytest.raises(UserError, match="is not one of this method on this base model"):
        trainable_model(base, words.LORA, 0, leg.out)
    with pytest.raises(UserError, match="'ia3' is unknown; allowed are full, lora"):
        load_model(base, leg.out, "ia3")
