"""Training on a GPU against the plain path: `make test-all ARGS='-m gpu'` on a machine that has one (about 5 minutes).

Compiled layers, varlen attention, the kernel of LoRA's dropout and checkpointing by need are only there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.training import execution
from scripts.training.agreement import require_agreement
from scripts.training.attention import is_varlen
from scripts.training.dropout import drop, dropout_of, use_lora_dropout
from scripts.training.lora_linear import use_lora_linear
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward
from scripts.training.optimizer import NamedOptimizer
from tests.training import architectures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS, LENGTH = 4, 256
SETTINGS = {
    "name": "decoupled_lionw",
    "learning_rate": 1e-3,
    "betas": [0.9, 0.95],
    "weight_decay": 0.0,
    "clip_norm": 1.0,
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    yield
    torch._dynamo.reset()


def model_of(kind: str, dropout: float = 0.05, own: bool = True) -> Any:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=LENGTH,
        )
    )  # fmt: skip
    if kind == "lora":
        config = LoraConfig(r=16, lora_alpha=32, target_modules=MODULES, lora_dropout=dropout, task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
        use_lora_dropout(model)
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.05)
        if own:
            use_lora_linear(model)
    return model.train()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 512, (ROWS, LENGTH), generator=draw)
    segments = (torch.rand((ROWS, LENGTH), generator=draw) < 0.02).cumsum(1)
    return tokens, segments


def trained(model: Any, device: str, precision: str, segments: torch.Tensor | None = None) -> torch.Tensor:
    """The gradient of one batch, in fp32 on the CPU; the device's own execution has been prepared."""
    tokens, _ = batch()
    objective = Objective(model.to(device), precision)
    backward(objective, tokens, tokens, 2, segments=segments, seed=3, step=5, pass_tokens=2 * LENGTH)
    found = torch.cat([p.grad.float().cpu().flatten() for p in model.parameters() if p.requires_grad])
    model.zero_grad()
    return found


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    return ((found - truth).norm() / truth.norm()).item()


def test_dropout_s_kernel_drops_what_the_cpu_drops() -> None:
    x = torch.randn(ROWS, LENGTH, 640)
    for module in ("model.layers.0.mlp.down_proj", "model.layers.11.mlp.down_proj"):
        places = torch.arange(ROWS)[:, None], torch.arange(LENGTH)
        with dropout_of(2, 9, *places):
            expected = drop(module, 0.05, x, x.bfloat16())
        with dropout_of(2, 9, *(place.cuda() for place in places)):
            found = drop(module, 0.05, x.cuda(), x.bfloat16().cuda())
        assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_compiled_gradients_are_the_cpu_s(kind: str) -> None:
    """In fp32, with LoRA dropout on: the same masks, sums in another order."""
    torch.backends.cuda.matmul.allow_tf32 = False
    truth = trained(model_of(kind), "cpu", "fp32")
    model = model_of(kind)
    execution.prepare_model(model, torch.device("cuda"), "fp32")
    assert error(trained(model, "cuda", "fp32"), truth) < 1e-4


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_bf16_is_as_near_to_fp32_as_the_plain_path_in_bf16(kind: str, within: bool) -> None:
    """The plain path: not compiled, peft's forward, an explicit mask."""
    segments = batch()[1] if within else None
    truth = trained(model_of(kind), "cpu", "fp32", segments)
    plain = error(trained(model_of(kind, own=False), "cuda", "bf16", segments), truth)
    model = model_of(kind)
    execution.prepare_model(model, torch.device("cuda"), "bf16")
    assert is_varlen(model)
    assert error(trained(model, "cuda", "bf16", segments), truth) < max(2 * plain, 0.03)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("name", ["Llama, grouped queries", "Gemma3", "Granite", "GPT-2"])
def test_what_is_trained_in_bf16_agrees_with_transformers(name: str, within: bool, tmp_path: Path) -> None:
    """A window is 6 tokens, a row 64; nothing of the comparison is compiled."""
    model = trainable_model(architectures.make(name, tmp_path), {"kind": "full"}, 0, None).train()
    execution.prepare_model(model, torch.device("cuda"), "bf16")
    tokens = torch.randint(3, 64, (2, 64), generator=torch.Generator().manual_seed(0))
    segments = (torch.arange(64) // 20).expand(2, 64) if within else None
    trained = dict(model.cuda().named_parameters())
    require_agreement(Objective(model, "bf16"), trained, tokens, tokens, segments, "bf16")


def test_one_graph_serves_all_layers_and_steps() -> None:
    model = model_of("lora")
    execution.prepare_model(model, torch.device("cuda"), "bf16")
    trained(model, "cuda", "bf16")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    trained(model, "cuda", "bf16")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before <= 4
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_layers_are_checkpointed_where_memory_is_short(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(model_of(kind), "cuda", "bf16")
    for share, some in ((0.0, False), (1.0, True)):  # of the memory that is kept in reserve
        monkeypatch.setattr(execution, "RESERVE", share)
        model = model_of(kind).cuda()
        named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        number = execution.checkpoint_layers(Objective(model, "bf16"), NamedOptimizer(named, SETTINGS), 2, LENGTH)
        assert number == (4 if some else 0)
        assert error(trained(model, "cuda", "bf16"), expected) < 1e-3


def test_the_own_forward_keeps_less_than_peft_s() -> None:
    peaks = {}
    for own in (False, True):
        model = model_of("lora", own=own)
        execution.halve_frozen(model)
        model.cuda()
        trained(model, "cuda", "bf16")
        torch.cuda.reset_peak_memory_stats()
        trained(model, "cuda", "bf16")
        peaks[own] = torch.cuda.max_memory_allocated()
        del model
    assert peaks[True] < 0.8 * peaks[False]
