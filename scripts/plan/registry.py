"""The registry of artifacts, `config/artifacts.yaml`.

Read at parse time by whoever names artifacts as targets, so nothing here imports a drawing library.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from scripts.common.errors import UserError
from scripts.common.files import ROOT, project, read_yaml
from scripts.components.tasks import TASKS
from scripts.plan import artifacts
from scripts.plan.grid import Grid
from scripts.plan.product import Key
from scripts.study.schema import TaskName

REGISTRY = project("config/artifacts.yaml")
PACKAGE = "scripts/artifacts"
OF_THE_STUDY = ("learning", "forgetting", "regimes", "domains")
"""Words in braces that stand for what a study says; see `scripts.artifacts.words`."""


class Artifact(BaseModel):
    """One figure or table: `kind` is the module of `scripts.artifacts` that makes it, `needs` what is measured for it.

    `block` says of which conditions: `grid` are those of figures 1 to 3, `sweep` those of the sweep over learning
    rates, any other name is a block that studies declare. `setting` is there where an artifact shows one setting alone.
    With `by_rate` a method has a point for each learning rate. What needs nothing is made without any model. `options`
    say how it is drawn, where its kind has a choice (`OPTIONS` of the module).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_min_length=1, str_strip_whitespace=True)

    name: str = Field(pattern=r"^(v1/)?(fig|table)S?[0-9]+[a-z]?$|^[a-z][a-z-]*$")
    title: str
    caption: str
    edition: Literal["v1", "v2", "beyond the paper"]
    kind: str = Field(pattern=r"^[a-z][a-z_]*$")
    needs: tuple[TaskName, ...] = ()
    block: str = "grid"
    setting: str | None = None
    by_rate: bool = False
    options: dict[str, str] = {}

    @field_validator("title", "caption")
    @classmethod
    def _with_labels(cls, text: str) -> str:
        """With the label of each task that is named in braces; what is known with the study alone stays as it is."""
        words = {name: f"{{{name}}}" for name in OF_THE_STUDY}
        words |= {name: task.shown.label for name, task in TASKS.items()}
        try:
            return text.format_map(words)
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(f"{error} cannot stand in braces; what can is {', '.join(words)}") from error

    @property
    def module(self) -> str:
        """The drawing module's path, relative to the repository root."""
        return f"{PACKAGE}/{self.kind}.py"

    @property
    def is_table(self) -> bool:
        return self.name.removeprefix("v1/").startswith("table")

    @property
    def place(self) -> str:
        """The directory of ``results`` that it is made in."""
        return ("v1/" if self.name.startswith("v1/") else "") + ("tables" if self.is_table else "figures")

    @property
    def forms(self) -> tuple[str, ...]:
        """The endings of its files, but for the CSV that they are made from."""
        return ("md", "tex") if self.is_table else ("pdf", "png")

    def files(self, results: str = "results") -> list[str]:
        """The files that are asked for, below a directory of results."""
        return [f"{self._path(results)}.{form}" for form in self.forms]

    def csv(self, results: str = "results") -> str:
        """The file that those are made from."""
        return f"{self._path(results)}.csv"

    def _path(self, results: str) -> str:
        return f"{results}/{self.place}/{self.name.removeprefix('v1/')}"

    def check_options(self, known: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError where an option is none of `known`, which has the values of each, or has another value."""
        for name, value in self.options.items():
            if name not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise UserError(f"{REGISTRY}: {self.name}.options: kind {self.kind} has no option {name!r}; {has}")
            if value not in known[name]:
                values = " or ".join(known[name])
                raise UserError(f"{REGISTRY}: {self.name}.options.{name}: {value!r} must be {values}")

    def lack(self, grid: Grid) -> str | None:
        """Why a study does not have it, in one sentence; None where it does."""
        if self.edition in ("v1", "v2") and self.edition != grid.study.edition:
            return f"{self.name} is of edition {self.edition}, study {grid.name!r} has that of {grid.study.edition}"
        if not self.needs:
            return None
        return artifacts.lack(grid, self.needs, self.block, self.setting)

    def require(self, grid: Grid) -> None:
        """Raises UserError where the study cannot have it, or its sweep has still to choose rates for it."""
        if lack := self.lack(grid):
            raise UserError(lack)
        if self.needs:
            artifacts.require(grid, self.needs, self.block, self.setting)

    def measurements(self, grid: Grid, made: Callable[[Key], bool]) -> list[Key]:
        """The products that its CSV is made from, whatever the study's grain; raises UserError as `require` does.

        Args:
            made: whether a product is complete; what table 1 counts of data from outside depends on it.
        """
        self.require(grid)
        if not self.needs:
            return self._counted(grid, made)
        return artifacts.measurements(grid, self.needs, self.block, self.setting)

    def _counted(self, grid: Grid, made: Callable[[Key], bool]) -> list[Key]:
        """What table 1 counts: data that are made here, and of those from outside what is prepared already."""
        if self.kind != "dataset_table":
            return []
        study, found = grid.study, []
        for name, setting in study.settings.items():
            made_here = study.datasets[setting.dataset].identity is None
            for seed in study.seeds:
                key = grid.rows(name, seed).key
                found += [key] if made_here or made(key) else []
            records, comparison = grid.records(setting.dataset), grid.overlaps(setting.dataset)
            found += [records.key] if made_here or made(records.key) else []
            if comparison and all(made(read) or grid.is_at_hand(Key(read)) for read in comparison.inputs):
                found.append(comparison.key)
        return list(dict.fromkeys(found))

    @property
    def heading(self) -> str:
        """Number and title: `Figure 2. Forgetting`, `Table S1. ...`; what the paper has not has no number."""
        if self.edition not in ("v1", "v2"):
            return self.title
        number = self.name.removeprefix("v1/").replace("fig", "Figure ").replace("table", "Table ")
        return f"{number}. {self.title}"


def load_registry(path: Path | str) -> dict[str, Artifact]:
    """All artifacts by name, in the file's order.

    Raises UserError, in one sentence, where the file cannot be read, is not of the right form, or names a
    kind that no module draws.
    """
    path = Path(path)
    entries = read_yaml(path)
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{path}: must map at least one artifact's name to its title, caption, edition, kind and needs")
    registry: dict[str, Artifact] = {}
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise UserError(f"{path}: {name}: must be a mapping with title, caption, edition, kind and needs")
        try:
            artifact = Artifact.model_validate({**entry, "name": name})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in (name, *first["loc"]))
            raise UserError(f"{path}: {key}: {first['msg'][0].lower()}{first['msg'][1:]}") from error
        if not (ROOT / artifact.module).is_file():
            raise UserError(f"{path}: {name}.kind: no module {artifact.module} draws it")
        registry[artifact.name] = artifact
    return registry


def find_artifact(name: str) -> Artifact:
    """The artifact called `name` in ``config/artifacts.yaml``; raises UserError where there is none."""
    registry = load_registry(REGISTRY)
    if name not in registry:
        raise UserError(f"{REGISTRY}: has no artifact {name!r}; it has {', '.join(registry)}")
    return registry[name]
