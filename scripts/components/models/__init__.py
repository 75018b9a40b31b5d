"""The base model."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from scripts.components.discovery import classes, union
from scripts.components.making import BuildContext, Made, lock_command
from scripts.components.part import Count, Name, Part, Rate, Seed, Tokens, field
from scripts.components.templates import Bos, Join

if TYPE_CHECKING:
    from scripts.components.methods import Method
    from scripts.data.encoding import Encoding


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

    @property
    def queries(self) -> int:
        """Channels of a block's queries, all heads together."""
        return self.hidden_size

    @property
    def keys(self) -> int:
        """Channels of a block's keys, all heads together; of its values too."""
        return self.hidden_size


DTYPES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a weight in a model's files."""


class LockedArchitecture(Part):
    """What a model's own files say of it, as ``config/data.lock`` has it: a study is planned by it."""

    hidden_size: Count
    intermediate_size: Count
    layers: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    vocabulary: Count
    context: Count
    tied: bool
    parameters: Annotated[int, Field(gt=0)]
    dtype: Literal["float64", "float32", "float16", "bfloat16"]

    @property
    def queries(self) -> int:
        """Channels of a block's queries, all heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Channels of a block's keys, all heads together; of its values too."""
        return self.kv_heads * self.head_dim


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

    @model_validator(mode="after")
    def _has_a_batch(self) -> Self:
        if round(self.tokens / (batch := self.batch_rows * self.sequence_length)) < 1:
            raise ValueError(f"tokens must be at least one batch ({batch} tokens)")
        return self


class BaseModel(Made):
    """A study's choice of a base model; `build` writes a transformers model directory with its tokenizer."""

    if TYPE_CHECKING:
        source: str
        label: str

    bytes_of_weight: ClassVar[int]
    """How many a weight takes in the files of the model, as far as nothing better is known."""
    converted_by: ClassVar[str | None] = None
    """The code version behind what is made of its files; None where they are taken as they are, or made here."""
    said_at: ClassVar[str] = "model"
    """The key of a study that sentences about what it names begin with."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of its name in the store, without its fingerprint."""

    @property
    def place(self) -> str:
        # what comes from outside is made where Snakemake runs, by a rule that goes by the directory of its source
        return self.name if self.identity is None else f"{self.source}/{self.name}"

    @property
    def names(self) -> list[str]:
        """How it is called: in figures, and where it comes from."""
        return [self.label]

    @property
    @abstractmethod
    def shape(self) -> Architecture | LockedArchitecture | None:
        """Its architecture, as far as it is known before it is there; None where it is not locked and nobody says."""

    @abstractmethod
    def spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What decides its weights, but for the tokenizer and rows of one that is pretrained here.

        Args:
            entry: that of the lock, empty where there is none.
        """

    def require_trainable(
        self, entry: Mapping[str, Any], methods: Mapping[str, "Method"], decomposed: bool = False
    ) -> None:
        """Checks before the model is there whether a study's methods, by name, train one of its architecture.

        Args:
            entry: that of the lock.
            decomposed: whether the study asks for singular values, of which not every architecture has them.

        Raises:
            UserError: they do not, or its source cannot be asked.
        """
        return

    @property
    def made_from(self) -> tuple[Tokenizer, Pretraining] | None:
        """What it is made from where it is pretrained here; None where it comes with a tokenizer of its own."""
        return None

    def tokenizer_spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the tokenizer that it comes with, and which is made under `place` too; `source` is its own."""
        raise NotImplementedError(f"{type(self).__name__} comes without a tokenizer")

    @staticmethod
    def build_tokenizer(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        """Writes the tokenizer that such a model comes with; see `scripts.components.making.Builder`."""
        raise NotImplementedError("the model comes without a tokenizer")

    def read_encoding(self, entry: Mapping[str, Any], bos: Bos, join: Join) -> "Encoding | None":
        """The tokenizer that it comes with, when sources are locked; None where it has none that can be read then.

        Args:
            entry: that of the lock.
        """
        return None

    def encoding_at_hand(self, bos: Bos, join: Join) -> "Encoding | None":
        """The tokenizer that it comes with, before it is locked and without a network; None where that cannot be."""
        return None

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many it has, known from its shape before it is there; 0 where nothing is known."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Rows of its embedding, as far as it is known before it is there; 0 where nothing is known."""

    @property
    def stored_bytes(self) -> int:
        """What its weights take in its files."""
        return self.bytes_of_weight * self.parameters

    def tokens_to_train(self, key: str) -> int | None:
        """How many the job that makes it trains on, for estimates of time; None where it takes what is there.

        Args:
            key: the product's.
        """
        return None


class OutsideModel(BaseModel):
    """A base model from outside: what it is, its own files say, and the lock has it from them.

    A study is validated with the lock as pydantic's context; without one, or before the model is locked, what depends
    on its architecture is not checked and no estimate counts it.
    """

    _locked: LockedArchitecture | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _reads_the_lock(self, info: ValidationInfo) -> Self:
        entry = (info.context or {}).get(self.identity)
        if entry and "architecture" in entry:
            self._locked = LockedArchitecture.model_validate(entry["architecture"])
        if entry and self.shape is None:
            raise ValueError(f"is locked without its architecture; lock it anew with `{lock_command()}`")
        return self

    @property
    def shape(self) -> Architecture | LockedArchitecture | None:
        return self._locked

    @property
    def parameters(self) -> int:
        return self._locked.parameters if self._locked else 0

    @property
    def vocabulary(self) -> int:
        return self._locked.vocabulary if self._locked else 0

    @property
    def stored_bytes(self) -> int:
        return DTYPES[self._locked.dtype] * self.parameters if self._locked else super().stored_bytes


def require_parts(network: Any, methods: Mapping[str, "Method"], decomposed: bool, where: object) -> None:
    """Raises UserError where a model lacks what a study's methods adapt, or what singular values are taken of.

    Args:
        network: its `skeleton`.
        methods: by name.
        decomposed: whether the study asks for singular values.
        where: what the sentence names.
    """
    from scripts.models.architecture import linear_modules
    from scripts.spectra.ranks import require_linear

    for name, method in methods.items():
        method.require_modules(network, f"{where} (methods.{name})")
    if decomposed:
        require_linear(linear_modules(network), f"{where} (spectra)")


MODELS = classes(__name__, __path__, BaseModel, "source")  # type: ignore[type-abstract]
if TYPE_CHECKING:
    Model = BaseModel
else:
    Model = union(MODELS, "source")


def maker(spec: Mapping[str, Any]) -> type[BaseModel]:
    """The choice that a base model's spec is of; that of one that is pretrained here does not name it."""
    return MODELS[spec.get("source", "pretrained")]
