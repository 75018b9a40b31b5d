"""The peak memory of training and evaluation by arithmetic, against what torch allocates for the real steps."""

from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM, masking_utils

from scripts.components.memory import (
    CHUNK_LOGITS,
    GPU_PASS_TOKENS,
    JOINING,
    LOGITS_AT_ONCE,
    PASS_TOKENS,
    READ_AT_ONCE,
    Training,
    evaluated_bytes,
    pass_tokens,
)
from scripts.components.modules import ALL_LINEAR
from scripts.components.shape import Shape
from scripts.loading.hidden import last_hidden
from scripts.training import execution, objective, parallel
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward
from scripts.training.optimizer import NamedOptimizer
from scripts.training.parallel import decoder_layers
from tests.peak import Peak, most_of_writing
from tests.training.houses import OPTIMIZER

ADAMW = {**OPTIMIZER, "name": "decoupled_adamw", "eps": 1e-8}
NEAR = 0.1


def llama(**changes: Any) -> LlamaConfig:
    """Two layers of Llama-2-7B's."""
    return LlamaConfig(num_hidden_layers=2, **changes)


VAST = llama(vocab_size=128_256, intermediate_size=14_336, num_key_value_heads=8)
"""Two layers of Llama-3-8B's."""
SMALL = LlamaConfig(
    num_hidden_layers=12, hidden_size=768, intermediate_size=2048, num_attention_heads=12, vocab_size=32_000
)


def parameters(config: LlamaConfig, rank: int | None = None) -> int:
    """Of a Llama; or of a LoRA of all its modules."""
    width, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * width // config.num_attention_heads
    if rank:
        return config.num_hidden_layers * rank * (4 * width + 2 * (width + keys) + 3 * (width + inner))
    layer = 2 * width * (width + keys) + 3 * width * inner + 2 * width
    return 2 * config.vocab_size * width + config.num_hidden_layers * layer + width


def job(config: LlamaConfig, rank: int | None, rows: int, length: int, *, gpu: bool, states: int = 1) -> Training:
    whole = parameters(config)
    trained = parameters(config, rank)
    return Training(Shape.of(config, 2 if gpu else 4), whole, trained, bool(rank), states, rows, length, gpu)


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Inside, base models are made of tensors without data; as on a GPU, no layer's weights are cast for others."""
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)  # which tensors without data are not moved by
    # it reads values, to find texts side by side in a row
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda *_, **__: None)
    # else it makes a mask where none is needed
    monkeypatch.setattr(masking_utils, "is_tracing", lambda *_: False)
    monkeypatch.setattr(torch, "is_autocast_cache_enabled", lambda: False)
    return FakeTensorMode(allow_non_fake_inputs=True)


def trainer(
    monkeypatch: pytest.MonkeyPatch, config: LlamaConfig, rank: int | None, precision: str, settings: dict[str, Any]
) -> tuple[Objective, dict[str, torch.Tensor], NamedOptimizer]:
    """What a training job has: its model with the loss, what is trained of it, the optimizer."""
    monkeypatch.setattr("scripts.loading.models.pretrained", lambda *_: LlamaForCausalLM(config))
    lora = {"kind": "lora", "rank": rank, "alpha": 2.0 * (rank or 0), "modules": list(ALL_LINEAR)}
    whole = Objective(trainable_model(Path(), lora if rank else {"kind": "full"}, 0, None, 0.0, precision), precision)
    trained = {name: value for name, value in whole.train().model.named_parameters() if value.requires_grad}
    return whole, trained, NamedOptimizer(trained, settings)


def step(
    whole: Objective, trained: dict[str, torch.Tensor], optimizer: NamedOptimizer, tokens: torch.Tensor, work: Training
) -> None:
    """As the training loop takes one."""
    backward(whole, tokens, tokens, 1, pass_tokens=pass_tokens(work.gpu, work.rows, work.length))
    nn.utils.clip_grad_norm_(trained.values(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def counted(
    mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch, config: LlamaConfig, rank: int | None, work: Training,
    settings: dict[str, Any], *, checkpointed: bool,
) -> int:  # fmt: skip
    """The most bytes that two steps have at once, and the loss that training is compared with before the first."""
    with mode:
        whole, trained, optimizer = trainer(monkeypatch, config, rank, "bf16" if work.gpu else "fp32", settings)
    if work.gpu:
        execution.prepare_model(whole.model, torch.device("cuda"), "bf16")
    for layer in decoder_layers(whole):
        layer.gradient_checkpointing = checkpointed
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    tokens = torch.zeros(work.rows, work.length, dtype=torch.int64)
    with torch.compiler.set_stance("force_eager"), Peak(mode) as peak:
        for _ in range(2):
            step(whole, trained, optimizer, tokens, work)
        backward(whole, tokens[:1], tokens[:1], 1, loss="token_mean", own=True)
    weights = {value.untyped_storage()._cdata: value.untyped_storage().nbytes() for value in whole.parameters()}
    return sum(weights.values()) + peak.most


@pytest.mark.parametrize(
    ("config", "rank", "rows", "length", "gpu", "checkpointed"),
    [
        pytest.param(llama(), None, 4, 4096, True, True, id="full, checkpointed, two passes"),
        pytest.param(llama(), None, 2, 4096, True, True, id="full, checkpointed", marks=pytest.mark.thorough),
        pytest.param(llama(), None, 4, 4096, True, False, id="full"),
        pytest.param(llama(), 16, 2, 4096, True, True, id="LoRA, checkpointed"),
        pytest.param(llama(), 256, 2, 4096, True, False, id="LoRA of rank 256", marks=pytest.mark.thorough),
        pytest.param(VAST, None, 4, 4096, True, True, id="full, vocabulary of 128,256", marks=pytest.mark.thorough),
        pytest.param(VAST, 16, 2, 4096, True, True, id="LoRA, vocabulary of 128,256"),
        pytest.param(llama(), None, 2, 4096, False, False, id="full in fp32 on a CPU"),
        pytest.param(llama(), 16, 2, 4096, False, False, id="LoRA in fp32 on a CPU"),
        pytest.param(SMALL, 16, 8, 1024, False, False, id="a small model", marks=pytest.mark.thorough),
    ],
)
def test_training_takes_what_is_computed(
    config: LlamaConfig, rank: int | None, rows: int, length: int, gpu: bool, checkpointed: bool,
    without_data: FakeTensorMode, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    work = job(config, rank, rows, length, gpu=gpu)
    found = counted(without_data, monkeypatch, config, rank, work, OPTIMIZER, checkpointed=checkpointed)
    assert found > 10**9
    assert work.peak_of(checkpointed=checkpointed) == pytest.approx(found, rel=NEAR)


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [None, 16])
def test_tensors_without_data_are_counted_as_the_profiler_counts_others(
    rank: int | None, without_data: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a hundredth, on a model that a CPU trains in seconds; and both as computed."""
    config = LlamaConfig(
        num_hidden_layers=4, hidden_size=512, intermediate_size=1376, num_attention_heads=8, vocab_size=32_000
    )
    work = job(config, rank, 4, 512, gpu=False)
    found = counted(without_data, monkeypatch, config, rank, work, OPTIMIZER, checkpointed=False)
    whole, trained, optimizer = trainer(monkeypatch, config, rank, "fp32", OPTIMIZER)
    tokens = torch.zeros(work.rows, work.length, dtype=torch.int64)
    weights = sum({value.data_ptr(): value.nbytes for value in whole.parameters()}.values())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        for _ in range(2):
            step(whole, trained, optimizer, tokens, work)
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    now = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    assert weights + max(now) == pytest.approx(found, rel=0.01)
    assert work.peak == pytest.approx(found, rel=NEAR)


def test_the_optimizer_s_states_are_counted(without_data: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    work = job(VAST, None, 2, 256, gpu=True, states=2)
    found = counted(without_data, monkeypatch, VAST, None, work, ADAMW, checkpointed=True)
    assert work.peak_of(checkpointed=True) == pytest.approx(found, rel=NEAR)


def test_passes_are_those_of_training() -> None:
    assert (PASS_TOKENS, GPU_PASS_TOKENS) == (objective.PASS_TOKENS, execution.GPU_PASS_TOKENS)
    assert objective.CHUNK_LOGITS == CHUNK_LOGITS
    assert [pass_tokens(True, rows, 4096) for rows in (1, 2, 24)] == [4096, 8192, 8192]
    assert pass_tokens(True, 4, 10_000) == 10_000


def in_bf16(config: LlamaConfig) -> Any:
    torch.set_default_dtype(torch.bfloat16)
    try:
        return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("config", "rows", "length"), [(llama(), 1, 4096), (VAST, 16, 1000)])
def test_likelihoods_take_what_is_computed(
    config: LlamaConfig, rows: int, length: int, without_data: FakeTensorMode
) -> None:
    with without_data, torch.no_grad():
        model = in_bf16(config)
        with Peak() as peak:
            tokens = torch.zeros(rows, length, dtype=torch.int64)
            hidden, head = last_hidden(model, tokens, torch.arange(rows * length))
            for states in torch.split(hidden, LOGITS_AT_ONCE // config.vocab_size):
                logits = head(states)
                torch.log_softmax(logits.float(), dim=-1)
                del logits
    found = 2 * parameters(config) + peak.most
    assert found > 10**9
    assert evaluated_bytes(Shape.of(config, 2), parameters(config), rows, length) == pytest.approx(found, rel=NEAR)


@pytest.mark.parametrize(("config", "rows", "length", "new"), [(llama(), 60, 300, 100), (VAST, 8, 2048, 60)])
def test_texts_take_what_is_computed(
    config: LlamaConfig, rows: int, length: int, new: int, without_data: FakeTensorMode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of prompts that are all different, read eight or a quarter of them at a time, and to the last token."""
    monkeypatch.setattr(masking_utils, "is_tracing", lambda *_: True)  # left-padded: their mask has values
    prompt = length - new
    with without_data, torch.no_grad():
        model = in_bf16(config)
        most = most_of_writing(model, rows, prompt, length, at_once=max(READ_AT_ONCE, rows // JOINING))
    found = 2 * parameters(config) + most
    assert found > 10**9
    assert evaluated_bytes(Shape.of(config, 2), parameters(config), rows, length, new) == pytest.approx(found, rel=NEAR)


def seven_billion(rank: int | None = None, **changes: Any) -> Training:
    """Llama-2-7B on a GPU, with a batch of the paper's on 32: 6 rows of 4096 tokens."""
    return replace(job(LlamaConfig(), rank, 6, 4096, gpu=True), **changes)


def test_llama_2_7b() -> None:
    """6,738,415,616 parameters, of which 131,072,000 are the embedding's and as many the output layer's.

    Full with Lion: 4 bytes each of weights and momentum, 53.9 GB, and of gradients, 80.9 GB; the tensors of all 32
    layers, counted as above, are 88.06 GB at once. LoRA of rank 16 trains 39,976,960: 2 bytes of 6.6e9 frozen
    parameters, 4 of the embedding's and the norms', which are 65 x 4096, and 8 of the adapter's.
    """
    full, lora = seven_billion(), seven_billion(16)
    assert full.parameters == 6_738_415_616
    assert full.kept_bytes == 8 * 6_738_415_616
    assert full.kept_bytes + 4 * 6_738_415_616 == 80_860_987_392
    assert full.peak == pytest.approx(88.06e9, rel=0.01)
    assert lora.trained == 39_976_960
    in_fp32 = 131_072_000 + 65 * 4096
    assert lora.kept_bytes == 2 * (6_738_415_616 - in_fp32) + 4 * in_fp32 + 8 * 39_976_960
    assert lora.peak == pytest.approx(20.55e9, rel=0.02)
    assert full.peak_of(checkpointed=False) == pytest.approx(156.35e9, rel=0.01)


def test_a_sharded_model_s_parts_are_gathered() -> None:
    """By FSDP2 over 8: an eighth of the 81 GB, and besides what a process has whole of it while it computes.

    That is what no layer has (1.05 GB in fp32), a layer as it comes and as it is multiplied (2 x 0.4 GB in bf16), the
    gradients of the layer before in fp32 (0.8 GB) and those of the output layer (0.5 GB), beside the activations that
    one process has too.
    """
    alone, sharded = seven_billion(), seven_billion(processes=8, shards=8)
    assert sharded.kept_bytes == alone.kept_bytes // 8
    assert 80.86e9 / 8 + 3.2e9 < sharded.peak < 80.86e9 / 8 + 3.2e9 + (alone.peak - 80.86e9)
    lora = seven_billion(16)
    assert seven_billion(16, processes=8).kept_bytes == lora.kept_bytes + 4 * lora.trained, "buckets of gradients"
    saved = lora.kept_bytes - seven_billion(16, quantized=True).kept_bytes
    assert saved == pytest.approx((2 - 0.516) * 6_476_005_376), "2 bytes of the layers' 32 x 202,375,168"


@pytest.mark.thorough
@pytest.mark.parametrize(("rows", "checkpointed"), [(4, True), (2, True), (2, False)])
def test_a_sharded_model_takes_what_is_computed(
    rows: int, checkpointed: bool, without_data: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of eight processes, whose collective operations wait for nobody."""
    from torch import distributed
    from torch.distributed.fsdp._fully_shard import _fsdp_param
    from torch.testing._internal.distributed.fake_pg import FakeStore

    config = LlamaConfig(num_hidden_layers=4)
    work = replace(job(config, None, rows, 4096, gpu=True), processes=8, shards=8)
    distributed.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    group = parallel.Group(0, 8, 0, 8)
    monkeypatch.setattr(parallel.Group, "in_turn", lambda _, act: act())
    peak = Peak(without_data)
    for name in ("alloc_storage", "free_storage"):
        change = getattr(_fsdp_param, name)

        def counting(tensor: torch.Tensor, change: Any = change) -> None:
            change(tensor)
            peak.resized(tensor.untyped_storage())

        monkeypatch.setattr(_fsdp_param, name, counting)

    def load() -> nn.Module:
        with without_data:
            return trainer(monkeypatch, config, None, "bf16", OPTIMIZER)[0]

    try:
        whole: Any = parallel.spread(load, group, sharded=True, precision="bf16")
        trained = dict(whole.model.named_parameters())
        optimizer = NamedOptimizer(trained, OPTIMIZER)
        for layer in decoder_layers(whole):
            layer.gradient_checkpointing = checkpointed
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        tokens = torch.zeros(rows, 4096, dtype=torch.int64)
        with peak:
            for _ in range(2):
                step(whole, trained, optimizer, tokens, work)
        found = sum(value.to_local().nbytes for value in trained.values()) + peak.most  # type: ignore[attr-defined]
    finally:
        distributed.destroy_process_group()
    assert work.peak_of(checkpointed=checkpointed) == pytest.approx(found, rel=NEAR)


def test_experts_are_of_their_layers() -> None:
    """Mixtral-8x7B's 46.7e9 parameters, of which a token passes 12.9e9: all are kept, and sharded with their layers.

    Experts lie in one tensor, so that frozen ones stay in fp32: eight, of 3 x 4096 x 14336 in each of 32 layers.
    """
    shape = Shape.of(
        LlamaConfig(intermediate_size=2 * 14_336, num_key_value_heads=8, max_position_embeddings=32_768), 2
    )
    whole = 46_702_792_704
    full = Training(shape, whole, whole, False, 1, 6, 4096, True, processes=32, shards=32)
    assert full.kept_bytes == 8 * whole // 32
    experts = 8 * 32 * 3 * 4096 * 14_336
    assert full.peak > 12 * whole / 32 + 2 * 2 * experts / 32
    frozen = Training(shape, whole, 10_000_000, True, 1, 6, 4096, True)
    assert frozen.kept_bytes == pytest.approx(4 * experts + 2 * (whole - experts), rel=0.01)
