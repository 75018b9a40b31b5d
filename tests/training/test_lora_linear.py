"""The own forward pass of LoRA: equal to peft's, with less kept; what it does not know stays peft's."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.training import execution
from scripts.training.dropout import LoraDropout, dropout_of, use_lora_dropout
from scripts.training.lora_linear import LoraLinear, use_lora_linear
from scripts.training.parallel import decoder_layers

pytestmark = pytest.mark.arithmetic

TOKENS = torch.randint(3, 64, (3, 16), generator=torch.Generator().manual_seed(0))
CONFIG = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "attention_bias": True,
}  # fmt: skip
"""Adapted layers with a bias (q, k, v, o) and without (gate, up, down)."""


def adapted(
    modules: list[str], own: bool, dropout: float = 0.0, alpha: float = 4.0, dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Any:  # fmt: skip
    """Both kinds have the same weights, B among them, and the same dropout."""
    torch.manual_seed(1)
    network = LlamaForCausalLM(LlamaConfig(**CONFIG)).to(dtype)
    config = LoraConfig(
        r=2, lora_alpha=alpha, target_modules=modules, lora_dropout=dropout, task_type="CAUSAL_LM", **changes
    )
    model: Any = get_peft_model(network, config)
    use_lora_dropout(model)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.3)
        elif name.endswith("bias"):
            nn.init.normal_(value, std=0.1)
    if own:
        use_lora_linear(model)
    return model.train()


def trained(model: Any, step: int = 7) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits of a pass and the gradients of a loss."""
    model.zero_grad()
    with dropout_of(5, step, torch.arange(3)[:, None], torch.arange(16)):
        logits = model(TOKENS).logits
        logits.float().log_softmax(-1).gather(-1, TOKENS.roll(-1, 1)[..., None]).mean().neg().backward()
    return logits.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    assert len(found) == 28
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert (found[name] - value).norm() <= tolerance * value.norm(), name
        assert value.norm() > 0


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize(("alpha", "tolerance"), [(4.0, 0.0), (1.4, 1e-5)], ids=["power of two", "other scaling"])
def test_equals_peft(words: SimpleNamespace, dropout: float, alpha: float, tolerance: float) -> None:
    """Bit for bit where the scaling is a power of two, as alpha and rank of the paper and the demo make it."""
    modules = words.LORA["modules"]
    peft, own = (adapted(modules, kind, dropout, alpha) for kind in (False, True))
    assert sum(isinstance(part, LoraLinear) for part in own.modules()) == 14
    assert not any(isinstance(part, LoraLinear) for part in peft.modules())
    (expected, by_peft), (logits, by_own) = trained(peft), trained(own)
    torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)
    assert_close(by_own, by_peft, tolerance)
    assert list(own.state_dict()) == list(peft.state_dict())
    own.eval()
    peft.eval()
    with torch.no_grad():
        torch.testing.assert_close(own(TOKENS).logits, peft(TOKENS).logits, rtol=0, atol=tolerance)
        with own.disable_adapter(), peft.disable_adapter():
            assert torch.equal(own(TOKENS).logits, peft(TOKENS).logits)
        assert torch.equal(own.merge_and_unload()(TOKENS).logits, peft.merge_and_unload()(TOKENS).logits)


def one_layer(dropout: float, dtype: torch.dtype, own: bool = True) -> Any:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(6, 5))
    config = LoraConfig(r=2, lora_alpha=3.0, target_modules=["0"], lora_dropout=dropout)
    model: Any = get_peft_model(network, config)  # type: ignore[arg-type]
    use_lora_dropout(model)
    if own:
        use_lora_linear(model)
    layer = model.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer.to(dtype).train()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(dropout: float) -> None:
    layer = one_layer(dropout, torch.float64)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    with dropout_of(1, 2, torch.arange(2)[:, None], torch.arange(3)):
        assert torch.autograd.gradcheck(lambda *_: layer(x), (x, a, b))


def kept_by(run: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """What is kept for the backward pass, every storage once."""
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return list(found.values())


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_it_keeps_its_input_once_and_no_mask(words: SimpleNamespace, dropout: float) -> None:
    """q, k and v have one input; beside it there are h (of LoRA's rank), weights, and nothing as large."""
    sizes = {}
    for own in (False, True):
        model = adapted(words.LORA["modules"], own, dropout)
        attention = model.base_model.model.model.layers[0].self_attn
        x = torch.randn(3, 16, 32, requires_grad=True)

        def run(attention: Any = attention, x: torch.Tensor = x) -> torch.Tensor:
            with dropout_of(5, 7, torch.arange(3)[:, None], torch.arange(16)):
                return attention.q_proj(x) + attention.k_proj(x).repeat(1, 1, 2) + attention.v_proj(x).repeat(1, 1, 2)

        weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
        kept = [tensor for tensor in kept_by(run) if tensor.untyped_storage().data_ptr() not in weights]
        sizes[own] = sorted(tensor.numel() for tensor in kept)
    tokens = 3 * 16
    assert sizes[True] == [tokens * 2] * 3 + [tokens * 32]
    if dropout:  # peft's three inputs of A and three masks
        assert sum(sizes[False]) == sum(sizes[True]) + 5 * tokens * 32


def test_under_autocast_the_input_is_not_cast_up() -> None:
    """The base in bf16, the adapter in fp32: what is kept of the input's size is itself; peft's is a copy."""
    itself = {}
    for own in (False, True):
        layer = one_layer(0.0, torch.float32, own)
        layer.base_layer.bfloat16()
        x = torch.randn(40, 6, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            kept = kept_by(lambda layer=layer, x=x: layer(x))
            result = layer(x)
        itself[own] = [tensor.data_ptr() == x.data_ptr() for tensor in kept if tensor.numel() == x.numel()]
        assert result.dtype == torch.bfloat16
        result.float().sum().backward()
        assert {part["default"].weight.grad.dtype for part in (layer.lora_A, layer.lora_B)} == {torch.float32}
    assert itself == {False: [False], True: [True]}


def test_bf16_is_as_near_to_the_truth_as_peft(words: SimpleNamespace) -> None:
    modules = words.LORA["modules"]
    _, truth = trained(adapted(modules, False, 0.05))
    errors = {}
    for own in (False, True):
        model = adapted(modules, own, 0.05)
        execution.halve_frozen(model)
        with torch.autocast("cpu", torch.bfloat16):
            _, found = trained(model)
        flat, true = (torch.cat([kind[name].flatten() for name in truth]) for kind in (found, truth))
        errors[own] = ((flat - true).norm() / true.norm()).item()
    assert errors[True] <= max(1.5 * errors[False], 0.02)
    assert errors[True] < 0.1


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_checkpointed_layers_give_the_same_gradients(words: SimpleNamespace, dropout: float) -> None:
    model = adapted(words.LORA["modules"], True, dropout)
    expected, gradients = trained(model)
    model.base_model.model.activation_checkpointing_enable({"use_reentrant": False})
    logits, found = trained(model)
    assert torch.equal(logits, expected)
    assert all(torch.equal(found[name], value) for name, value in gradients.items())


def test_a_compiled_layer_is_one_graph_in_every_step(words: SimpleNamespace) -> None:
    """The mask is the step's, though the graph is the first step's; all layers share it, but for the first one."""
    from torch._dynamo.testing import CompileCounterWithBackend

    plain, model = (adapted(words.LORA["modules"], True, 0.05) for _ in range(2))
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    for layer in decoder_layers(model):
        layer.compile(backend=counter, fullgraph=True)
    for step in (3, 4):
        (expected, gradients), (logits, found) = trained(plain, step), trained(model, step)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
        assert_close(found, gradients, 1e-5)
    assert counter.frame_count <= 2, "the first layer's input needs no gradient"


def test_what_it_does_not_know_stays_peft_s() -> None:
    variants = {
        "DoRA": {"use_dora": True},
        "a bias of B": {"lora_bias": True},
        "rsLoRA": {"use_rslora": True},
    }
    for name, changes in variants.items():
        model = adapted(["q_proj", "up_proj"], True, **changes)
        kinds = {type(part) for part in model.modules() if isinstance(part, Linear)}
        assert kinds == ({LoraLinear} if name == "rsLoRA" else {Linear}), name
    network = nn.ModuleDict({"word": nn.Embedding(8, 4), "linear": nn.Linear(4, 4)})
    network.forward = lambda x: network["linear"](network["word"](x))  # type: ignore[method-assign]
    model = get_peft_model(network, LoraConfig(r=2, target_modules=["word", "linear"]))  # type: ignore[arg-type]
    use_lora_linear(model)
    assert sum(isinstance(part, LoraLinear) for part in model.modules()) == 1


def test_dropout_without_its_tokens_is_an_error(words: SimpleNamespace) -> None:
    model = adapted(words.LORA["modules"], True, 0.05)
    assert any(isinstance(part, LoraDropout) for part in model.modules())
    with pytest.raises(RuntimeError, match="needs to know its tokens"):
        model(TOKENS)
