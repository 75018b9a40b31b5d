"""Reads a study file and says in one sentence what is wrong with it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from scripts.common.errors import UserError
from scripts.common.files import project, read_yaml
from scripts.components.part import FILE_IS_READ
from scripts.study import datalock
from scripts.study.schema import Study

STUDIES = project("config/studies")
ACCEPTED = ".learning_rates.yaml"
NAME = re.compile(r"[\w.-]{1,100}")
"""Of a study, which is part of file names."""


def load_study(name: str, directory: Path = STUDIES, lock: Mapping[str, Any] | None = None) -> Study:
    """The study ``<directory>/<name>.yaml``, validated.

    A study may extend another (`extends: demo`): keys inside keys are merged, lists and values replaced, and a key that
    is null (`~`) is left out. The learning
    rates that a sweep chose lie in a file of their own beside the study; see `accepted_path`.

    Args:
        lock: entries of the data lock, which say what a base model from outside is; None: those of the file.

    Raises:
        UserError: no such study, or one sentence with file, key, what is wrong and what is allowed.
    """
    data = _study_data(name, directory, ())
    try:
        entries = datalock.read() if lock is None else lock
        return Study.model_validate(data, context={FILE_IS_READ: True, **entries})
    except ValidationError as error:
        raise UserError(f"{_study_path(name, directory)}: {sentence(error)}") from error


def accepted_path(name: str, directory: Path = STUDIES) -> Path:
    """Where ``python -m scripts.artifacts.accept_rates`` puts the learning rates that the study's sweep chose."""
    return directory / f"{name}{ACCEPTED}"


def _study_path(name: str, directory: Path) -> Path:
    return directory / f"{name}.yaml"


def _study_data(name: str, directory: Path, extended_by: tuple[str, ...]) -> dict[str, Any]:
    path = _study_path(name, directory)
    if not NAME.fullmatch(name):
        by = f"{_study_path(extended_by[-1], directory)}: extends: " if extended_by else ""
        said = f"{_short(name)} is no name of a study" if name else "the name of the study is empty"
        raise UserError(f"{by}{said}, which has 1 to 100 letters, digits, `.`, `_` and `-`; {_known(directory)}")
    if name in extended_by:
        raise UserError(f"{path}: extends: {' extends '.join((*extended_by, name))}, which never ends")
    if not path.is_file() or path.name.endswith(ACCEPTED):
        by = f"{_study_path(extended_by[-1], directory)}: extends: " if extended_by else ""
        raise UserError(f"{by}study {name!r} is unknown: {path} does not exist; {_known(directory)}")
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold keys and values (title, settings, methods, ...)")
    base = data.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{path}: extends: must be the name of a study (it says {_short(base)})")
        data = _merged(_study_data(base, directory, (*extended_by, name)), data)
    return _with_accepted_rates(data, accepted_path(name, directory))


def _known(directory: Path) -> str:
    files = (file for file in directory.glob("*.yaml") if not file.name.endswith(ACCEPTED))
    return f"known studies are {', '.join(sorted(file.stem for file in files)) or 'none'}"


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }
    return {key: value for key, value in {**base, **both}.items() if value is not None}


def _with_accepted_rates(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The study's data with each learning rate of the file at `path` put where a rate given by hand would stand."""
    if not path.exists():
        return data
    for setting, methods in read_accepted(path).items():
        given = (data.get("settings") or {}).get(setting)
        if not isinstance(given, dict):
            raise UserError(f"{path}: the study has no setting {setting!r}; it chose rates for another study")
        for method, choice in methods.items():
            rates = given.setdefault("learning_rates", {})
            if not isinstance(rates, dict) or method in rates:
                raise UserError(
                    f"{path}: settings.{setting}.learning_rates.{method} stands in the study too; one of them must go"
                )
            rates[method] = choice["learning_rate"]
    return data


def read_accepted(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Setting to method to what the sweep chose: `learning_rate`, and the `curve` behind it.

    Raises:
        UserError: the file has another shape.
    """
    data = read_yaml(path)
    settings = data.get("settings") if isinstance(data, dict) else None
    whole = isinstance(settings, dict) and all(
        isinstance(methods, dict)
        and all(isinstance(choice, dict) and {"learning_rate", "curve"} <= set(choice) for choice in methods.values())
        for methods in settings.values()
    )
    if not whole:
        raise UserError(
            f"{path}: is not what a sweep writes: every method of a setting must have learning_rate and curve"
        )
    return settings  # type: ignore[return-value]


def sentence(error: ValidationError, kind: type[BaseModel] = Study, called: str = "a study") -> str:
    """The first thing that is wrong: its key, what is wrong, what is allowed; and how many more there are.

    Args:
        kind: what was validated.
        called: what it is for a person.
    """
    details = error.errors(include_url=False)
    first = details[0]
    keys = _keys(first["loc"], kind)
    if keys and keys[-1] == "[key]":
        keys.pop()
    value = first.get("input")
    message = str(first["msg"]).removeprefix("Value error, ")
    match first["type"]:
        case "missing":
            what = "is missing"
        case "extra_forbidden":
            what = f"is not a key of {called}"
            keys_here = first["loc"][-1]
            what += f" (it says {keys_here}: {_short(value)})"
        case "float_type" | "int_type" if isinstance(value, str):
            what = f"must be a number, but {value!r} is text"
            if spelled := _spelled(value, whole=first["type"] == "int_type"):
                what += f"; YAML reads a number such as {spelled}"
        case "value_error":
            what = message
        case "union_tag_invalid" | "union_tag_not_found":
            keys.append(str(first["ctx"]["discriminator"]).strip("'"))
            allowed = str(first["ctx"].get("expected_tags", "")).replace("'", "")
            said = f" (it says {_short(first['ctx'].get('tag'))})" if "tag" in first["ctx"] else ""
            what = f"must be one of {allowed}{said}" if allowed else "is missing"
        case _:
            what = f"{message[0].lower()}{message[1:]} (it says {_short(value)})"
    more = len(details) - 1
    tail = f" (and {more} more mistake{'s' * (more > 1)})" if more else ""
    prefix = ".".join(keys)
    return f"{prefix}: {what}{tail}" if prefix else f"{what}{tail}"


def _keys(location: tuple[int | str, ...], kind: Any) -> list[str]:
    """The keys of the file on the way to a value of the type `kind`.

    pydantic puts the tag of a tagged union (`cpt`, `lora`) into the location, and no key of the file has that name.
    """
    if not location:
        return []
    discriminator: Any = None
    while (origin := get_origin(kind)) is Annotated or (origin in (Union, UnionType) and NoneType in get_args(kind)):
        if origin is Annotated:
            kind, *metadata = get_args(kind)
            discriminator = next((d for part in metadata if (d := getattr(part, "discriminator", None))), discriminator)
        else:
            kind = Union[tuple(one for one in get_args(kind) if one is not NoneType)]  # noqa: UP007 (of a tuple)
    first, rest = location[0], location[1:]
    for member in get_args(kind) if discriminator else ():
        if first in get_args(member.model_fields[discriminator].annotation):
            return _keys(rest, member)
    inner: Any = None
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if field := kind.model_fields.get(str(first)):
            inner = Annotated[field.annotation, field]
    elif origin in (list, dict):
        inner = get_args(kind)[-1]
    return [str(first), *_keys(rest, inner)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _spelled(text: str, *, whole: bool) -> str | None:
    """The number that a text means as YAML 1.1 reads one: a whole one plainly, else with a point before the exponent,
    and a signed exponent; None where it means none, or none that a whole number can be.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number) or (whole and not number.is_integer()):
        return None
    if whole:
        return str(int(number))
    mantissa, _, exponent = f"{number:e}".partition("e")
    return f"{float(mantissa)}e{int(exponent):+d}"
