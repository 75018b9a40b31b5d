"""A base model in a directory of one's own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scripts.common.errors import UserError
from scripts.common.files import project
from scripts.components.making import DATA_LOCK, BuildContext, LockEntry, Sha256
from scripts.components.methods import Method
from scripts.components.models import LockedArchitecture, OutsideModel, require_parts
from scripts.components.part import field
from scripts.components.templates import Bos, Join

if TYPE_CHECKING:
    from scripts.data.encoding import Encoding


class DirectoryEntry(LockEntry):
    """A model in a directory of one's own."""

    kind: ClassVar[str] = "directory"
    named: ClassVar[str] = "PATH"

    files: dict[str, Sha256] = field("{config.json: 64 hex digits, ...}")
    architecture: LockedArchitecture = field("{hidden_size: ..., parameters: ...}")


class PathModel(OutsideModel):
    """A base model in a directory of one's own, as transformers' `save_pretrained` writes it, with its tokenizer.

    The SHA-256 of its config.json, safetensors and tokenizer files stand in ``config/data.lock``.
    """

    label: str = field("how figures call it", min_length=1)
    source: Literal["path"] = field("the base model lies in a directory", paper="beyond the paper")
    path: str = field(
        "the directory, absolute or relative to the repository: config.json, weights in safetensors, tokenizer.json. A "
        "snapshot in the hub's cache (~/.cache/huggingface/hub/models--OWNER--NAME/snapshots/COMMIT) is one",
        min_length=1,
    )

    entry: ClassVar[type[LockEntry]] = DirectoryEntry
    needs_network: ClassVar[bool] = False
    bytes_of_weight: ClassVar[int] = 4
    said_at: ClassVar[str] = "model.path"

    @property
    def name(self) -> str:
        return "directory"  # wherever it lies

    @property
    def identity(self) -> str:
        return DirectoryEntry.key(self.path)

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        from scripts.models import directory

        return directory.locked(_place(self.path))

    def require_trainable(
        self, entry: Mapping[str, Any], methods: Mapping[str, Method], decomposed: bool = False
    ) -> None:
        from scripts.models.directory import read_network

        place = _place(self.path)
        require_parts(read_network(place), methods, decomposed, place)

    def read_encoding(self, entry: Mapping[str, Any], bos: Bos, join: Join) -> "Encoding":
        from scripts.models import directory

        return directory.tokenizer(_place(self.path), bos, join)

    def encoding_at_hand(self, bos: Bos, join: Join) -> "Encoding":
        return self.read_encoding({}, bos, join)

    def spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        if not entry:  # two models must not be one product before they are locked
            return {"source": self.source, "files": None, "path": self.path}
        return {"source": self.source, "files": entry["files"]}

    def tokenizer_spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        spec = self.spec(entry)
        weights = (".safetensors", ".safetensors.index.json")
        files = {name: sha256 for name, sha256 in entry.get("files", {}).items() if not name.endswith(weights)}
        return {**spec, "files": files} if entry else spec

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.models import directory

        files = context.locked(spec["files"], DirectoryEntry.key(spec.get("path", "")))
        directory.take(files, _directory_of(files, context), out, context.study)
        return {}

    build_tokenizer = build


def _place(path: str) -> Path:
    return project(os.path.expanduser(path))


def _directory_of(files: Mapping[str, str], context: BuildContext) -> Path:
    """The directory that the lock has with these files; a spec has no path, as a model is the same wherever it lay.

    Of several the first that is there: people have theirs in different places.
    """
    prefix = DirectoryEntry.key("")
    places = [
        _place(key.removeprefix(prefix))
        for key, entry in context.data_lock.items()
        if key.startswith(prefix) and files.items() <= entry["files"].items()
    ]
    if not places:
        raise UserError(f"{context.key}: no directory of {DATA_LOCK} has the files of this model")
    return next(filter(Path.is_dir, places), places[0])
