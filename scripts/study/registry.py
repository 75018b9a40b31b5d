"""The registry of artifacts, `config/artifacts.yaml`.

Read at parse time by whoever names artifacts as targets, so nothing here imports a drawing library.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scripts.study.errors import UserError
from scripts.study.load import read_yaml

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = Path("config/artifacts.yaml")
PACKAGE = "scripts/artifacts"
SHARED = ("draw", "points", "style")


class Artifact(BaseModel):
    """One figure: `kind` is the module of `scripts.artifacts` drawing it, `needs` what is measured for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_min_length=1, str_strip_whitespace=True)

    name: str = Field(pattern=r"^(v1/)?(fig|table)S?[0-9]+[a-z]?$")
    title: str
    caption: str
    edition: Literal["v1", "v2"]
    kind: str = Field(pattern=r"^[a-z][a-z_]*$")
    needs: tuple[Literal["learning", "forgetting"], ...] = Field(min_length=1)

    @property
    def module(self) -> str:
        """The drawing module's path, relative to the repository root."""
        return f"{PACKAGE}/{self.kind}.py"

    @property
    def modules(self) -> tuple[str, ...]:
        """Every file that decides how this artifact looks: the drawing module, then what all share."""
        return (self.module, *(f"{PACKAGE}/{name}.py" for name in SHARED))

    @property
    def number(self) -> str:
        """How a reader calls it: `Figure 2`, `Table S1`."""
        stem = self.name.removeprefix("v1/")
        return stem.replace("fig", "Figure ").replace("table", "Table ")


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
