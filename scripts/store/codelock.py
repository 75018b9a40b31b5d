"""Code versions: ``config/code.lock`` says which modules are behind each version, and the hash of their code.

The integer is part of specs, the hash is not. When the code of a version no longer has the recorded hash, a
person decides: raise the integer (products below are made again) or record the new hash under the old integer
(they are kept, because the change cannot alter them).

    python -m scripts.store.codelock                     says what differs from the record; exit 1 if anything does
    python -m scripts.store.codelock --keep trainer      records the new hash, keeps the integer
    python -m scripts.store.codelock --raise trainer     records the new hash, raises the integer
"""

import argparse
import ast
import hashlib
from pathlib import Path
from typing import Any

import yaml

from scripts.common.errors import UserError
from scripts.common.files import atomic_path, project, read_yaml

CODE_LOCK = project("config/code.lock")
_HEADER = (
    "# Code versions. Written by `python -m scripts.store.codelock`; its docstring says when to raise or to keep.\n"
)


def read_code_lock(path: Path = CODE_LOCK) -> dict[str, dict[str, Any]]:
    """Code version to ``{version: int, modules: [glob], hash: str}``.

    Raises:
        UserError: the file is missing or has another shape.
    """
    lock: dict[str, dict[str, Any]] = read_yaml(path)
    ok = isinstance(lock, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("version"), int)
        and isinstance(entry.get("modules"), list)
        and isinstance(entry.get("hash"), str)
        for entry in lock.values()
    )
    if not ok:
        raise UserError(f"{path}: every code version must have a version (integer), modules (list) and a hash")
    return lock


def code_hash(globs: list[str], root: Path = Path()) -> str:
    """12 hexadecimal digits of the SHA-256 over the syntax trees of the files that the globs name.

    Comments, docstrings and layout do not count, nor does the Python version that parses. YAML files count by
    their data.

    Raises:
        UserError: a glob names no file.
    """
    digest = hashlib.sha256()
    files: set[Path] = set()
    for glob in globs:
        found = [path for path in root.glob(glob) if path.is_file()]
        if not found:
            raise UserError(f"config/code.lock: {glob!r} names no file")
        files.update(found)
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(_significant(path).encode() + b"\0")
    return digest.hexdigest()[:12]


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


def current_hashes(lock: dict[str, dict[str, Any]], root: Path = Path()) -> dict[str, str]:
    """Code version to the hash that its modules have now."""
    return {name: code_hash(entry["modules"], root) for name, entry in lock.items()}


def differences(lock: dict[str, dict[str, Any]], root: Path = Path()) -> list[str]:
    """One sentence for each code version whose code is not the recorded one."""
    return [
        f"the code behind {name!r} (version {lock[name]['version']}) is not what config/code.lock records: if "
        f"results can change, run `python -m scripts.store.codelock --raise {name}` (all that depends on it is "
        f"made again), else `python -m scripts.store.codelock --keep {name}`"
        for name, value in current_hashes(lock, root).items()
        if value != lock[name]["hash"]
    ]


def main(arguments: argparse.Namespace) -> None:
    lock = read_code_lock()
    for name in [*arguments.keep, *arguments.raised]:
        if name not in lock:
            raise UserError(f"no code version is called {name!r}; there are {', '.join(sorted(lock))}")
        lock[name]["hash"] = code_hash(lock[name]["modules"])
        lock[name]["version"] += name in arguments.raised
    if arguments.keep or arguments.raised:
        with atomic_path(CODE_LOCK) as path:
            path.write_text(_HEADER + yaml.safe_dump(lock, sort_keys=True), encoding="utf-8")
    if different := differences(lock):
        raise UserError("\n".join(different))
    print("config/code.lock records the code as it is: " + ", ".join(f"{n} {e['version']}" for n, e in lock.items()))


if __name__ == "__main__":
    from scripts.common.errors import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="append", default=[], metavar="NAME")
    parser.add_argument("--raise", action="append", default=[], metavar="NAME", dest="raised")
    run(main, parser)
