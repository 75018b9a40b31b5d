"""Where models are evaluated: on the device that training would have, in its precision. CUDA is a stand-in."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from scripts.common.errors import UserError
from scripts.evaluation.evaluate import _Asking
from scripts.evaluation.harness import Harness
from scripts.evaluation.placement import CPU_BYTES, Place, free_bytes
from scripts.store.machine import processor
from tests.evaluation.conftest import random_llama, write_records

GPU = "NVIDIA Stand-in"
CUDA = torch.device("cuda")


class StandIn(TorchFunctionMode):
    """CUDA whose memory is the CPU's: notes what is moved or made there, as shapes and types. Nothing else differs."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[tuple[tuple[int, ...], torch.dtype]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_it = [value for value in (*args, *kwargs.values()) if _is_cuda(value)]
        if not on_it or func is torch._C._nn._parse_to:  # which reads what `Module.to` is asked for
            return func(*args, **kwargs)
        args = tuple("cpu" if _is_cuda(value) else value for value in args)
        found = func(*args, **{key: "cpu" if _is_cuda(value) else value for key, value in kwargs.items()})
        if isinstance(found, torch.Tensor):
            self.moved.append((tuple(found.shape), found.dtype))
        return found


def _is_cuda(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _=None: GPU)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _=None: (3_000_000, 9_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _=None: 500_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _=None: 200_000)
    monkeypatch.setattr(PreTrainedModel, "device", property(lambda _: CUDA))
    with StandIn() as stand_in:
        yield stand_in


def gsm8k(directory: Path) -> dict[str, Path]:
    items = [{"question": f"{'How ' * n}many?", "answer": f"#### {n}"} for n in range(1, 4)]
    return write_records(directory, {"gsm8k": items})


SETTINGS = {"gsm8k": {"task": "gsm8k", "shots": 0, "max_new_tokens": 4}}


@pytest.mark.parametrize(("asked", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_gpu_has_the_model_and_all_that_it_reads(
    asked: Any, dtype: torch.dtype, base: Path, tmp_path: Path, cuda: StandIn
) -> None:
    said: list[str] = []
    harness = Harness(SETTINGS, gsm8k(tmp_path), base, precision=asked, say=said.append)
    result = harness.score(None, None, ["gsm8k"])["gsm8k"]
    assert harness.score(None, None, ["gsm8k"])["gsm8k"] == result
    assert said == [f"models are evaluated on {GPU} in {asked}"]
    assert result["provenance"] == {"evaluation": {"device": GPU, "devices": 1, "precision": asked}}
    model = harness._models.model(None, None)
    parameters = [(tuple(value.shape), value.dtype) for value in model.parameters()]
    assert {kind for _, kind in parameters} == {dtype}
    assert set(parameters) <= set(cuda.moved), "a weight was left behind"
    prompts = [shape for shape, kind in cuda.moved if kind == torch.int64 and len(shape) == 2]
    assert (3, max(length for _, length in prompts)) in prompts, "the prompts were left behind"


def test_positions_are_as_exact_in_bf16_as_in_fp32(cuda: StandIn) -> None:
    """2,047 positions behind the first, a frequency that bf16 rounds would be off by radians."""
    model = random_llama(0, vocab_size=64, max_position_embeddings=2048)
    before = model.model.rotary_emb.inv_freq.clone()
    assert before.to(torch.bfloat16).float().ne(before).any()
    put = Place(CUDA, "bf16").put(model)
    assert torch.equal(put.model.rotary_emb.inv_freq, before)
    assert ((len(before),), torch.float32) in cuda.moved
    assert put.lm_head.weight is put.model.embed_tokens.weight, "tied weights must stay one"


@pytest.mark.parametrize(("asked", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_cpu_computes_in_what_is_asked_too(asked: Any, dtype: torch.dtype, base: Path, tmp_path: Path) -> None:
    """It is slow in bf16, and the numbers are those that the name of the evaluation says."""
    harness = Harness(SETTINGS, gsm8k(tmp_path), base, precision=asked)
    result = harness.score(None, None, ["gsm8k"])["gsm8k"]
    assert result["provenance"] == {"evaluation": {"device": processor(), "devices": 1, "precision": asked}}
    assert {value.dtype for value in harness._models.model(None, None).parameters()} == {dtype}


def test_free_memory(cuda: StandIn) -> None:
    """What torch holds and does not use is free too."""
    assert free_bytes(CUDA) == 3_000_000 + 500_000 - 200_000
    assert free_bytes(torch.device("cpu")) == CPU_BYTES


def test_a_model_that_does_not_fit_is_one_sentence(cuda: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llama(0, vocab_size=1000, max_position_embeddings=64)
    monkeypatch.setattr(model, "to", lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    count = sum(value.numel() for value in model.parameters())
    with pytest.raises(UserError, match=rf"take {2 * count / 1e9:.1f} GB in bf16, and less is free on {GPU}$"):
        Place(CUDA, "bf16").put(model)


def test_the_device_is_claimed_once_and_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[Any] = []
    stand_in = SimpleNamespace(Harness=lambda *_, **named: events.append(named["precision"]) or "the harness")
    monkeypatch.setitem(sys.modules, "scripts.evaluation.harness", stand_in)
    monkeypatch.setattr("scripts.data.products.data_bytes", lambda launch, product: tmp_path)
    spec = {
        **{"kind": "evaluation", "task": "winogrande", "subject": "0" * 12, "records": "1" * 12},
        **{"shots_records": None, "seed": 0, "versions": {}, "shots": 0, "precision": "bf16"},
    }
    product = SimpleNamespace(
        spec=spec, is_judged=False, inputs_of=lambda kind: [] if kind in ("tokenizer", "samples") else ["x"]
    )
    launch: Any = SimpleNamespace(store=SimpleNamespace(bytes_of=lambda _: tmp_path))
    once = _Asking(launch, [product], lambda: events.append("claimed"))  # type: ignore[list-item]
    assert events == []
    assert [once(), once()] == ["the harness"] * 2
    assert events == ["claimed", "bf16"]
