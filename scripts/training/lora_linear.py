"""LoRA's forward and backward pass as one function that keeps its input once, and of dropout nothing.

peft has the configuration, the parameters, their names, the files and the merging; `forward` alone is another.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional

from scripts.training.dropout import LoraDropout, drop, module_of


class LoraLinear(Linear):
    """peft's plain LoRA on an `nn.Linear`: y = x W^T + bias + scaling * dropout(x) A^T B^T.

    Computed in the type of x, or in autocast's: A and B are cast to it, and x never to theirs. W and the bias get no
    gradient. Kept for the backward pass are x and dropout(x) A^T [..., rank]; the dropout's mask is computed again.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor
        if self.disable_adapters or self.merged:
            result = super().forward(x, *args, **kwargs)
            return result
        (adapter,) = self.active_adapters
        dropout = self.lora_dropout[adapter]
        drops = isinstance(dropout, LoraDropout) and self.training
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        apart = device == "cpu" and not torch.compiler.is_compiling()
        result = _Pass.apply(
            x, x if apart else None, self.base_layer.weight, self.base_layer.bias,
            self.lora_A[adapter].weight, self.lora_B[adapter].weight, self.scaling[adapter],
            dropout.name if drops else None, dropout.rate if drops else 0.0,
        )  # type: ignore[no-untyped-call]  # fmt: skip
        return result


def use_lora_linear(model: Any) -> None:
    """Make every adapter of a peft model a LoraLinear that is one LoRA, without a variant, on a plain `nn.Linear`."""
    for part in model.modules():
        if (
            type(part) is Linear
            and type(part.base_layer) is nn.Linear
            and len(part.lora_A) == 1
            and not part.lora_variant
            and not any(part.lora_bias.values())
            and not part.fan_in_fan_out
        ):
            part.__class__ = LoraLinear


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float, name: Tensor | None,
    rate: float, apart: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The result, and scaling * dropout(x) A^T. `apart` rounds the product by B before it is added."""
    y = functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    dropped = x if name is None else drop(module_of(name), rate, x)[0]
    h = functional.linear(dropped, a.to(x.dtype)).mul_(scaling)
    if apart:
        y.add_(functional.linear(h, b.to(x.dtype)))
    else:
        y.flatten(0, -2).addmm_(h.flatten(0, -2), b.to(x.dtype).t())
    return y, h


def _backward(
    grad: Tensor, x: Tensor, h: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float, name: Tensor | None,
    rate: float, apart: bool, by_x_too: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients by A, by B and, if wanted, by x: through the base layer, and through the adapter.

    The last is already in the one before, and empty, where they need not be `apart`.
    """
    flat = grad.flatten(0, -2)
    by_b = flat.t() @ h.flatten(0, -2)
    by_h = (flat @ b.to(grad.dtype)).mul_(scaling)
    through_base, through_adapter = x.new_empty(0), x.new_empty(0)
    dropped = x
    if by_x_too:
        through_base = (flat @ weight.to(grad.dtype)).view_as(x)
        if apart or name is not None:
            through_adapter = (by_h @ a.to(grad.dtype)).view_as(x)
        else:
            through_base.flatten(0, -2).addmm_(by_h, a.to(grad.dtype))
    if name is not None and by_x_too:
        dropped, through_adapter = drop(module_of(name), rate, x, through_adapter)
        if not apart:
            through_base, through_adapter = through_base.add_(through_adapter), x.new_empty(0)
    elif name is not None:
        (dropped,) = drop(module_of(name), rate, x)
    by_a = by_h.t() @ dropped.flatten(0, -2)
    return by_a.to(a.dtype), by_b.to(b.dtype), through_base, through_adapter


# To torch.compile each is one operation, into which it does not look: it would keep what is to be computed again.
_forward_op = torch.library.custom_op("lora::forward", _forward, mutates_args=())
_backward_op = torch.library.custom_op("lora::backward", _backward, mutates_args=())


@_forward_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(*x.shape[:-1], weight.shape[0]), x.new_empty(*x.shape[:-1], a.shape[0])


@_backward_op.register_fake
def _(
    grad: Tensor, x: Tensor, h: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float, name: Tensor | None,
    rate: float, apart: bool, by_x_too: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    nothing = x.new_empty(0)
    through_base = torch.empty_like(x) if by_x_too else nothing
    return torch.empty_like(a), torch.empty_like(b), through_base, x.new_empty(0)


class _Pass(torch.autograd.Function):
    """Where x comes twice, autograd adds its two gradients as it adds those of two layers side by side.

    The sum over all that take x is then peft's bit for bit, where the scaling is a power of two. On a GPU, where no
    sum is the same bit for bit on another one, they are added where they are computed.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, x_again: Tensor | None, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor,
        scaling: float, name: Tensor | None, rate: float,
    ) -> Tensor:  # fmt: skip
        compute: Any = _forward_op if torch.compiler.is_compiling() else _forward
        ctx.constants = scaling, name, rate, x_again is not None
        y: Tensor
        y, h = compute(x, weight, bias, a, b, *ctx.constants)
        ctx.save_for_backward(x, h, weight, a, b)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        compute: Any = _backward_op if torch.compiler.is_compiling() else _backward
        by_x_too = ctx.needs_input_grad[0]
        by_a, by_b, *by_x = compute(grad, *ctx.saved_tensors, *ctx.constants, by_x_too)
        through_base, through_adapter = (found if found.numel() else None for found in by_x)
        if ctx.constants[-1]:  # autograd adds the first to what it has, then the second
            return through_adapter, through_base, None, None, by_a, by_b, None, None, None
        return through_base, None, None, None, by_a, by_b, None, None, None
