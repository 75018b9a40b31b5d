"""Logits where they are asked for: the last hidden states of chosen positions, and what a model makes logits of."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


def last_hidden(model: Any, input_ids: Tensor, positions: Tensor, **named: Any) -> tuple[Tensor, "Head"]:
    """The last hidden states at these flat positions, [len(positions), width], and what makes logits of them.

    `input_ids` is [rows, length]; `named` is what the decoder is given besides.
    """
    from peft import PeftModel

    network: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    outputs = network.get_decoder()(input_ids=input_ids, **{"use_cache": False, **named})
    return outputs.last_hidden_state.flatten(0, 1).index_select(0, positions), Head(network, type(outputs))


@dataclass(frozen=True)
class Head:
    """What a transformers model's own forward pass makes of its last hidden states: often more than a product.

    Granite and Cohere scale the logits, Gemma 2 caps them. So the whole network is called, and its decoder answers
    with the given hidden states, in an object of the class of its `outputs`.
    """

    network: Any
    outputs: type

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.network.get_output_embeddings().weight
        return weight

    def __call__(self, hidden: Tensor) -> Tensor:
        """The logits [positions, vocabulary] of `hidden` [positions, width]."""
        inner = self.network.get_decoder()
        inner.forward = lambda *_, **__: self.outputs(last_hidden_state=hidden[None])
        try:
            logits: Tensor = self.network(inputs_embeds=hidden[None], use_cache=False).logits
        finally:
            del inner.forward
        return logits[0]
