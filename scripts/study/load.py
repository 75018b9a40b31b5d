"""Reads a study file and says in one sentence what is wrong with it."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from scripts.study.errors import UserError
from scripts.study.schema import Study

STUDIES = Path("config/studies")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML whose repeated keys are errors: the plain loader keeps the last one and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The data of a YAML file.

    Raises:
        UserError: the file is missing or is no YAML; the sentence names file and line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or 'unreadable'})") from error


def load_study(name: str, directory: Path = STUDIES) -> Study:
    """The study ``<directory>/<name>.yaml``, validated.

    Raises:
        UserError: no such study, or one sentence with file, key, what is wrong and what is allowed.
    """
    path = directory / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in directory.glob("*.yaml"))) or "none"
        raise UserError(f"study {name!r} is unknown: {path} does not exist; known studies are {known}")
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold keys and values (title, settings, methods, ...)")
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong: its key, what is wrong, what is allowed; and how many more there are."""
    details = error.errors(include_url=False)
    first = details[0]
    # pydantic puts the tag of a tagged union ("cpt", "lora") into the location; no key of the file has that name
    tags = {"cpt", "ift", "lora", "full", "generated", "path"}
    location = first["loc"]
    keys = [str(key) for i, key in enumerate(location) if not (key in tags and i == 2 and location[0] in _TAGGED)]
    if keys and keys[-1] == "[key]":
        keys.pop()
    value = first.get("input")
    message = str(first["msg"]).removeprefix("Value error, ")
    match first["type"]:
        case "missing":
            what = "is missing"
        case "extra_forbidden":
            what = "is not a key of a study"
            keys_here = first["loc"][-1]
            what += f" (it says {keys_here}: {_short(value)})"
        case "float_type" | "int_type" if isinstance(value, str):
            what = f"must be a number, but {value!r} is text"
            if _is_number(value):
                what += f"; YAML reads a number such as {_spelled(value)}"
        case "value_error":
            what = message
        case _:
            what = f"{message[0].lower()}{message[1:]} (it says {_short(value)})"
    more = len(details) - 1
    tail = f" (and {more} more mistake{'s' * (more > 1)})" if more else ""
    prefix = ".".join(keys)
    return f"{prefix}: {what}{tail}" if prefix else f"{what}{tail}"


_TAGGED = {"settings", "methods", "datasets"}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _spelled(text: str) -> str:
    """The number as YAML 1.1 reads one: with a point before the exponent, and a signed exponent."""
    mantissa, _, exponent = f"{float(text):e}".partition("e")
    return f"{float(mantissa)}e{int(exponent):+d}"
