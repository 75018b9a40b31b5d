"""Imports run one way: no modules import each other in a circle, and the rooms of `scripts` stand in an order."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    *(["common"], ["store"], ["components"], ["study"], ["plan"], ["launch"]),
    *(["data"], ["models"], ["loading"], ["training"], ["evaluation", "spectra"], ["artifacts"]),
]
"""From the left to the right: a module imports what stands further left, or is in its own room."""
PLANNING = {"common", "store", "components", "study", "plan", "launch", "artifacts"}
"""What `scripts.planning` imports, which nothing but the rules does."""
REACHES_STAGES = "components"
"""The room whose functions may import what stands further right: a choice knows how it is made."""


def modules(root: Path = ROOT) -> dict[str, ast.Module]:
    """Every module of `scripts` by its dotted name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in sorted(root.glob("scripts/**/*.py"))
    }


def statements(tree: ast.AST, *, late: bool) -> Iterator[ast.stmt]:
    """What runs when a module is imported, or as a program; `late`: what stands in its functions instead."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            if late:
                yield from (inner for inner in ast.walk(node) if isinstance(inner, ast.stmt))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from statements(ast.Module([other], []), late=late)
        else:
            if isinstance(node, ast.stmt) and not late:
                yield node
            yield from statements(node, late=late)


def imports(known: dict[str, ast.Module], module: str, *, late: bool = False) -> set[str]:
    """The modules of `known` that one of them imports."""
    found: set[str] = set()
    for node in statements(known[module], late=late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # of a package its submodules are meant, where they are named
            found |= names & known.keys() if names <= known.keys() else {node.module, *names}
    return found & known.keys() - {module}


def circle(known: dict[str, ast.Module]) -> list[str]:
    """Modules of which each imports the next; empty where there are none.

    A package of choices imports its modules by their files (`scripts.components.discovery`), which is not seen here;
    it does so last, when what they need of it is there.
    """
    try:
        TopologicalSorter({module: imports(known, module) for module in known}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def room(module: str) -> str:
    return module.split(".")[1]


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer == "planning":
        return imported in PLANNING
    rank = {name: number for number, names in enumerate(ROOMS) for name in names}
    return imported != "planning" and rank[imported] < rank[importer]


def test_no_modules_import_each_other() -> None:
    assert not circle(modules())


def test_every_room_has_its_place() -> None:
    rooms = {path.parent.name for path in ROOT.glob("scripts/*/*.py")}
    assert rooms <= {name for names in ROOMS for name in names} | {"planning"}


@pytest.mark.parametrize("late", [False, True])
def test_rooms_import_to_the_left(late: bool) -> None:
    known = modules()
    wrong = {
        (module, imported)
        for module in known
        if module != "scripts" and not (late and room(module) == REACHES_STAGES)
        for imported in imports(known, module, late=late)
        if imported != "scripts" and not may_import(room(module), room(imported))
    }
    assert not wrong


def test_imports_are_told_by_when_they_run(tmp_path: Path) -> None:
    files = {
        "store/a.py": "from scripts.plan import b, C\nclass A:\n    import scripts.data.c",
        "plan/__init__.py": "C = 1",
        "plan/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scripts.store.a\n"
        "else:\n    import scripts.data.d\ndef f():\n    if f:\n        import scripts.store.a",
        "data/c.py": "import json\nif __name__ == '__main__':\n    from scripts.store.a import A",
        "data/d.py": "",
    }
    for name, text in files.items():
        (tmp_path / "scripts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scripts" / name).write_text(text)
    known = modules(tmp_path)
    assert imports(known, "scripts.store.a") == {"scripts.plan", "scripts.plan.b", "scripts.data.c"}
    assert imports(known, "scripts.plan.b") == {"scripts.data.d"}
    assert imports(known, "scripts.plan.b", late=True) == {"scripts.store.a"}
    assert set(circle(known)) == {"scripts.store.a", "scripts.data.c"}
