"""Records of the Hugging Face hub."""

import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from scripts.common.errors import UserError
from scripts.components.making import BuildContext, Commit, LockEntry
from scripts.components.part import Count, Repository, Tokens, field, slug
from scripts.components.sources import Source, Table

LOOKED_AT, FIRST = 2**26, 1000
"""Bytes of the largest file that is downloaded when a dataset is locked, and how many of its records are read."""


class DatasetEntry(LockEntry):
    """A dataset repository of the hub."""

    kind: ClassVar[str] = "dataset"
    named: ClassVar[str] = "OWNER/NAME"

    revision: Commit


class HubDataset(Table, Source):
    """Records from a dataset repository of the Hugging Face hub, at the commit in ``config/data.lock``."""

    source: Literal["hub"] = field("the records are downloaded from the hub")
    repository: Repository = field("the dataset's repository, OWNER/NAME", paper="section 3.1, table 1")
    files: Annotated[list[str], Field(min_length=1)] = field(
        "globs over the repository's files (see `path` of a file of one's own for their formats); those that match are "
        "read"
    )
    sample_tokens: Tokens | None = field(
        "about how much of the text is taken, from whole files in an order drawn from `data_seed` (all, if absent)",
        default=None,
        unit="tokens",
        paper="table 1; by which rule: not said",
    )
    records: Count | None = field(
        "how many it has; estimates of time depend on it, no result does", default=None, unit="records"
    )
    gated: bool = field("whether its licence must be accepted on the hub before it can be downloaded", default=False)

    entry: ClassVar[type[LockEntry]] = DatasetEntry
    needs_network: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        return DatasetEntry.key(self.repository)

    @property
    def place(self) -> str:
        return slug(self.repository)

    def spec(self, entry: Mapping[str, Any], data_seed: int) -> dict[str, Any]:
        spec = self.model_dump(exclude={"gated", "records"}, exclude_defaults=True) | {"source": self.source}
        return spec | {"revision": entry.get("revision"), "seed": data_seed}

    @property
    def expected_records(self) -> int:
        return min(filter(None, (self.records, self.limit)), default=0)

    def overlaps(self, other: Source) -> bool:
        if not isinstance(other, HubDataset) or self.repository != other.repository:
            return False
        if any(value != other.keep.get(column, value) for column, value in self.keep.items()):
            return False
        return any(fnmatchcase(a, b) or fnmatchcase(b, a) for a in self.files for b in other.files)

    def lock(self, before: Mapping[str, Any]) -> dict[str, Any]:
        from scripts.data import hub

        return {**before, "revision": hub.Repository("dataset", self.repository).commit()}

    def check(self, spec: Mapping[str, Any], context: BuildContext) -> None:
        """Its files, and the first records of the first one, if it is small: the job finds it in the hub's cache."""
        from scripts.data import hub
        from scripts.data.records import Records, matching
        from scripts.data.tables import ALLOWED, format_of

        repository, revision = hub.Repository("dataset", self.repository), spec["revision"]
        sums = repository.files(revision)
        names = matching(sums, self.files, str(repository))
        if other := next((name for name in names if format_of(name) is None), None):
            raise UserError(f"{repository}: {other} is no table, and `files` chooses it; {ALLOWED}")
        few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"{repository}: reads {few}", file=sys.stderr)
        # who may see the list of files may not have accepted the licence here; one file may have nothing of `keep`
        if self.gated or (self.keep and len(names) > 1):
            return
        if repository.size(names[0], revision) > LOOKED_AT:
            print(f"{repository}: {names[0]} is large, so its columns are seen when it is downloaded", file=sys.stderr)
            return
        file = repository.download(names[0], revision, sums[names[0]])
        chosen = {key: value for key, value in spec.items() if key != "sample_tokens"}
        first = {**chosen, "limit": min(self.limit or FIRST, FIRST)}
        Records([(names[0], file)], first, str(repository), context.uses).check()

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.data import hub
        from scripts.data.records import Records, matching

        repository = hub.Repository("dataset", spec["repository"])
        revision = context.locked(spec["revision"], DatasetEntry.key(spec["repository"]))
        sums = repository.files(revision)
        names = matching(sums, spec["files"], str(repository))
        if "sample_tokens" in spec:
            # The paper sub-samples StarCoder-Python and does not say by which rule. Whole files in a drawn order are
            # as good as any, and no more of them than the sample needs have to be downloaded.
            Random(f"{spec['repository']} {spec['seed']}").shuffle(names)
        files = ((name, repository.download(name, revision, sums[name])) for name in names)
        return Records(files, spec, context.key, context.uses, total=len(names)).write(out)
