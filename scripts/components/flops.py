"""Floating-point operations of a decoder-only model, a product and its sum being two.

What is recomputed never counts. Attention is counted in full, not only below the diagonal.
"""

import math
from collections.abc import Iterable

from scripts.components.shape import Shape


def trained(shape: Shape, frozen: int, trained: int, length: int) -> float:
    """Of training, for one token of a row of `length` tokens.

        4 N_frozen + 6 N_trained + 12 L H T

    A weight costs 2 operations forward, 2 backward to its input, and 2 more to its gradient where it is trained: 6 N
    for full finetuning, 4 N of the base model and 6 of each adapter's weights for LoRA. Attention has L layers, width
    H (heads times their size) and rows of T tokens. So count llm-foundry and fms-fsdp (for full finetuning).
    """
    return float(4 * frozen + 6 * trained + 3 * _attention(shape, length))


def read(shape: Shape, parameters: int, length: int) -> float:
    """Of one token of a sequence of `length` tokens that the model reads, or writes after that many: 2 N + 4 L H T."""
    return float(2 * parameters + _attention(shape, length))


def singular_values(sizes: Iterable[tuple[int, int]]) -> float:
    """Of the singular values of matrices, by their rows and columns.

    An m x n matrix, m >= n, is brought to two diagonals by 4 n^2 (m - n / 3) operations (Golub and Van Loan, section
    5.4.8); what follows takes little.
    """
    return math.fsum(4 * min(size) ** 2 * (max(size) - min(size) / 3) for size in sizes)


def _attention(shape: Shape, length: int) -> int:
    return 4 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * length
