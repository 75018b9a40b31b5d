"""The keys and values of rows that a model writes together, where rows come and go."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from scripts.common.errors import UserError

SPARE = 32
"""Columns more than the longest row takes: only once in so many steps rows are moved to the front."""
SHIFTED = 8
"""Rows that are moved to the front at a time, of which there is a copy."""


class Columns(Cache):
    """A cache whose rows all end in the same column, as left-padded ones do; it is made once and never copied.

    A row that joins is put right before that column, whatever its length; one that ends gives its place to the last.
    So columns are as far from each other as tokens, which sliding windows go by; of these too all columns are kept.

    Args:
        rows: how many there can be.
        longest: tokens that a row can have in all.
    """

    def __init__(self, config: Any, rows: int, longest: int, device: torch.device) -> None:
        usual = DynamicCache(config=config)
        super().__init__(layers=[_Layer(self, rows) for _ in usual.layers])
        other = any(usual.is_sliding) or getattr(config, "alibi", False)  # windows, and biases made of the mask
        self._as_it_is: bool = config._attn_implementation == "sdpa" and not other
        self.columns = longest + SPARE
        self.starts: list[int] = []  # of each row its first column
        self.begin = self.end = 0  # no row has columns before or behind these
        self._filled = torch.zeros(rows, self.columns, dtype=torch.bool, device=device)

    @property
    def mask(self) -> torch.Tensor:
        """Which columns from `begin` to `end` are a row's own, as the model takes it for a step.

        [rows, columns], of which a model makes what its attention needs, at every step anew and with a dozen tensors.
        Where that is the same thing, [rows, 1, 1, columns], which it hands on.
        """
        mask = self._filled[: len(self.starts), self.begin : self.end]
        return mask[:, None, None] if self._as_it_is else mask

    def join(self, cache: DynamicCache, numbers: Sequence[int], lengths: Sequence[int]) -> None:
        """Adds rows: those with these numbers in a cache of left-padded prompts, whose last `lengths` are no padding.

        No prompt is longer than all that were there before, unless there are no rows.
        """
        if not self.starts:
            self.begin, self.end = 0, max(lengths)
        first, behind = len(self.starts), len(self.starts) + len(numbers)
        chosen = torch.tensor(numbers, device=self._filled.device)
        for mine, theirs in zip(self.layers, cache.layers, strict=True):
            mine.join(theirs, chosen, first)  # type: ignore[union-attr]
        self._filled[first:behind] = False
        for row, length in enumerate(lengths, start=first):
            self.starts.append(self.end - length)
            self._filled[row, self.end - length : self.end] = True

    def step(self) -> None:
        """One column more, for the tokens that all rows are given next."""
        if self.end == self.columns:
            begin = min(self.starts)
            for layer in self.layers:
                layer.shift(begin)  # type: ignore[union-attr]
            rows = len(self.starts)
            self._filled[:rows, : self.end - begin] = self._filled[:rows, begin : self.end].clone()
            self.starts = [start - begin for start in self.starts]
            self.end -= begin
        self._filled[: len(self.starts), self.end] = True
        self.begin, self.end = min(self.starts), self.end + 1

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Lets the other rows go; says of each place from the first on which row is there now."""
        count = len(rows)
        gone = iter(sorted({*range(count)} - {*rows}))
        places = list(range(count))
        moved = {next(gone): row for row in rows if row >= count}
        if moved:
            to, of = (torch.tensor(list(some), device=self._filled.device) for some in (moved.keys(), moved.values()))
            for layer in self.layers:
                layer.move(to, of)  # type: ignore[union-attr]
            self._filled[to] = self._filled[of]
        for place, row in moved.items():
            places[place] = row
        self.starts = [self.starts[row] for row in places]
        return places


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, [rows, heads, columns, head_dim], of which the cache knows what is in use."""

    def __init__(self, cache: Columns, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache, self._rows = cache, rows

    def join(self, layer: Any, numbers: torch.Tensor, first: int) -> None:
        if not isinstance(layer, DynamicLayer):
            raise UserError(
                f"the model keeps more of a text than keys and values ({type(layer).__name__}): such models cannot be "
                "evaluated by what they write"
            )
        end = self._cache.end
        for name in ("keys", "values"):
            theirs = getattr(layer, name)
            if not self.is_initialized:
                size = (self._rows, theirs.shape[1], self._cache.columns, theirs.shape[3])
                setattr(self, name, theirs.new_zeros(size))
            count = min(theirs.shape[2], end)
            mine = getattr(self, name)[first : first + len(numbers)]
            mine[:, :, end - count : end] = theirs[numbers, :, theirs.shape[2] - count :]
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        rows, begin, end = len(self._cache.starts), self._cache.begin, self._cache.end
        found = []
        for mine, new in ((self.keys, key_states), (self.values, value_states)):
            assert mine is not None
            mine[:rows, :, end - 1 : end] = new
            found.append(mine[:rows, :, begin:end])
        return tuple(found)

    def shift(self, begin: int) -> None:
        rows, end = len(self._cache.starts), self._cache.end
        for mine in (self.keys, self.values):
            assert mine is not None
            for some in torch.split(mine[:rows], SHIFTED):
                some[:, :, : end - begin] = some[:, :, begin:end].clone()

    def move(self, to: torch.Tensor, of: torch.Tensor) -> None:
        begin, end = self._cache.begin, self._cache.end
        for mine in (self.keys, self.values):
            assert mine is not None
            mine[to, :, begin:end] = mine[of, :, begin:end]

    def get_seq_length(self) -> int:
        return self._cache.end - self._cache.begin - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.end - self._cache.begin, 0
