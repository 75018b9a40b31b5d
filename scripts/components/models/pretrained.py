"""A base model that is pretrained here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from scripts.components.making import BuildContext
from scripts.components.models import Architecture, BaseModel, Pretraining, Tokenizer, parameters
from scripts.components.part import field

SHIPPED = Path(__file__).parents[2] / "models" / "shipped"
"""A base model that the project ships, as its product lies in the store: one that is wanted is taken, not made."""


class PretrainedModel(BaseModel):
    """A base model that the pipeline pretrains itself."""

    label: str = field("how figures call it", min_length=1)
    source: Literal["pretrained"] = field("the pipeline pretrains the base model", paper="beyond the paper")
    architecture: Architecture = field("its shape")
    tokenizer: Tokenizer = field("how text becomes tokens")
    pretraining: Pretraining = field("on what it is pretrained, and how")

    entry: ClassVar[None] = None
    needs_network: ClassVar[bool] = False
    bytes_of_weight: ClassVar[int] = 4

    @property
    def name(self) -> str:
        return "llama"

    @property
    def identity(self) -> None:
        return None

    @property
    def shape(self) -> Architecture:
        return self.architecture

    def spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        training = self.pretraining
        return {
            "architecture": self.architecture.model_dump(),
            "batches": round(training.tokens / (training.batch_rows * training.sequence_length)),
            "learning_rate": training.learning_rate,
            "warmup_fraction": training.warmup_fraction,
            "weight_decay": training.weight_decay,
            "seed": training.seed,
        }

    @property
    def made_from(self) -> tuple[Tokenizer, Pretraining]:
        return self.tokenizer, self.pretraining

    @property
    def parameters(self) -> int:
        # the output layer is the embedding
        return parameters(self.architecture, self.vocabulary)

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.vocabulary

    def tokens_to_train(self, key: str) -> int:
        return 0 if (SHIPPED / f"{key}.json").is_file() else self.pretraining.tokens

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.models.pretrain import pretrain, take_shipped

        if (SHIPPED / f"{context.key}.json").is_file():
            return take_shipped(SHIPPED, context.key, out)
        tokenizer, rows = context.inputs()
        return pretrain(spec, tokenizer, rows, out)
