"""A base model of the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from scripts.components.making import BuildContext, Commit, LockEntry
from scripts.components.methods import Method
from scripts.components.models import Architecture, BaseModel, parameters
from scripts.components.part import Count, Repository, field, slug


class ModelEntry(LockEntry):
    """A model repository of the hub: a base model, a tokenizer, or published checkpoints."""

    kind: ClassVar[str] = "model"
    named: ClassVar[str] = "OWNER/NAME"

    revision: Commit
    branches: dict[str, Commit] = field("{name: 40 hex digits} (of published checkpoints alone)", default={})


def lock_repository(repository: str, embeddings: int | None, before: Mapping[str, Any]) -> dict[str, Any]:
    """The entry that the lock should have of a model repository now, see `Made.lock`; its tokenizer is read.

    Args:
        embeddings: how many tokens the model can read that its tokenizer is used with; unchecked, if None.
    """
    from scripts.data import hub

    asked = hub.Repository("model", repository)
    revision = asked.commit()
    hub.require_tokenizer(asked, revision, asked.files(revision), embeddings)
    return {**before, "revision": revision}


def repository_tokenizer(repository: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the tokenizer of a model repository, by the lock's entry of it."""
    return {"source": "hub", "repository": repository, "revision": entry.get("revision")}


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

    entry: ClassVar[type[LockEntry]] = ModelEntry
    needs_network: ClassVar[bool] = True
    bytes_of_weight: ClassVar[int] = 2  # as Llama-2 and the paper's checkpoints lie there

    @property
    def name(self) -> str:
        return slug(self.repository)

    @property
    def names(self) -> list[str]:
        return [self.label, self.repository]

    @property
    def identity(self) -> str:
        return ModelEntry.key(self.repository)

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        return lock_repository(self.repository, self.architecture.vocabulary, before)

    def require_trainable(
        self, entry: Mapping[str, Any], methods: Mapping[str, Method], decomposed: bool = False
    ) -> None:
        from scripts.data import hub
        from scripts.models.architecture import linear_modules
        from scripts.models.fetch import check_shape, read_architecture
        from scripts.spectra.ranks import require_linear

        repository = hub.Repository("model", self.repository)
        network = read_architecture(repository, entry["revision"], repository.files(entry["revision"]))
        check_shape(network.config, self.architecture.model_dump(), repository)
        for name, method in methods.items():
            method.require_modules(network, f"{repository} (methods.{name})")
        if decomposed:
            require_linear(linear_modules(network), f"{repository} (spectra)")

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

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.data import hub
        from scripts.models.fetch import take_model

        repository = hub.Repository("model", spec["repository"])
        revision = context.locked(spec["revision"], ModelEntry.key(repository.name))
        files = repository.files(revision)
        hub.require_tokenizer(repository, revision, files, spec["architecture"]["vocabulary"], context.scratch)
        take_model(repository, revision, files, [*hub.TOKENIZER_FILES], spec["architecture"], out, context.scratch)
        return {"repository": repository.name, "revision": revision}

    @staticmethod
    def build_tokenizer(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.data import hub

        repository = hub.Repository("model", spec["repository"])
        revision = context.locked(spec["revision"], ModelEntry.key(repository.name))
        hub.take_tokenizer(repository, revision, out, context.scratch)
        return {"repository": repository.name, "revision": revision}
