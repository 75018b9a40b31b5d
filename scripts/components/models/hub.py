"""A base model of the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from scripts.components.making import BuildContext, Commit, LockEntry
from scripts.components.methods import Method
from scripts.components.models import Architecture, LockedArchitecture, OutsideModel, parameters, require_parts
from scripts.components.part import Count, Repository, field, slug
from scripts.components.templates import Bos, Join

if TYPE_CHECKING:
    from scripts.data.encoding import Encoding


class ModelEntry(LockEntry):
    """A model repository of the hub: a base model, a tokenizer, or published checkpoints."""

    kind: ClassVar[str] = "model"
    named: ClassVar[str] = "OWNER/NAME"

    revision: Commit
    branches: dict[str, Commit] = field("{name: 40 hex digits} (of published checkpoints alone)", default={})
    architecture: LockedArchitecture | None = field(
        "{hidden_size: ..., parameters: ...} (of a base model alone)", default=None
    )


def lock_repository(repository: str, embeddings: int | None, before: Mapping[str, Any]) -> dict[str, Any]:
    """The entry that the lock should have of a model repository now, see `Made.lock`; its tokenizer is read.

    Args:
        embeddings: how many tokens the model can read that its tokenizer is used with; unchecked, if None.
    """
    from scripts.data import hub

    asked = hub.Repository("model", repository)
    revision = asked.commit()
    hub.require_tokenizer(asked, revision, asked.files(revision), embeddings)
    return {**still_true(before, revision), "revision": revision}


def still_true(before: Mapping[str, Any], revision: str) -> dict[str, Any]:
    """What an entry says that holds of another commit too: all but the architecture that the former one had."""
    same = before.get("revision") == revision
    return {key: value for key, value in before.items() if same or key != "architecture"}


def repository_tokenizer(repository: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the tokenizer of a model repository, by the lock's entry of it."""
    return {"source": "hub", "repository": repository, "revision": entry.get("revision")}


class HubArchitecture(Architecture):
    """The shape that the downloaded model must have; what a run costs is estimated from it."""

    vocabulary: Count = field("rows of the embedding", unit="tokens")


class HubModel(OutsideModel):
    """A base model of the Hugging Face hub, with its tokenizer, at the commit in ``config/data.lock``."""

    label: str = field("how figures call it", min_length=1)
    source: Literal["hub"] = field("the base model is downloaded from the hub")
    repository: Repository = field("the model's repository, OWNER/NAME", paper="section 3, appendix A")
    gated: bool = field("whether its licence must be accepted on the hub before it can be downloaded", default=False)
    architecture: HubArchitecture | None = field(
        "the shape that it must have, by which jobs are planned before it is locked (if absent, its config.json says "
        "it when it is locked)",
        default=None,
    )

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

    @property
    def shape(self) -> Architecture | LockedArchitecture | None:
        return self.architecture or self._locked

    @model_validator(mode="after")
    def _is_the_locked_one(self) -> Self:
        said, locked = self._said, self._locked
        if locked and (other := [key for key, value in said.items() if value != getattr(locked, key)]):
            raise ValueError(
                f"architecture: {other[0]} is {getattr(locked, other[0])} in the model's config.json, not "
                f"{said[other[0]]}; leave the key out, it is read when the model is locked"
            )
        return self

    @property
    def _said(self) -> dict[str, int]:
        return self.architecture.model_dump() if self.architecture else {}

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        from scripts.data import hub
        from scripts.models.architecture import measured
        from scripts.models.fetch import read_architecture

        repository = hub.Repository("model", self.repository)
        revision = repository.commit()
        files = repository.files(revision)
        network = read_architecture(repository, revision, files)
        architecture = measured(network, repository, **self._said)
        hub.require_tokenizer(repository, revision, files, architecture["vocabulary"])
        return {**before, "revision": revision, "architecture": architecture}

    def read_encoding(self, entry: Mapping[str, Any], bos: Bos, join: Join) -> "Encoding":
        from scripts.data import hub

        return hub.read_encoding(hub.Repository("model", self.repository), entry["revision"], bos, join)

    def encoding_at_hand(self, bos: Bos, join: Join) -> "Encoding | None":
        from scripts.data import hub

        return hub.cached_encoding(hub.Repository("model", self.repository), bos, join)

    def require_trainable(
        self, entry: Mapping[str, Any], methods: Mapping[str, Method], decomposed: bool = False
    ) -> None:
        from scripts.data import hub
        from scripts.models.fetch import check_shape, read_architecture

        repository = hub.Repository("model", self.repository)
        network = read_architecture(repository, entry["revision"], repository.files(entry["revision"]))
        check_shape(network.config, self._said, repository)
        require_parts(network, methods, decomposed, repository)

    def spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        spec = {"source": self.source, "repository": self.repository, "revision": entry.get("revision")}
        return {**spec, "architecture": self._said} if self.architecture else spec

    def tokenizer_spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return repository_tokenizer(self.repository, entry)

    @property
    def parameters(self) -> int:
        if self._locked is None and self.architecture:
            return parameters(self.architecture, 2 * self.architecture.vocabulary)
        return super().parameters

    @property
    def vocabulary(self) -> int:
        return self.architecture.vocabulary if self.architecture else super().vocabulary

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.data import hub
        from scripts.models.fetch import take_model

        repository = hub.Repository("model", spec["repository"])
        revision = context.locked(spec["revision"], ModelEntry.key(repository.name))
        files = repository.files(revision)
        shape = spec.get("architecture")  # without one the commit is what was looked at when it was locked
        if shape:
            hub.require_tokenizer(repository, revision, files, shape["vocabulary"], context.scratch)
        take_model(repository, revision, files, [*hub.TOKENIZER_FILES], shape, out, context.scratch)
        return {"repository": repository.name, "revision": revision}

    @staticmethod
    def build_tokenizer(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.data import hub

        repository = hub.Repository("model", spec["repository"])
        revision = context.locked(spec["revision"], ModelEntry.key(repository.name))
        hub.take_tokenizer(repository, revision, out, context.scratch)
        return {"repository": repository.name, "revision": revision}
