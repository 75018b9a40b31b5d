"""What a cluster is like, which no study can know: account, partition, where the store lies.

Each fact stands in ``profiles/slurm/site.yaml``, which git ignores, or in an environment variable, which counts more:
`account`, say, is FORGETTING_ACCOUNT.
"""

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from scripts.common.errors import UserError
from scripts.common.files import project, read_yaml
from scripts.study.load import sentence
from scripts.study.schema import Devices

SITE = project("profiles/slurm/site.yaml")
VARIABLE = "FORGETTING_{}"
NONE = "none"
"""Said of a fact that the cluster shall decide by itself."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BY_KEY = "the key {} says it"
_BY_STUDY = "the study says it, under resources.jobs"
_BY_SNAKEMAKE = "Snakemake sets it for each job"
_NOT_EXTRA = {
    **dict.fromkeys(("--account", "-A"), _BY_KEY.format("account")),
    **dict.fromkeys(("--partition", "-p"), _BY_KEY.format("partition")),
    **dict.fromkeys(("--qos", "-q"), _BY_KEY.format("qos")),
    **dict.fromkeys(("--constraint", "-C"), _BY_KEY.format("constraint")),
    "--export": _BY_KEY.format("environment"),
    **dict.fromkeys(("--time", "-t", "--mem", "--mem-per-cpu", "--nodes", "-N", "--ntasks", "-n"), _BY_STUDY),
    **dict.fromkeys(("--cpus-per-task", "-c", "--cpus-per-gpu", "--ntasks-per-gpu"), _BY_STUDY),
    **dict.fromkeys(("--gres", "--gpus", "-G"), f"{_BY_STUDY}, and the key gpu_type names the GPUs"),
    **dict.fromkeys(("--job-name", "-J", "--comment", "--parsable"), _BY_SNAKEMAKE),
    **dict.fromkeys(("--output", "-o", "--error", "-e"), _BY_SNAKEMAKE),
    **dict.fromkeys(("--workdir", "--chdir", "-D"), _BY_SNAKEMAKE),
    **dict.fromkeys(("--clusters", "-M"), "jobs go to the cluster that sbatch reaches by itself"),
}
"""Options of `sbatch` that have no place in `extra`, where most would fail job by job, to who else says them."""


@dataclass(frozen=True)
class Site:
    """The facts; None where nobody said one."""

    account: str | None = None
    """Whose hours are spent; `none` for SLURM's default."""
    partition: str | None = None
    """Where jobs run; `none` for SLURM's default."""
    cpu_partition: str | None = None
    """Where jobs without a GPU run; without it, in `partition`."""
    gpu_type: str | None = None
    """How SLURM calls the GPUs that are wanted; `none` for any."""
    devices: dict[str, Any] | None = None
    """What training runs on, instead of what the study says: `{kind: a100-80gb, nodes: 2, gpus: 4}`."""
    qos: str | None = None
    """Quality of service of the jobs in `partition`, and so the next two: a `cpu_partition` has neither."""
    constraint: str | None = None
    """Features that a node must have: `ib&h100`."""
    reservation: str | None = None
    """Nodes that are set aside."""
    extra: str | None = None
    """More options of `sbatch`, for every job: `--mail-type=FAIL --exclusive`; none of `_NOT_EXTRA`."""
    max_jobs: int | None = None
    """Jobs in the queue at a time, at most; without it, `jobs` of the profile."""
    confirm_gpu_hours: float | None = None
    """GPU-hours above which a launch is started only with `--config budget_gpu_hours=` at or above its plan."""
    store: str | None = None
    """A directory that every node sees."""
    setup: str | None = None
    """Shell commands that a job starts with: `module load cuda/12.4`."""
    environment: dict[str, str] | None = None
    """Variables of a job: `NCCL_SOCKET_IFNAME: ib0`; all in one variable of the environment: `A=1 B="two words"`."""
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

    @property
    def prologue(self) -> str:
        """What a job's shell runs first: variables, then `setup`; empty where there is neither."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in (self.environment or {}).items()]
        return "; ".join([*lines, *([self.setup] if self.setup else [])])


def load_site(environment: Mapping[str, str] = os.environ, path: Path = SITE) -> Site:
    """The facts as file and environment say them.

    Raises:
        UserError: the file has another key, or a value of another kind than the fact's.
    """
    names = [field.name for field in fields(Site)]
    facts = read_yaml(path) or {} if path.exists() else {}
    if not isinstance(facts, dict):
        raise UserError(f"{path}: must hold keys and values; allowed are {', '.join(names)}")
    for key in facts:
        if key not in names:
            raise UserError(f"{path}: {key}: is not a fact of a cluster; allowed are {', '.join(names)}")
    said = {name: (f"{path}: {name}", value) for name, value in facts.items()}
    for name in names:
        variable = VARIABLE.format(name.upper())
        if value := environment.get(variable):
            said[name] = (variable, _parsed(name, value))
    return Site(**{name: _checked(name, value, where) for name, (where, value) in said.items()})


def _parsed(name: str, text: str) -> Any:
    """A fact that an environment variable says, in the form that the file has it."""
    if name == "max_jobs" and text.isdecimal():
        return int(text)
    if name == "confirm_gpu_hours":
        try:
            return float(text)
        except ValueError:
            return text
    if name == "devices":
        with suppress(yaml.YAMLError):
            return yaml.safe_load(text)
    if name == "environment":
        try:
            words = [word.partition("=") for word in shlex.split(text)]
        except ValueError:  # a quotation without an end
            return text
        return {key: value for key, _, value in words} if all(sign for _, sign, _ in words) else text
    return text


def _checked(name: str, value: Any, where: str) -> Any:
    if name == "max_jobs":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{where}: must be a whole number of jobs, at least 1, not {value!r}")
    elif name == "confirm_gpu_hours":
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise UserError(f"{where}: must be a number of hours, not {value!r}")
    elif name == "environment":
        if not isinstance(value, dict) or not all(
            _NAME.fullmatch(key) and isinstance(word, str | int | float) and not isinstance(word, bool)
            for key, word in value.items()
        ):
            raise UserError(f"{where}: must map names of variables to text or numbers, not {value!r}")
        return {key: str(word) for key, word in value.items()}
    elif name == "devices":
        return require_devices(value, where)
    elif not isinstance(value, str) or not value:
        raise UserError(f"{where}: must be text, not {value!r}")
    elif name == "extra":
        _require_extra(value, where)
    return value


def require_devices(value: Any, where: str) -> dict[str, Any]:
    """What is said of `Resources.devices`, in full; raises UserError, which begins with `where`, where it is wrong."""
    if not isinstance(value, Mapping):
        raise UserError(
            f"{where}: must be keys and values, such as {{kind: h100-80gb, nodes: 1, gpus: 8}}, not {value!r}"
        )
    try:
        return Devices.model_validate(value).model_dump()
    except ValidationError as error:
        raise UserError(f"{where}: {sentence(error, Devices, 'devices')}") from None


def _require_extra(text: str, where: str) -> None:
    """Raises UserError where an option is among those that have another place."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{where}: {text!r} is no list of options ({error})") from None
    for word in words:
        option = word.partition("=")[0] if word.startswith("--") else word[:2]
        if option in _NOT_EXTRA:
            raise UserError(f"{where}: {option} is not allowed here; {_NOT_EXTRA[option]}")
