"""Code versions: ``config/code.lock`` says which modules are behind each version, and the hash of each one's code.

The integer is part of specs, the hashes are not. When the code of a version no longer has the recorded hashes, a
person decides: raise the integer (products below are made again) or record the new hashes under the old integer
(they are kept, because the change cannot alter them).

    python -m scripts.store.codelock                     says what differs from the record; exit 1 if anything does
    python -m scripts.store.codelock --keep trainer      records the new hashes, keeps the integer
    python -m scripts.store.codelock --raise trainer     records the new hashes, raises the integer

A version's `modules` are globs; one that begins with "!" leaves out what the others found.
"""

import argparse
import ast
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.common.commands import python_command
from scripts.common.errors import UserError
from scripts.common.files import atomic_path, project, read_yaml

CODE_LOCK = project("config/code.lock")
_ROOT = project(".")
_HEADER = (
    "# Code versions. Written by `python -m scripts.store.codelock`; its docstring says when to raise or to keep.\n"
    "# The empty lines let git merge changes of neighbouring modules.\n"
)


def read_code_lock(path: Path = CODE_LOCK) -> dict[str, dict[str, Any]]:
    """Code version to ``{version: int, modules: [glob], hashes: {path: hash}}``.

    Raises:
        UserError: the file is missing or has another shape.
    """
    lock: dict[str, dict[str, Any]] = read_yaml(path)
    ok = isinstance(lock, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("modules"), list) and isinstance(entry.get("hashes"), dict)
        for entry in lock.values()
    )
    if not ok:
        raise UserError(f"{path}: every code version must have a version (integer), modules (list) and hashes")
    for name, entry in lock.items():
        version, globs = entry.get("version"), entry["modules"]
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise UserError(f"{path}: {name}.version: must be a whole number from 1 up, not {version!r}")
        for glob in globs:
            path_of = glob.removeprefix("!") if isinstance(glob, str) else ""
            if not path_of or path_of.startswith("/"):
                raise UserError(f"{path}: {name}.modules: must be globs relative to the repository, not {glob!r}")
    return lock


def write_code_lock(lock: Mapping[str, Mapping[str, Any]], path: Path = CODE_LOCK) -> None:
    """Writes it so that branches that touch different modules merge: a hash has a line, and empty ones around it."""
    lines = []
    for name, entry in sorted(lock.items()):
        head = {"version": entry["version"], "modules": entry["modules"]}
        hashes = yaml.safe_dump({"hashes": dict(sorted(entry["hashes"].items()))}, indent=2).splitlines()
        lines += [f"{name}:", *(f"  {line}" for line in yaml.safe_dump(head, sort_keys=False).splitlines())]
        lines += [text for line in hashes for text in (f"  {line}", "")]
    with atomic_path(path) as new:
        new.write_text(_HEADER + "\n".join(lines), encoding="utf-8")


def module_hashes(globs: Sequence[str], root: Path = _ROOT) -> dict[str, str]:
    """The files that the globs name, each to 12 hexadecimal digits of the SHA-256 of its syntax tree.

    Comments, docstrings and layout do not count, nor does the Python version that parses. YAML files count by
    their data.

    Raises:
        UserError: a glob names no file.
    """
    files: set[Path] = set()
    for glob in sorted(globs, key=lambda glob: glob.startswith("!")):
        found = {path for path in root.glob(glob.removeprefix("!")) if path.is_file()}
        if not found:
            raise UserError(f"config/code.lock: {glob!r} names no file")
        files = files - found if glob.startswith("!") else files | found
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(_significant(path).encode()).hexdigest()[:12]
        for path in sorted(files)
    }


def combined(hashes: Mapping[str, str]) -> str:
    """One hash of modules and their hashes, 12 hexadecimal digits: what a manifest has of a code version."""
    text = "".join(f"{path}\0{value}\0" for path, value in sorted(hashes.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The modules that are new, gone or have another hash."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def _significant(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return _dump(_without_docstrings(ast.parse(text, filename=str(path))))
    # task files carry tags (`!function`) that only the evaluation harness can resolve; here they count as text
    return yaml.serialize(yaml.compose(text, Loader=yaml.SafeLoader), Dumper=yaml.SafeDumper)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # a text that stands alone is never code: docstrings, and the texts below attributes
            node.body = [
                statement
                for statement in node.body
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                )
            ]
    return tree


def _dump(node: Any) -> str:
    """Like ``ast.dump``, without fields that are empty: which of those exist depends on the Python version."""
    if isinstance(node, ast.AST):
        fields = (
            (name, value)
            for name, value in ast.iter_fields(node)
            if value is not None and value != [] and name not in ("kind", "type_comment", "type_ignores")
        )
        return f"{type(node).__name__}({','.join(f'{name}={_dump(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return repr(node)


def differences(lock: Mapping[str, Mapping[str, Any]], root: Path = _ROOT) -> list[str]:
    """One sentence for each code version whose code is not the recorded one; it names the modules that differ."""
    return [
        f"the code behind {name!r} (version {entry['version']}) is not what config/code.lock records "
        f"({', '.join(modules)}): if results can change, run `{_command('--raise', name)}` (all that depends on it is "
        f"made again), else `{_command('--keep', name)}`"
        for name, entry in lock.items()
        if (modules := changed(entry["hashes"], module_hashes(entry["modules"], root)))
    ]


def _command(*arguments: str) -> str:
    return python_command("scripts.store.codelock", *arguments, options=())


def main(arguments: argparse.Namespace) -> None:
    lock = read_code_lock()
    for name in [*arguments.keep, *arguments.raised]:
        if name not in lock:
            raise UserError(f"no code version is called {name!r}; there are {', '.join(sorted(lock))}")
        lock[name]["hashes"] = module_hashes(lock[name]["modules"])
        lock[name]["version"] += name in arguments.raised
    if arguments.keep or arguments.raised:
        write_code_lock(lock)
    if different := differences(lock):
        raise UserError("\n".join(different))
    print("config/code.lock records the code as it is: " + ", ".join(f"{n} {e['version']}" for n, e in lock.items()))


if __name__ == "__main__":
    from scripts.common.errors import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="append", default=[], metavar="NAME")
    parser.add_argument("--raise", action="append", default=[], metavar="NAME", dest="raised")
    run(main, parser)
