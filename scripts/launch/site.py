"""What a cluster is like, which no study can know: account, partition, where the store lies.

Each fact stands in ``profiles/slurm/site.yaml``, which git ignores, or in an environment variable, which counts more:
`account`, say, is FORGETTING_ACCOUNT.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from scripts.common.errors import UserError
from scripts.common.files import project, read_yaml

SITE = project("profiles/slurm/site.yaml")
VARIABLE = "FORGETTING_{}"
NONE = "none"
"""Said of a fact that the cluster shall decide by itself."""


@dataclass(frozen=True)
class Site:
    """The facts; None where nobody said one."""

    account: str | None = None
    """Whose hours are spent; `none` for SLURM's default."""
    partition: str | None = None
    """Where jobs run; `none` for SLURM's default."""
    gpu_type: str | None = None
    """How SLURM calls the GPUs that are wanted; `none` for any."""
    store: str | None = None
    """A directory that every node sees."""
    setup: str | None = None
    """Shell commands that a job starts with: `module load cuda/12.4`."""
    container: str | None = None
    """The words before a job's `python`: `apptainer exec --nv /images/training.sif`."""

    def require(self, names: Iterable[str]) -> None:
        """Raises UserError where one of the facts is not said."""
        facts = asdict(self)
        if missing := [name for name in names if facts[name] is None]:
            variables = " and ".join(VARIABLE.format(name.upper()) for name in missing)
            raise UserError(
                f"{SITE}: {' and '.join(missing)} of the cluster must be said, there or in {variables}; "
                f"`{NONE}` leaves the choice to SLURM"
            )

    def asked(self, name: str) -> str | None:
        """The fact, if SLURM is to be asked for it."""
        value: str | None = asdict(self)[name]
        return None if value == NONE else value


def load_site(environment: Mapping[str, str] = os.environ, path: Path = SITE) -> Site:
    """The facts as file and environment say them.

    Raises:
        UserError: the file has another key, or a value that is no text.
    """
    names = [field.name for field in fields(Site)]
    facts = read_yaml(path) or {} if path.exists() else {}
    if not isinstance(facts, dict):
        raise UserError(f"{path}: must hold keys and values; allowed are {', '.join(names)}")
    for key, value in facts.items():
        if key not in names:
            raise UserError(f"{path}: {key}: is not a fact of a cluster; allowed are {', '.join(names)}")
        if not isinstance(value, str) or not value:
            raise UserError(f"{path}: {key}: must be text, not {value!r}")
    said = {name: environment.get(VARIABLE.format(name.upper())) for name in names}
    return Site(**{**facts, **{name: value for name, value in said.items() if value}})
