"""The memory that training takes of a GPU, against what is computed before it is submitted."""

from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.components.memory import Training, pass_tokens
from scripts.components.modules import ALL_LINEAR
from scripts.components.shape import Shape
from scripts.training import execution
from scripts.training.dropout import use_lora_dropout
from scripts.training.lora_linear import use_lora_linear
from scripts.training.objective import Objective, backward
from scripts.training.optimizer import NamedOptimizer
from scripts.training.parallel import decoder_layers
from tests.training.houses import OPTIMIZER

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.mark.parametrize("vocabulary", [32_000, 128_256])
@pytest.mark.parametrize("rank", [None, 64])
def test_two_steps_take_what_is_computed(rank: int | None, vocabulary: int) -> None:
    """Four layers as wide as Llama-2-7B's, all of them checkpointed, and two passes a step."""
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    config = LlamaConfig(num_hidden_layers=4, vocab_size=vocabulary)
    with torch.device("cuda"):
        model: Any = LlamaForCausalLM(config)
    whole = sum(value.numel() for value in model.parameters())
    if rank:
        settings = LoraConfig(
            r=rank, lora_alpha=128, target_modules=list(ALL_LINEAR), lora_dropout=0.05, task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, settings)
        use_lora_dropout(model)
        use_lora_linear(model)
    execution.prepare_model(model, torch.device("cuda"), "bf16")
    objective = Objective(model.train(), "bf16")
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = NamedOptimizer(trained, OPTIMIZER)
    for layer in decoder_layers(objective):
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    numbers = sum(value.numel() for value in trained.values())
    work = Training(Shape.of(config, 2), whole, numbers, bool(rank), 1, rows=4, length=4096, gpu=True)
    tokens = torch.zeros(work.rows, work.length, dtype=torch.int64)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        backward(objective, tokens, tokens, 1, pass_tokens=pass_tokens(True, work.rows, work.length))
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.compiler.set_stance("force_eager"):
        backward(objective, tokens[:1], tokens[:1], 1, loss="token_mean", own=True)
    found = torch.cuda.max_memory_allocated()
    assert found > 10**9
    assert work.peak == pytest.approx(found, rel=0.1)
