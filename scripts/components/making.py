"""How a choice becomes a product: its entry in ``config/data.lock``, and the job that makes it."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, ValidationError

from scripts.common.commands import python_command, study_meant
from scripts.common.errors import UserError
from scripts.common.files import project
from scripts.components.forms import Use
from scripts.components.part import Part

DATA_LOCK = project("config/data.lock")

T = TypeVar("T")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="64 hex digits")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="40 hex digits")]


class LockEntry(Part):
    """What ``config/data.lock`` has of something outside, under the key KIND:NAME."""

    kind: ClassVar[str]
    named: ClassVar[str]
    """What stands for NAME; its words in capitals are for any text."""

    @classmethod
    def key(cls, name: str) -> str:
        """The key of what is called so."""
        return f"{cls.kind}:{name}"

    @classmethod
    def can_be_named(cls, name: str) -> bool:
        """Whether a key can have this name."""
        return re.fullmatch(re.sub("[A-Z]+", ".+", cls.named), name) is not None

    @classmethod
    def has_form(cls, entry: object) -> bool:
        """Whether this is such an entry, as plain data."""
        try:
            cls.model_validate(entry)
        except ValidationError:
            return False
        return True

    @classmethod
    def form(cls) -> str:
        """The form of an entry, for a sentence."""
        return f"{{{', '.join(f'{name}: {field.description}' for name, field in cls.model_fields.items())}}}"


def not_locked(identities: Sequence[str], study: str) -> UserError:
    """What a launch or a job says that meets sources without an entry."""
    more = f" and {len(identities) - 1} more are" if len(identities) > 1 else " is"
    return UserError(
        f"{DATA_LOCK}: {identities[0]}{more} not locked; run `{lock_command(study)}` where the network is, and commit "
        "the file"
    )


def lock_command(study: str | None = None) -> str:
    """What locks the sources of a study; None: of the one that this process is for."""
    return python_command("scripts.data.lock", "--study", study or study_meant() or "demo", options=())


@dataclass(frozen=True)
class BuildContext:
    """The job that makes a product, as far as its builder has to know."""

    key: str
    """The product's."""
    study: str
    scratch: Path
    """What lies here outlives an interrupted job; on the filesystem of the store, removed when the job is done."""
    data_lock: Mapping[str, Mapping[str, Any]]
    inputs: Callable[[], list[Path]]
    """The directories of what the product is made from, in the order of its inputs; whole, as their manifests say."""
    uses: Sequence[Use] = ()
    """What the study has the records for that are made; those of another product have none."""

    def locked(self, value: T | None, identity: str) -> T:
        """A hash or a commit of a spec, or several.

        Raises:
            UserError: there is none, as the lock has no entry; the sentence names the command that locks it.
        """
        if value is None:
            raise not_locked([identity], self.study)
        return value


Builder = Callable[[Mapping[str, Any], BuildContext, Path], dict[str, Any]]
"""Writes the bytes of a spec's product into an empty directory, and returns its results as `store.Build` does."""


class Made(Part, ABC):
    """A choice that becomes a product of its own: it is made here, or comes from outside as the lock says."""

    entry: ClassVar[type[LockEntry] | None]
    """What the lock has of it; None where it is made here."""
    needs_network: ClassVar[bool]
    """Whether it is downloaded. What is not, other jobs make again in passing where its bytes were deleted."""

    @property
    @abstractmethod
    def identity(self) -> str | None:
        """Its key in ``config/data.lock``; None where it is made here."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Its name in the store, below the directory of its kind and without its fingerprint."""

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The entry that the lock should have now, with the network if need be.

        Args:
            before: the entry that it has, empty where there is none.

        Raises:
            UserError: what is outside cannot be had.
        """
        raise NotImplementedError(f"{type(self).__name__} is made here")

    @staticmethod
    @abstractmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        """Writes the bytes of a spec; see `Builder`.

        Raises:
            UserError: it cannot be had, or is not what the lock says.
        """
