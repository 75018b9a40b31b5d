"""The base model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from scripts.components.discovery import classes, union
from scripts.components.part import Count, Name, Part, Rate, Seed, Tokens, field


class Architecture(Part):
    """The shape of a Llama."""

    hidden_size: Count = field("width of the residual stream", unit="channels")
    intermediate_size: Count = field("width of the MLP between its two projections", unit="channels")
    layers: Count = field("transformer blocks, one on the other", unit="blocks")
    heads: Count = field("attention heads of a block; twice their number must divide `hidden_size`", unit="heads")
    context: Count = field("longest sequence that the model can read", unit="tokens")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError("hidden_size must be an even multiple of heads (rotary embeddings pair channels)")
        return self


def parameters(shape: Architecture, embeddings: int) -> int:
    """Parameters of a Llama of layers L, width H and MLP width I, its keys and values as wide as H.

        E H + L (4 H H + 3 H I + 2 H) + H

    Args:
        shape: L, H and I.
        embeddings: E, the rows of the embedding and of the output layer together.
    """
    width, inner = shape.hidden_size, shape.intermediate_size
    layer = 4 * width * width + 3 * width * inner + 2 * width
    return embeddings * width + shape.layers * layer + width


class Tokenizer(Part):
    """A byte-level BPE tokenizer trained on the named datasets."""

    datasets: Annotated[list[Name], Field(min_length=1)] = field("names of the datasets whose text it learns from")
    vocabulary: Annotated[int, Field(ge=300, le=65535)] = field(
        "how many tokens it may have at most, special ones included", unit="tokens"
    )


class Pretraining(Part):
    """How the base model is pretrained: AdamW, linear warmup, cosine decay to 0."""

    dataset: Name = field("name of the dataset with its documents")
    tokens: Tokens = field("how long it is trained; documents are read again where they do not suffice", unit="tokens")
    sequence_length: Count = field("length of a row; documents are cut where rows end", unit="tokens")
    batch_rows: Count = field("rows of an optimizer step", unit="rows")
    learning_rate: Rate = field("peak learning rate")
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = field(
        "how much of the training the learning rate rises from 0 to its peak", unit="share of the steps"
    )
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = field("AdamW's decay, which is multiplied by the learning rate")
    seed: Seed = field("decides the first weights and the order of the documents")


def repository_tokenizer(repository: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the tokenizer of a repository of the hub, by the lock's entry of it."""
    return {"source": "hub", "repository": repository, "revision": entry.get("revision")}


class BaseModel(Part, ABC):
    """A study's choice of a base model."""

    if TYPE_CHECKING:
        source: str
        label: str
        architecture: Architecture

    bytes_of_weight: ClassVar[int]
    """How many a weight takes in the files of the model."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Its name in the store, below `models` and without its fingerprint."""

    @property
    @abstractmethod
    def identity(self) -> str | None:
        """Its key in ``config/data.lock``, KIND:NAME; None where it is pretrained here."""

    @abstractmethod
    def spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What decides its weights, but for the tokenizer and rows of one that is pretrained here.

        Args:
            entry: that of the lock, empty where there is none.
        """

    @property
    def made_from(self) -> tuple[Tokenizer, Pretraining] | None:
        """What it is made from where it is pretrained here; None where it comes with a tokenizer of its own."""
        return None

    def tokenizer_spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the tokenizer that it comes with, and which is made under `place` too."""
        raise NotImplementedError(f"{type(self).__name__} comes without a tokenizer")

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many it has, known from its shape before it is there."""


MODELS = classes(__name__, __path__, BaseModel, "source")  # type: ignore[type-abstract]
if TYPE_CHECKING:
    Model = BaseModel
else:
    Model = union(MODELS, "source")
