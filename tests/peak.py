"""Bytes of tensors, counted as they come and go: what torch's profiler counts, of tensors without data too."""

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from scripts.evaluation.columns import SPARE, Columns


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside had at once; of tensors without data, as of others.

    With `fake`, what is made of no tensor (zeros, a range) has no data either.
    """

    def __init__(self, fake: FakeTensorMode | None = None) -> None:
        super().__init__()
        self._fake = fake
        self.bytes = self.most = 0
        self._known: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()  # bytes of each

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(one) for one in _storages((args, kwargs))}
        mode: AbstractContextManager[object] = self._fake if self._fake and not given else nullcontext()
        with mode:
            found = func(*args, **(kwargs or {}))
        for storage in _storages(found):
            if id(storage) not in given and storage not in self._known:
                self._known[storage] = [0]
                weakref.finalize(storage, self._free, self._known[storage])
                self.resized(storage)
        return found

    def resized(self, storage: Any) -> None:
        """Counts what a storage has now, where something else than an operation of torch has changed it."""
        if (size := self._known.get(storage)) is not None:
            self.bytes += storage.nbytes() - size[0]
            size[0] = storage.nbytes()
            self.most = max(self.most, self.bytes)

    def _free(self, size: list[int]) -> None:
        self.bytes -= size[0]


def most_of_writing(model: Any, rows: int, prompt: int, length: int, at_once: int) -> int:
    """The most bytes while `rows` texts are written: prompts that are read some at a time, and the last token drawn."""
    with Peak() as peak:
        columns = Columns(model.config, rows, length - SPARE, torch.device("cpu"))
        ids = torch.ones(rows, prompt, dtype=torch.int64)
        for some in torch.split(ids, at_once):
            cache = DynamicCache(config=model.config)
            model(input_ids=some, attention_mask=some, past_key_values=cache, logits_to_keep=1)
            columns.join(cache, range(len(some)), [prompt] * len(some))
        while columns.end < length:
            columns.step()
        logits = model(input_ids=ids[:, :1], attention_mask=columns.mask, past_key_values=columns).logits[:, -1]
        torch.softmax(logits.float() / 0.2, dim=-1).sort(dim=-1, descending=True)
    return peak.most


def _storages(values: Any) -> list[Any]:
    tensors = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    tensors = [value.to_local() if isinstance(value, DTensor) else value for value in tensors]
    return [value.untyped_storage() for value in tensors if value.device.type != "meta"]
