"""What of a decoder-only model's configuration its memory and its arithmetic depend on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.components.models import BaseModel


@dataclass(frozen=True)
class Shape:
    """What of a decoder-only model's configuration its memory depends on, in the words of transformers.

    `item_bytes` are those of one number. With experts, `intermediate_size` is that of all that a token passes.
    """

    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    item_bytes: int

    @classmethod
    def of(cls, config: Any, item_bytes: int) -> "Shape":
        """That of a transformers config. What it does not say is as large as it can be."""
        heads, width = config.num_attention_heads, config.hidden_size
        widths = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
        inner = next((size for name in widths if (size := getattr(config, name, None))), 4 * width)
        return cls(
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=heads,
            num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or width // heads,
            hidden_size=width,
            intermediate_size=inner * (getattr(config, "num_experts_per_tok", None) or 1),
            vocab_size=config.vocab_size,
            item_bytes=item_bytes,
        )

    @classmethod
    def of_study(cls, model: "BaseModel", item_bytes: int) -> "Shape | None":
        """That of a study's base model, before it is there; None where its architecture is not known yet."""
        shape = model.shape
        if shape is None:
            return None
        head_dim = shape.queries // shape.heads
        return cls(
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.keys // head_dim,
            head_dim=head_dim,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            vocab_size=model.vocabulary,
            item_bytes=item_bytes,
        )

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Rows and columns of the linear matrices of the layers, as a Llama has them: each in all layers in turn."""
        width, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = [(queries, width), (keys, width), (keys, width), (width, queries)]
        return [*attention, (inner, width), (inner, width), (width, inner)] * self.num_hidden_layers

    @property
    def cache_bytes(self) -> int:
        """Of a token whose keys and values are kept in every layer."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * self.item_bytes

    @property
    def growth_bytes(self) -> int:
        """Of a kept token, in one layer at a time: its keys and values, copied for every head."""
        return 2 * self.num_attention_heads * self.head_dim * self.item_bytes

    @property
    def pass_bytes(self) -> int:
        """Of a token in the layer that it passes, at most: eight vectors of its width and three of the MLP's."""
        return (8 * self.hidden_size + 3 * self.intermediate_size) * self.item_bytes
