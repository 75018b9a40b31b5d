"""What an evaluation plans to take of a device's memory, against Llama-2-7B's own numbers and what torch allocates."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, DynamicCache, LlamaConfig, LlamaForCausalLM, PretrainedConfig

from scripts.common.errors import UserError
from scripts.components.memory import LOGITS_AT_ONCE, SCORE_BYTES, scored_bytes, written_bytes
from scripts.components.shape import Shape
from scripts.evaluation.columns import Columns
from scripts.evaluation.memory import in_batches, rows_written, sequences_scored
from scripts.loading.hidden import last_hidden
from tests.peak import Peak, most_of_writing
from tests.training.architectures import ARCHITECTURES, config

LLAMA_2_7B = LlamaConfig()  # whose defaults it is
LLAMA_3_8B = LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8)
GPU = 80 * 10**9


def test_llama_2_7b_and_llama_3_8b() -> None:
    """In bf16: 2 x 32 layers x 32 heads x 128 x 2 bytes of a token, and a quarter with 8 heads of keys and values."""
    assert Shape.of(LLAMA_2_7B, 2).cache_bytes == 524_288
    assert Shape.of(LLAMA_3_8B, 2).cache_bytes == 131_072
    assert Shape.of(LLAMA_2_7B, 4).cache_bytes == 2 * 524_288


def test_what_fits_beside_7b_on_a_gpu_of_80_gb() -> None:
    """128 rows of HumanEval, once a constant, fit into no less than 48 GB; 1,024 of them into no GPU."""
    shape, free = Shape.of(LLAMA_2_7B, 2), GPU - 13_500_000_000
    programs = rows_written(shape, free, 200, 712)
    assert 712 * 524_288 * programs < free < 1.5 * 712 * 524_288 * programs
    assert rows_written(Shape.of(LLAMA_3_8B, 2), free, 200, 712) > 2 * programs
    assert sequences_scored(shape, free, 1100) > 128, "no cache, and logits in chunks"
    assert sequences_scored(shape, free, 4096) > 16
    assert 4 <= sequences_scored(shape, free, 1150, kept=1100) < sequences_scored(shape, free, 1150)


def test_nothing_free_is_still_one_sequence() -> None:
    shape = Shape.of(LLAMA_2_7B, 2)
    assert rows_written(shape, 0, 200, 712) == sequences_scored(shape, 0, 100) == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_cache_of_every_architecture(name: str) -> None:
    """No less than what a model keeps of 24 tokens, and where it has no windows just that."""
    settings = config(name)
    made = AutoConfig.for_model(settings.pop("model_type"), **settings)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(made).eval()
    cache = DynamicCache(config=made)
    with torch.no_grad():
        model(input_ids=torch.full((3, 24), 5), past_key_values=cache, use_cache=True)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)  # type: ignore[attr-defined]
    planned = 3 * 24 * Shape.of(made, 4).cache_bytes
    assert planned >= kept
    assert planned == kept or "sliding_window" in settings or name == "Falcon"


def fake(shape: PretrainedConfig) -> Any:
    """A model in bf16 whose tensors have no data."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        return LlamaForCausalLM(shape).eval()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("made", [LLAMA_2_7B, LLAMA_3_8B], ids=["Llama-2-7B", "Llama-3-8B"])
def test_scoring_takes_what_is_planned(made: LlamaConfig) -> None:
    shape = Shape.of(made, 2)
    with FakeTensorMode(), torch.no_grad():
        model = fake(made)
        for rows, length in ((2, 4096), (16, 1000)):
            with Peak() as peak:
                hidden, head = last_hidden(
                    model, torch.zeros(rows, length, dtype=torch.int64), torch.arange(rows * length)
                )
                passing, peak.most = peak.most, 0
                for states in torch.split(hidden, LOGITS_AT_ONCE // shape.vocab_size):
                    torch.log_softmax(head(states).float(), dim=-1)
                logits = peak.most - hidden.nbytes
            assert passing <= rows * scored_bytes(shape, length) <= 1.7 * passing
            assert logits <= LOGITS_AT_ONCE * SCORE_BYTES <= 3 * logits


@pytest.mark.parametrize("made", [LLAMA_2_7B, LLAMA_3_8B], ids=["Llama-2-7B", "Llama-3-8B"])
def test_writing_takes_what_is_planned(made: LlamaConfig) -> None:
    """From prompts that are all different, a quarter of them at a time, and to the last token."""
    shape, rows, prompt, length = Shape.of(made, 2), 50, 200, 712
    with FakeTensorMode(), torch.no_grad():
        model = fake(made)
        most = most_of_writing(model, rows, prompt, length, at_once=-(-rows // 4))
    assert most <= rows * written_bytes(shape, prompt, length) <= 1.7 * most


def test_rows_that_are_moved_to_the_front_are_not_copied_all_at_once() -> None:
    made, rows, heads, width = LlamaConfig(num_hidden_layers=1, num_attention_heads=2, hidden_size=32), 48, 2, 16
    made.num_key_value_heads = heads
    columns = Columns(made, rows, 60, torch.device("cpu"))

    def join(count: int, length: int) -> None:
        cache = DynamicCache(config=made)
        cache.update(torch.randn(count, heads, length, width), torch.randn(count, heads, length, width), 0)
        columns.join(cache, range(count), [length] * count)

    join(8, 30)
    join(rows - 8, 20)
    columns.keep(range(8, rows))
    while columns.end < columns.columns:
        columns.step()
    begin, end = columns.begin, columns.end
    layer: Any = columns.layers[0]
    before = [kept[: rows - 8, :, begin:].clone() for kept in (layer.keys, layer.values)]
    with Peak() as peak:
        columns.step()
    assert (begin, columns.begin, columns.end) == (10, 0, end - begin + 1)
    for kept, expected in zip((layer.keys, layer.values), before, strict=True):
        assert torch.equal(kept[: rows - 8, :, : end - begin], expected)
    assert peak.most < before[0].nbytes / 4


class Batches:
    """Does batches of numbers whose sum is no more than `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tried: list[int] = []
        self.done: list[int] = []

    def __call__(self, items: Sequence[int], many: int) -> int:
        batch = items[:many]
        self.tried.append(len(batch))
        if sum(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.done += batch
        return len(batch)


def test_batches_are_halved_until_they_fit() -> None:
    batches = Batches(most=3)
    in_batches([1] * 20, lambda _: 13, batches, "a GPU")
    assert batches.done == [1] * 20
    assert batches.tried == [13, 6, 3, 3, 3, 3, 3, 3, 2]
    in_batches([], lambda _: 13, batches, "a GPU")
    assert len(batches.tried) == 9


def test_where_items_are_smaller_more_of_them_fit() -> None:
    batches = Batches(most=8)
    in_batches([4] * 4 + [1] * 8, lambda item: 16 // item, batches, "a GPU")
    assert batches.done == [4] * 4 + [1] * 8
    assert batches.tried == [4, 2, 2, 8]


def test_one_sequence_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^one sequence takes more memory than is free on a GPU beside the model; ask"):
        in_batches([1, 2], lambda _: 2, Batches(most=0), "a GPU")


def test_no_other_error_is_lack_of_memory() -> None:
    def act(items: Sequence[int], many: int) -> int:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        in_batches([1, 2], lambda _: 2, act, "a GPU")
