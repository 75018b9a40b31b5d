"""Attention within segments on a GPU: each segment a sequence of its own to the kernel, and no mask."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

VARLEN = "varlen_segments"


def use_varlen(model: Any) -> None:
    """Give a transformers model an attention that is SDPA's, but torch's `varlen_attn` where it is told `begins`.

    The kernel takes bf16, and has no dropout.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, _attention)
    model.config._attn_implementation = VARLEN


def is_varlen(model: Any) -> bool:
    return bool(model.config._attn_implementation == VARLEN)


def begins_of(segments: Tensor) -> Tensor:
    """Where, in the rows of `segments` [rows, length] end to end, one begins; and their end: int32 [segments + 1]."""
    begins = pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True).flatten().nonzero().squeeze(1)
    return pad(begins, (0, 1), value=segments.numel()).to(torch.int32)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *,
    begins: Tensor | None = None, scaling: float | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """`query` is [rows, heads, length, size], `key` and `value` have as many heads or a divisor of them.

    The result is [rows, length, heads, size].
    """
    from torch.nn.attention import varlen
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if begins is None:
        plain: tuple[Tensor, None]
        plain = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **others)
        return plain
    rows, heads, length, _ = query.shape
    groups = heads // key.shape[1]
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
    found: Any = varlen.varlen_attn(q, k, v, begins, begins, length, length, scale=scaling, window_size=(-1, 0))
    return found.unflatten(0, (rows, length)), None
