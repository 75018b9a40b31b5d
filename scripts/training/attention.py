"""Attention beside transformers' own: with a dropout that no cut into passes changes; within segments."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from scripts.common.errors import UserError
from scripts.training.dropout import row_seeds

VARLEN = "varlen_segments"
BY_ROW = "sdpa_by_row"


def use_dropout(model: Any, rate: float) -> None:
    """Let a transformers model drop attention's probabilities at `rate`, in training only, each row by itself.

    What is dropped is a function of (seed, step, row, layer), so the same however a batch is cut into passes and
    spread over processes; on another kind of device it is something else. The model is called inside `dropout_of`.
    It is set on the modules, not in the config: what is saved says nothing of how it was trained. Raises UserError for
    a model without attention dropout.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    layers = [module for module in model.modules() if hasattr(module, "attention_dropout")]
    if not layers:
        raise UserError(f"A base model of the kind {model.config.model_type!r} has no attention_dropout.")
    for module in layers:
        module.attention_dropout = rate
    AttentionInterface.register(BY_ROW, _by_row)
    AttentionMaskInterface.register(BY_ROW, sdpa_mask)
    model.config._attn_implementation = BY_ROW


def use_varlen(model: Any) -> None:
    """Give a transformers model an attention that is SDPA's, but torch's `varlen_attn` where it is told `begins`.

    The kernel takes bf16, and has no dropout.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(VARLEN, _attention)
    AttentionMaskInterface.register(VARLEN, sdpa_mask)  # without it no layer would have its window
    model.config._attn_implementation = VARLEN


def is_varlen(model: Any) -> bool:
    return bool(model.config._attn_implementation == VARLEN)


def confined(model: Any, segments: Tensor) -> dict[str, Any]:
    """What makes a transformers model attend within `segments`, int64 [rows, length], besides its own windows.

    That is the position in the segment [rows, length], and a mask [rows, 1, length, length] (true: is attended to) for
    each kind of layer that the model has. The mask is explicit, because transformers leaves it out where it takes a row
    for one text. With `use_varlen` the segments' begins are in its place.
    """
    from transformers.masking_utils import create_masks_for_generate

    positions = positions_of(segments)
    if is_varlen(model):
        return {"begins": begins_of(segments), "position_ids": positions}
    mask = create_masks_for_generate(
        model.config,
        torch.empty(*segments.shape, 0, device=segments.device),  # of which it reads rows, length and device
        attention_mask=None,
        past_key_values=None,
        and_mask_function=lambda row, _, query, key: segments[row, query] == segments[row, key],
    )
    return {"attention_mask": mask, "position_ids": positions}


def positions_of(segments: Tensor) -> Tensor:
    """The place of every token in its segment, int64 [rows, length]."""
    place = torch.arange(segments.shape[1], device=segments.device)
    begins = pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    return place - (begins * place).cummax(dim=1).values


def begins_of(segments: Tensor) -> Tensor:
    """Where, in the rows of `segments` [rows, length] end to end, one begins; and their end: int32 [segments + 1]."""
    begins = pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True).flatten().nonzero().squeeze(1)
    return pad(begins, (0, 1), value=segments.numel()).to(torch.int32)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its seeds are other ones in every step
def _by_row(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, dropout: float = 0.0, **others: Any
) -> tuple[Tensor, None]:
    """SDPA, with dropout in a call of its own for each row: one call draws for all of its rows in one go."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not dropout:
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **others)
        return plain
    rows = []
    for row, seed in enumerate(row_seeds(module.layer_idx)):
        torch.manual_seed(seed)
        one = slice(row, row + 1)
        masked = None if mask is None else mask[one]
        given = (query[one], key[one], value[one], masked)
        rows.append(sdpa_attention_forward(module, *given, dropout=dropout, **others)[0])
    return torch.cat(rows), None


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *,
    begins: Tensor | None = None, scaling: float | None = None, sliding_window: int | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """`query` is [rows, heads, length, size], `key` and `value` have as many heads or a divisor of them.

    The result is [rows, length, heads, size]. A `sliding_window` counts the token itself; SDPA has it in its mask.
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
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    found: Any = varlen.varlen_attn(q, k, v, begins, begins, length, length, scale=scaling, window_size=window)
    return found.unflatten(0, (rows, length)), None
