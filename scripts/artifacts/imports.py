"""Which files decide what a command of this room writes, found from what they import.

A product's key has the version of the code behind it. A CSV, a claim and a comparison have no key: they are made anew
when one of these files changes. Followed are all imports of `scripts`, wherever in a file they stand: those of the
shared rooms (common, store, components, study, plan, launch), of this room's other modules, and of what these take of a
stage to compute with (`scripts.evaluation.scores`, `scripts.spectra.ranks`). Not followed is

* what a component imports inside a function: that is how it reaches the stage that makes a product (the trainer, the
  harness), and products are named by the version of that code. An edit of the trainer recollects nothing.
* for a CSV, `LOOKS`: how a page looks. A restyle draws anew and collects nothing.
* `RECIPES`: it says what files are made of, and computes nothing that is in them.

A package that finds its modules by itself (`scripts.components.discovery`) imports all of them.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from scripts.common.files import ROOT, project

LOOKS = ("scripts.artifacts.style", "scripts.artifacts.tables", "scripts.artifacts.words")
RECIPES = "scripts.artifacts.recipes"
COMPONENTS, DISCOVERY = "scripts.components.", "scripts.components.discovery"


def of_csv(kind: str) -> tuple[str, ...]:
    """The files that decide what collecting writes for a kind of artifact; its own module where it has a `collect`."""
    return behind(_ours("collect"), *([_ours(kind)] if collects(kind) else []), but=LOOKS)


def of_printed() -> tuple[str, ...]:
    """The files that decide what is written of the paper's printed numbers."""
    return behind(_ours("printed"), but=LOOKS)


def of_drawing(command: str, kind: str) -> tuple[str, ...]:
    """The files that decide what `draw` or `tabulate` makes of a CSV of a kind."""
    return behind(_ours(command), _ours(kind))


def of_command(command: str) -> tuple[str, ...]:
    """The files that decide what a command of `scripts.artifacts` writes."""
    return behind(_ours(command))


def collects(kind: str) -> bool:
    """Whether a kind of artifact collects its own CSV, by a function `collect` of its module."""
    path = _file(_ours(kind))
    return path is not None and any(
        isinstance(statement, ast.FunctionDef) and statement.name == "collect" for statement in _tree(path).body
    )


@cache
def behind(*modules: str, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The files of `modules` and of all that they import but for `but`, as `scripts.common.files.project` has them.

    Args:
        modules: full names, such as ``scripts.artifacts.collect``.
        but: modules that are neither counted nor followed.
    """
    found: dict[str, Path] = {}
    left = list(modules)
    while left:
        module = left.pop()
        path = _file(module)
        if path and module not in found and module not in (RECIPES, *but):
            found[module] = path
            left += [module.rpartition(".")[0], *_imported(module)]
    return tuple(sorted(str(project(path.relative_to(ROOT).as_posix())) for path in found.values()))


def _ours(name: str) -> str:
    return f"scripts.artifacts.{name}"


@cache
def _file(module: str) -> Path | None:
    """The file of a module; None where the name is none of a module, but of something in one."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _imported(module: str) -> tuple[str, ...]:
    """Names that a module imports: of modules, and of what may be one (``from scripts.plan import specs``)."""
    path = _file(module)
    assert path is not None
    names: list[str] = []
    for statement in _statements(_tree(path).body, not module.startswith(COMPONENTS)):
        if isinstance(statement, ast.Import):
            names += [name.name for name in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            names += [f"{statement.module}.{name.name}" for name in statement.names] + [str(statement.module)]
    if DISCOVERY in names and path.name == "__init__.py":
        names += [f"{module}.{other.stem}" for other in path.parent.glob("*.py") if other != path]
    return tuple(name for name in names if name.startswith("scripts."))


def _statements(body: Iterable[ast.AST], in_functions: bool) -> Iterator[ast.AST]:
    """All statements that run, those in blocks too; those in functions only if asked for."""
    for statement in body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        yield statement
        if in_functions or not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _statements(getattr(statement, block, ()), in_functions)
