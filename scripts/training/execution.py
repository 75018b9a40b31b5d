"""How a GPU executes training: compiled layers, rows of a pass, and which layers compute their activations twice.

None of it is in a spec, because it changes what is learned by rounding only.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from scripts.training.attention import use_varlen
from scripts.training.dropout import dropout_of
from scripts.training.optimizer import NamedOptimizer
from scripts.training.parallel import decoder_layers, passing

GPU_PASS_TOKENS = 8192  # fewer leave a GPU's multiplications too small, more need more memory
RESERVE = 0.08  # of a GPU's memory: what the allocator loses between blocks, and the libraries' own


def prepare_model(model: nn.Module, device: torch.device, precision: str) -> None:
    """For a GPU: every decoder layer compiled; and where it computes in bf16, `halve_frozen` and `use_varlen`.

    A layer is compiled where it is, under its name, and one graph serves them all.
    """
    if device.type != "cuda":
        return
    if precision == "bf16":
        halve_frozen(model)
        if not any(getattr(part, "attention_dropout", 0.0) for part in model.modules()):
            use_varlen(model)
    for layer in decoder_layers(model):
        layer.compile()


def halve_frozen(model: nn.Module) -> None:
    """Keep the weights of linear modules that are not trained in bf16, as autocast multiplies them.

    Embeddings and norms stay in fp32, and with them the residual stream, as in full finetuning: a LoRA that adds
    nothing yet has the losses of full finetuning bit for bit. So do experts that lie in one tensor. What it costs
    (measured with a layer a quarter as wide as Llama-2 7B's, on a CPU, and multiplied): 0.26 GB for the embedding, and
    for a token 27 KB in each layer (183 for 157 KB) or, where that is checkpointed, 8 KB (16 for 8 KB). For a pass of
    8192 tokens in 32 layers, 7.0 GB or 2.1 GB.
    """
    from transformers.pytorch_utils import Conv1D

    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    for part in model.modules():
        if isinstance(part, nn.Linear | Conv1D) and id(part.weight) not in embeddings:
            weight = part.weight
            if not weight.requires_grad and weight.is_floating_point():  # in 4 bits they are integers
                weight.data = weight.data.bfloat16()


def plan_passes(objective: nn.Module, optimizer: NamedOptimizer, rows: int, length: int) -> int | None:
    """The tokens of a pass, where a process trains `rows` rows of `length` tokens; None: `backward`'s own default.

    On a GPU layers are checkpointed, if they must be for such a pass.
    """
    if next(objective.parameters()).device.type != "cuda":
        return None
    checkpoint_layers(objective, optimizer, min(rows, max(1, GPU_PASS_TOKENS // length)), length)
    return GPU_PASS_TOKENS


def checkpoint_layers(objective: nn.Module, optimizer: NamedOptimizer, rows: int, length: int) -> int:
    """Let as many layers as must, on this GPU, keep their input alone for the backward pass; return their number.

    They compute the rest again. A trial with `rows` rows of `length` tokens shows what a layer keeps. Weights are in
    memory already; gradients and the optimizer's state are counted as they will be.
    """
    layers = decoder_layers(objective)
    trained = {name: value for name, value in objective.named_parameters() if value.requires_grad}
    torch.cuda.empty_cache()
    present = torch.cuda.memory_allocated()
    state = optimizer.state()  # with zeros for what is not there yet
    coming = torch.cuda.memory_allocated() - present + sum(_local(value).nbytes for value in trained.values())
    del state
    torch.cuda.reset_peak_memory_stats()
    kept, given = bytes_kept(objective, rows, length)
    peak = torch.cuda.max_memory_allocated() - present - kept - (len(layers) - 1) * given  # the output layer's
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    number = layers_to_checkpoint(len(layers), kept, given, int(total * (1 - RESERVE)) - present - coming - peak)
    _checkpoint(layers, number)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return number


def layers_to_checkpoint(layers: int, kept: int, given: int, free: int) -> int:
    """The fewest of `layers` that must be checkpointed, if `free` bytes are to suffice.

    A layer keeps `kept` bytes, or `given` where it is checkpointed; then one layer at a time computes the others
    again, and needs them besides. All are checkpointed where even that does not suffice.
    """
    if layers * kept <= free:
        return 0
    # (layers - n) * kept + n * given + kept <= free
    return min(layers, max(1, math.ceil(((layers + 1) * kept - free) / max(1, kept - given))))


def bytes_kept(objective: nn.Module, rows: int, length: int) -> tuple[int, int]:
    """What a decoder layer keeps of a forward pass for the backward pass, and how much of that is its input, in bytes.

    Parameters do not count, but copies of them in another type do. All layers but the first are checkpointed.
    """
    layers = decoder_layers(objective)
    device = next(objective.parameters()).device
    count = _Count({_local(value).untyped_storage().data_ptr() for value in objective.parameters()})
    hooks = [layers[0].register_forward_pre_hook(count.begin), layers[0].register_forward_hook(count.end)]
    _checkpoint(layers, len(layers) - 1)
    tokens = torch.zeros(rows, length, dtype=torch.int64, device=device)
    flat = tokens.flatten()
    try:
        numbers, places = torch.arange(rows, device=device)[:, None], torch.arange(length, device=device)
        with dropout_of(0, 0, numbers, places), passing(objective, last=False):
            objective(tokens, torch.arange(rows * length, device=device), flat, flat.float())
    finally:
        for hook in hooks:
            hook.remove()
        _checkpoint(layers, 0)
    return sum(count.storages.values()), count.given


def _checkpoint(layers: list[Any], number: int) -> None:
    """Checkpoint the last `number` of the layers, and no other."""
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index >= len(layers) - number
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def _local(value: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


class _Count:
    """The storages that are kept for the backward pass between `begin` and `end`."""

    def __init__(self, parameters: set[int]) -> None:
        self.parameters = parameters
        self.storages: dict[int, int] = {}
        self.given = 0
        self.held: list[Tensor] = []  # no storage is freed and counted as another one

    def begin(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.given = inputs[0].numel() * inputs[0].element_size()
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        self.hooks.__enter__()

    def end(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.hooks.__exit__(None, None, None)

    def pack(self, tensor: Tensor) -> Tensor:
        storage = _local(tensor).untyped_storage()
        if storage.data_ptr() not in self.parameters:
            self.storages[storage.data_ptr()] = storage.nbytes()
            self.held.append(tensor)
        return tensor
