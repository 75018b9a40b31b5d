"""What training minimizes: the loss of a batch, computed pass by pass, whose weights no cut into passes changes."""

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from scripts.common.errors import UserError
from scripts.loading.hidden import Head, last_hidden
from scripts.training.attention import begins_of, confined
from scripts.training.dropout import dropout_of
from scripts.training.parallel import passing

PASS_TOKENS = 4096  # tokens of one forward and backward pass, if a row is not longer
CHUNK_LOGITS = 2**27  # logits that are in memory at once: as fp32 half a GB, and as much for their gradient


class Objective(nn.Module):
    """A model and the loss of its predictions as one module, so that a wrapper of modules sees the whole of a pass."""

    def __init__(self, model: Any, precision: str) -> None:
        super().__init__()
        self.model = model
        self.precision = precision

    def forward(
        self, input_ids: Tensor, positions: Tensor, targets: Tensor, weights: Tensor, segments: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The sum over the scored positions of weight times cross-entropy (nats).

        `input_ids` and `segments` are int64 [rows, length]; `positions`, `targets` and `weights` [positions] say which
        flat positions are scored, on which token, and what each counts. All are on the model's device. Where there
        are more than CHUNK_LOGITS logits, the output layer and the loss take that many at a time, in the backward
        pass once more; no other position has logits. With `labels`, which are not shifted, transformers computes it.
        """
        if labels is not None:
            return self._transformers_own(input_ids, labels, weights, segments)
        within = {} if segments is None else confined(self.model, segments)
        with _autocast(input_ids.device, self.precision):
            hidden, head = last_hidden(self.model, input_ids, positions, **within)
        many = max(1, CHUNK_LOGITS // head.weight.shape[0])
        if len(hidden) <= many:
            return self._weighted(head, hidden, targets, weights)
        chunks = zip(*(torch.split(part, many) for part in (hidden, targets, weights)), strict=True)
        return torch.stack([checkpoint(self._weighted, head, *chunk, use_reentrant=False) for chunk in chunks]).sum()

    def _transformers_own(self, input_ids: Tensor, labels: Tensor, weights: Tensor, segments: Tensor | None) -> Tensor:
        """The same, where all weights are equal: by the model's own loss of each row, or of each of its segments."""
        losses = []
        for row, tokens in enumerate(input_ids):
            begins = [0, len(tokens)] if segments is None else begins_of(segments[row : row + 1]).tolist()
            for text in (slice(*ends) for ends in pairwise(begins)):
                wanted = labels[row, text]
                if count := int((wanted[1:] != -100).sum()):
                    with _autocast(input_ids.device, self.precision):
                        mean = self.model(input_ids=tokens[None, text], labels=wanted[None], use_cache=False).loss
                    losses.append(count * mean)
        return torch.stack(losses).sum() * weights[0]

    def _weighted(self, head: Head, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        with _autocast(hidden.device, self.precision):
            logits = head(hidden)
        losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        return torch.dot(losses, weights)


def backward(
    objective: nn.Module,
    input_ids: Tensor,
    labels: Tensor,
    group_rows: int,
    *,
    loss: str = "group_mean",
    segments: Tensor | None = None,
    seed: int = 0,
    step: int = 0,
    pass_tokens: int | None = None,
    share: slice | None = None,
    own: bool = False,
) -> tuple[Tensor, int]:
    """Add the gradient of a batch's loss to `.grad`; return the loss (on the device) and its number of tokens.

    `share` are the rows that this process trains (None: all of them), the other ones being other processes': then
    the loss is its rows' part of the batch's, while the number of tokens is the batch's.

    `input_ids` and `labels` are int64 [rows, length] on the CPU; `labels` are not shifted, and -100 where there is
    no target. `loss` "group_mean" is the mean over the groups of `group_rows` rows of the mean over the group's
    loss tokens: what llm-foundry computes with a device microbatch of `group_rows`. A group without any loss token
    adds 0. "token_mean" is the mean over all loss tokens of the batch. Every token's weight is fixed before the
    batch is cut into passes, so the cut changes the result by rounding only (but for attention dropout). A pass has
    as many rows as `pass_tokens` (PASS_TOKENS, if None) suffice for, and at least one. `seed` and `step` decide
    LoRA's dropout, with the row's number in the batch.

    Rows are padded on the right, so causal attention needs no mask. With `segments`, int64 [rows, length], a token
    attends only to tokens of its own number before it, its position counts from the first of them, and the first
    token of a segment is no target: nothing of its own stands before it. With `own`, "token_mean" is computed by
    transformers' own loss. Raises UserError for an unknown `loss`.
    """
    device = next(objective.parameters()).device
    targets = functional.pad(labels[:, 1:], (0, 1), value=-100)  # position t is scored on the label of t + 1
    if segments is not None:
        targets[:, :-1][segments[:, 1:] != segments[:, :-1]] = -100
    labelled = targets != -100
    weights = _weights(labelled, group_rows, loss)
    total = torch.zeros((), device=device)
    rows = max(1, (pass_tokens or PASS_TOKENS) // labels.shape[1])
    numbers = torch.arange(len(labels), device=device)[:, None]
    places = torch.arange(labels.shape[1], device=device)
    share = share or slice(0, len(labels))
    for first in range(share.start, share.stop, rows):
        part = slice(first, min(first + rows, share.stop))
        positions = labelled[part].flatten().nonzero().squeeze(1)
        wanted = targets[part].flatten()[positions].to(device)
        weight = weights[part].flatten()[positions].to(device)
        within = None if segments is None else segments[part].to(device)
        told = labels[part].to(device) if own else None
        with dropout_of(seed, step, numbers[part], places), passing(objective, last=part.stop == share.stop):
            weighted = objective(input_ids[part].to(device), positions.to(device), wanted, weight, within, told)
            weighted.backward()
        total += weighted.detach()
    return total, int(labelled.sum())


def _weights(labelled: Tensor, group_rows: int, loss: str) -> Tensor:
    """What every position's loss counts in the batch's: float32 [rows, length], of use where `labelled` is true."""
    if loss == "token_mean":
        return (1.0 / labelled.sum()).expand(labelled.shape)
    if loss != "group_mean":
        raise UserError(f"The loss {loss!r} is unknown; allowed are group_mean and token_mean.")
    counts = labelled.view(-1, group_rows * labelled.shape[1]).sum(dim=1)
    return (1.0 / (len(counts) * counts)).repeat_interleave(group_rows)[:, None].expand_as(labelled)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
