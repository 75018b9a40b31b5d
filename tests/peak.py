"""Bytes of tensors, counted as they come and go: what torch's profiler counts, of tensors without data too."""

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


def _storages(values: Any) -> list[Any]:
    tensors = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    tensors = [value.to_local() if isinstance(value, DTensor) else value for value in tensors]
    return [value.untyped_storage() for value in tensors if value.device.type != "meta"]
