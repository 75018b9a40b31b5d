"""What a GPU decides for itself: layers to checkpoint, by what they keep; nothing of it on the CPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts.training import execution
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward
from scripts.training.optimizer import NamedOptimizer
from scripts.training.parallel import decoder_layers
from tests.training.architectures import lora, make

pytestmark = pytest.mark.arithmetic

GB = 2**30


@given(
    layers=st.integers(1, 100), given_=st.integers(1, 1000), more=st.integers(1, 9000), free=st.integers(-1000, 500_000)
)
def test_as_few_layers_are_checkpointed_as_suffice(layers: int, given_: int, more: int, free: int) -> None:
    kept = given_ + more

    def needed(number: int) -> int:
        again = kept if number else 0  # what one layer at a time computes again
        return (layers - number) * kept + number * given_ + again

    number = execution.layers_to_checkpoint(layers, kept, given_, free)
    enough = [count for count in range(layers + 1) if needed(count) <= free]
    assert number == (enough[0] if enough else layers)


def test_the_paper_s_model_on_its_gpus() -> None:
    """32 layers of 0.6 GB a pass: all of them in 40 GB; in 10 GB most are checkpointed."""
    assert execution.layers_to_checkpoint(32, 6 * GB // 10, GB // 16, 40 * GB) == 0
    assert execution.layers_to_checkpoint(32, 6 * GB // 10, GB // 16, 10 * GB) == 19


@pytest.fixture
def objective(base: Path, words: SimpleNamespace) -> Objective:
    return Objective(trainable_model(base, words.LORA | {"dropout": 0.05}, 0, None).train(), "fp32")


def test_what_a_layer_keeps_is_counted(objective: Objective) -> None:
    """It grows with the tokens; its input is [rows, length, hidden] in fp32; less is kept than a layer computes."""
    kept, given_ = execution.bytes_kept(objective, 2, 8)
    more, more_given = execution.bytes_kept(objective, 6, 8)
    assert (given_, more_given) == (2 * 8 * 32 * 4, 6 * 8 * 32 * 4)
    assert more == pytest.approx(3 * kept, rel=0.1)
    # at least the inputs of norms, q/k/v, o, gate/up, down; the three factors of attention; at most twice all of it
    tokens, hidden, inner, keys = 16, 32, 48, 16
    least = 4 * tokens * (4 * hidden + 3 * inner + hidden + 2 * keys)
    assert least <= kept <= 3 * least
    assert not any(layer.gradient_checkpointing for layer in decoder_layers(objective))


def test_checkpointing_some_layers_changes_no_gradient(objective: Objective) -> None:
    tokens = torch.arange(3, 51).view(3, 16)
    found: list[dict[str, Any]] = []
    layers = decoder_layers(objective)
    for number in range(3):
        execution._checkpoint(layers, number)
        assert sum(layer.gradient_checkpointing for layer in layers) == number
        backward(objective, tokens, tokens, 3, seed=1, step=2)
        found.append({name: value.grad for name, value in objective.named_parameters() if value.requires_grad})
        objective.zero_grad()
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_cpu_executes_what_is_written(objective: Objective) -> None:
    model = objective.model
    execution.prepare_model(model, torch.device("cpu"), "bf16")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    settings = {
        "name": "decoupled_lionw",
        "learning_rate": 1e-3,
        "betas": [0.9, 0.95],
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }
    assert execution.plan_passes(objective, NamedOptimizer(trained, settings), 4, 16) is None


@pytest.mark.parametrize("name", ["Llama", "Llama, tied embeddings", "GPT-2", "OPT", "Mixtral"])
def test_in_bf16_an_arm_of_lora_begins_with_the_losses_of_full_finetuning(name: str, tmp_path: Path) -> None:
    """Bit for bit, B being 0: so what is compared does not differ in precision."""
    losses = {}
    for kind, method in (("full", {"kind": "full"}), ("lora", lora("attention") | {"dropout": 0.0})):
        model = trainable_model(make(name, tmp_path / kind), method, 0, None).train()
        if kind == "lora":
            execution.halve_frozen(model)
        streams: set[torch.dtype] = set()
        for layer in decoder_layers(model):
            layer.register_forward_pre_hook(
                lambda _, given, named, streams=streams: streams.add((*given, named.get("hidden_states"))[0].dtype),
                with_kwargs=True,
            )
        tokens = torch.randint(3, 64, (2, 16), generator=torch.Generator().manual_seed(0))
        losses[kind], _ = backward(Objective(model, "bf16"), tokens, tokens, 2)
        assert streams == {torch.float32}
    assert losses["full"].item() == losses["lora"].item()
