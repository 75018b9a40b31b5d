"""Finds the choices of a family: the modules of its package."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Annotated, Any, TypeVar, Union, get_args

from pydantic import BaseModel, Field, ValidationError

from scripts.common.errors import UserError

T = TypeVar("T")
C = TypeVar("C", bound=BaseModel)


def modules(package: str, path: Iterable[str]) -> Iterator[ModuleType]:
    """The modules of a package, in the order of their names."""
    for found in sorted(pkgutil.iter_modules(path), key=lambda found: found.name):
        yield importlib.import_module(f"{package}.{found.name}")


def instances(package: str, path: Iterable[str], of: type[T]) -> list[T]:
    """The one instance of `of` in each module of a package.

    Raises:
        TypeError: a module has none, or several.
    """
    return [
        _one(module, [v for v in vars(module).values() if isinstance(v, of)], of) for module in modules(package, path)
    ]


def classes(package: str, path: Iterable[str], base: type[C], tag: str) -> dict[str, type[C]]:
    """The one class derived from `base` in each module of a package, by the only value that its key `tag` can have.

    Raises:
        TypeError: a module has none, or several, or a class lacks something that `base` asks for.
    """
    found: dict[str, type[C]] = {}
    for module in modules(package, path):
        own = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
        ]
        member = _one(module, own, base)
        lacking = sorted(getattr(member, "__abstractmethods__", ()))
        lacking += sorted(name for name in base.__class_vars__ if not hasattr(member, name))
        if lacking:
            raise TypeError(f"{module.__name__}.{member.__name__} lacks {', '.join(lacking)}; see {base.__name__}")
        (value,) = get_args(member.model_fields[tag].annotation)
        found[value] = member
    return found


def union(members: Mapping[str, type[BaseModel]], tag: str) -> Any:
    """The type of a value that is one of the members, as its key `tag` says."""
    return Annotated[Union[tuple(members.values())], Field(discriminator=tag)]  # noqa: UP007 (of a tuple)


def read(members: Mapping[str, type[C]], tag: str, data: Mapping[str, Any], what: str) -> C:
    """The member that the key `tag` of plain data names, with the settings that stand there.

    Raises:
        UserError: there is no such member, or it has no such settings; `what` is how the sentence calls a member.
    """
    name = data.get(tag)
    if name is None or name not in members:
        raise UserError(f"The {what} {name!r} is unknown; allowed are {', '.join(members)}.")
    try:
        return members[name].model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, (name, *first["loc"])))
        raise UserError(f"The {what} {key}: {first['msg']} (it says {first['input']!r}).") from error


def _one(module: ModuleType, found: list[T], of: type) -> T:
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must have one {of.__name__}, it has {len(found)}")
    return found[0]
