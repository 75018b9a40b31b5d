"""Before a job's first step: what it will train is what transformers' own loss of the same model is.

What is computed here besides transformers (logits of scored positions alone, attention within segments, kernels of a
GPU) could differ from a model's own forward pass in ways that nobody sees in a loss that falls. So no architecture is
trained approximately, an unknown one neither.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from scripts.common.errors import UserError
from scripts.training.attention import positions_of
from scripts.training.objective import backward
from scripts.training.parallel import decoder_layers, whole

LOSS = {"fp32": 1e-4, "bf16": 5e-3}
"""How far the losses (nats) may be from each other, relatively where they are above 1."""
GRADIENT = {"fp32": 1e-3, "bf16": 0.05}
"""How far the norms of the gradients may be from each other, relatively. In bf16 single products are off by 2**-9, and
the two paths round other sums; what is computed wrongly is off by more: Granite's gradient was eight times its own."""


def require_agreement(
    objective: nn.Module, parameters: Mapping[str, Tensor], input_ids: Tensor, labels: Tensor, segments: Tensor | None,
    precision: str,
) -> None:  # fmt: skip
    """Compare loss and gradient norm of a row with those of transformers' `model(input_ids, labels=...)`.

    It is the row of the batch whose targets have the most before them; with `segments` transformers is given each of
    its segments as a text of its own. Dropout is off in both. No gradient is left, and no random number drawn. All
    processes call it with the same batch. Shapes are those of `backward`.

    Raises:
        UserError: they differ by more than LOSS and GRADIENT.
    """
    before = positions_of(torch.zeros_like(labels) if segments is None else segments)
    row = int((before * (labels != -100)).sum(dim=1).argmax())
    part = slice(row, row + 1)
    confined = None if segments is None else segments[part]
    found = []
    with _evaluating(objective), _eagerly(next(iter(parameters.values())).device):
        for own in (False, True):
            loss, tokens = backward(
                objective, input_ids[part], labels[part], 1, loss="token_mean", segments=confined, own=own
            )
            gradients = [value.grad for value in parameters.values() if value.grad is not None]
            found.append((float(loss), float(whole(torch.nn.utils.get_total_norm(gradients)))))
            for value in parameters.values():
                value.grad = None
            if not tokens:  # no row of the batch has a target
                return
    (loss_here, norm_here), (loss_there, norm_there) = found
    near = _near(loss_here, loss_there, LOSS[precision] * max(1.0, loss_there))
    if not (near and _near(norm_here, norm_there, GRADIENT[precision] * norm_there)):
        raise UserError(
            f"the base model is not trained as transformers has it: the loss of a row is {loss_here:.5g} here and "
            f"{loss_there:.5g} there, the norm of its gradient {norm_here:.5g} and {norm_there:.5g}; choose a model of "
            "an architecture that docs/architectures.md has"
        )


def _near(one: float, other: float, tolerance: float) -> bool:
    """A model that has diverged agrees with itself; that is for `divergence` to judge."""
    return abs(one - other) <= tolerance or not (math.isfinite(one) or math.isfinite(other))


def _eagerly(device: torch.device) -> AbstractContextManager[object]:
    """Inside nothing is compiled, which would take longer than a row; nothing is on a CPU anyway."""
    return torch.compiler.set_stance("force_eager") if device.type == "cuda" else nullcontext()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Inside nothing is dropped; layers that are checkpointed still are, which transformers has in training alone."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    for layer in decoder_layers(model):
        layer.training = before[layer]
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
