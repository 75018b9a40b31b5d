"""Files: YAML with mistakes said in a sentence, and writing that is complete or does not happen."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from scripts.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
"""The checkout that this code is of."""


def project(name: str) -> Path:
    """A file that is named relative to the project's root: as it is written where that is the working directory.

    An absolute name stays as it is.
    """
    return Path(name) if Path.cwd() == ROOT else ROOT / name


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML whose keys are texts, and stand once: the plain loader keeps the last of several and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                problem = f"the key {key!r} is no text; a name that reads as something else stands in quotes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
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
    except (ValueError, RecursionError) as error:  # a date in the 13th month, a number of 5000 digits, ten thousand "["
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error


def read_object(path: Path, where: object) -> dict[str, Any]:
    """The object in a JSON file of another's making, of a model or a tokenizer, say.

    Args:
        where: what it is of, which an error names with the file's name.

    Raises:
        UserError: it is no JSON, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{where}: its {path.name} is not valid JSON") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: its {path.name} holds no object")
    return found


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable JSON, complete or not at all, and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as new, new.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there becomes `path` when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
