"""What torch documents of kernels that a CPU does not have."""

import torch
from torch.nn import functional


def sequences(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, begins: torch.Tensor, also: torch.Tensor,
    longest: int, also_longest: int, *, scale: float, window_size: tuple[int, int],
) -> torch.Tensor:  # fmt: skip
    """`varlen_attn`: one sequence after another, causal, with so many tokens to the left, -1 for all."""
    left, right = window_size
    assert right == 0, "causal"
    assert torch.equal(begins, also)
    assert longest == also_longest >= int(begins.diff().max())
    parts = []
    for first, last in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        q, k, v = (part[first:last].transpose(0, 1) for part in (query, key, value))
        before = torch.arange(last - first)[:, None] - torch.arange(last - first)
        mask = (before >= 0) & ((before <= left) | (left == -1))
        parts.append(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(0, 1))
    return torch.cat(parts)
