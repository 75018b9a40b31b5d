"""A base model of the Hugging Face hub."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from scripts.components.models import Architecture, BaseModel, parameters, repository_tokenizer
from scripts.components.part import Count, Repository, field, slug


class HubArchitecture(Architecture):
    """The shape that the downloaded model must have; what a run costs is estimated from it."""

    vocabulary: Count = field("rows of the embedding", unit="tokens")


class HubModel(BaseModel):
    """A base model of the Hugging Face hub, with its tokenizer, at the commit in ``config/data.lock``."""

    label: str = field("how figures call it", min_length=1)
    source: Literal["hub"] = field("the base model is downloaded from the hub")
    repository: Repository = field("the model's repository, OWNER/NAME", paper="section 3, appendix A")
    gated: bool = field("whether its licence must be accepted on the hub before it can be downloaded", default=False)
    architecture: HubArchitecture = field("the shape that it must have, by which jobs are planned before it is there")

    bytes_of_weight: ClassVar[int] = 2  # as Llama-2 and the paper's checkpoints lie there

    @property
    def place(self) -> str:
        return f"hub/{slug(self.repository)}"

    @property
    def identity(self) -> str:
        return f"model:{self.repository}"

    def spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "source": self.source,
            "repository": self.repository,
            "revision": entry.get("revision"),
            "architecture": self.architecture.model_dump(),
        }

    def tokenizer_spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return repository_tokenizer(self.repository, entry)

    @property
    def parameters(self) -> int:
        return parameters(self.architecture, 2 * self.architecture.vocabulary)
