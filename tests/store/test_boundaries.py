"""Whatever a command imports to make a product is behind a code version that is in the product's name.

A version is in it by the product's own spec, or by that of an input, whose fingerprint the spec has. For what may be
imported beside that a reason stands here.
"""

import ast
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.plan.specs import code_behind
from scripts.store.codelock import module_hashes, read_code_lock
from scripts.study.load import load_study

LOADING = "scripts/loading/models.py"
TRAINING = (LOADING, "scripts/training/dropout.py", "scripts/training/lora_linear.py")
COMMANDS = {
    "records": (
        "scripts/components/sources/__init__.py",
        "scripts/data/records.py",
        "scripts/data/hub.py",
        "scripts/data/packages.py",
        "scripts/data/generators/__init__.py",
    ),
    "rows": ("scripts/data/rows.py",),
    "tokenizer": ("scripts/data/train_tokenizer.py",),
    "model": ("scripts/models/pretrain.py",),
    "leg": ("scripts/training/train.py", *TRAINING),
    "run": ("scripts/training/train.py", *TRAINING),
    "throughput": ("scripts/training/throughput.py", *TRAINING),
    "samples": ("scripts/evaluation/evaluate.py", LOADING),
    "evaluation": ("scripts/evaluation/evaluate.py", LOADING),
    "spectra": ("scripts/spectra/singular_values.py", LOADING),
}
"""Kind of a product to the modules that make it of data and code: the command, and what components reach for it inside
functions. Models of the hub are taken as they are."""

PLANNING = {
    "scripts/launch/*": "says which products there are, and where; what it decides is in their specs",
    "scripts/plan/*": "computes specs",
    "scripts/data/products.py": "finds the builder of a data product, and its bytes",
    "scripts/components/models/*": "the shape of a base model and where it comes from, which are in its spec",
}
"""Is not followed: every command plans, and planning imports each choice of a study."""

GLUE = {
    "scripts/common/*": "errors, whole files, quantities as they are written",
    "scripts/store/*": "names, hashes and locks of what others make",
    "scripts/components/discovery.py": "finds the choices of a family",
    "scripts/components/flops.py": "counts operations, for speed and time",
    "scripts/components/forms.py": "refuses records; those that it takes stay as they are",
    "scripts/components/making.py": "hands a builder what it needs",
    "scripts/components/memory.py": "says what fits into memory; no answer depends on it, but for rounding",
    "scripts/components/modules.py": "names of modules, which are in specs",
    "scripts/components/part.py": "reads what a study says, which is in specs",
    "scripts/components/shape.py": "the numbers of a model's configuration, for what fits and how long it takes",
    "scripts/training/attempts.py": "counts times, for the manifest's provenance",
    "scripts/training/devices.py": "chooses a device, of those that a job may use",
    "scripts/training/metrics.py": "reports speed and memory, beside the product",
    "scripts/training/trackers.py": "shows reports elsewhere",
}


@cache
def imported(module: str) -> frozenset[str]:
    """The files of this project that a module imports, anywhere in its text, with the packages that they are in.

    Of a component what it imports inside functions is left out: there it reaches the stage that makes a product. A
    family of choices imports all of its modules, see `scripts.components.discovery`.
    """
    found: set[str] = set()
    tree = ast.parse(Path(module).read_text())
    is_component = module.startswith("scripts/components/")
    within = {inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if is_component and node in within:
            continue
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != "scripts":
                continue
            found.add(f"{'/'.join(parts)}.py")
            found |= {f"{'/'.join(parts[:end])}/__init__.py" for end in range(1, 1 + len(parts))}
    if "scripts/components/discovery.py" in found:
        found |= {str(path) for path in Path(module).parent.glob("*.py")}
    return frozenset(path for path in found if Path(path).is_file() and says_something(path))


def says_something(module: str) -> bool:
    """Whether there is more in a file than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(Path(module).read_text()).body)


def reached(starts: Iterable[str]) -> set[str]:
    """`starts` and what they import, directly or through other modules, but for what planning imports."""
    seen, coming = set(), set(starts)
    while coming:
        module = coming.pop()
        seen.add(module)
        if not among(PLANNING, module):
            coming |= imported(module) - seen
    return seen


def among(globs: Iterable[str], module: str) -> bool:
    return any(fnmatch(module, glob) for glob in globs)


@cache
def products() -> list[tuple[Product, set[str]]]:
    """Products of every kind, each with the code versions that are in its name."""
    versions = {name: entry["version"] for name, entry in read_code_lock().items()}
    made = []
    for study in ("smoke", "tour", "paper"):
        grid = Grid(load_study(study), study, versions, {})
        for product in grid:
            specs = [product.spec, *(grid.products[key].spec for key in product.inputs)]
            made.append((product, {name for spec in specs for name in code_behind(spec)}))
    return made


def runs_programs(product: Product) -> bool:
    """Whether a product is an evaluation that uses the sandbox; every evaluation imports it."""
    return product.kind == "evaluation" and product.spec["task"] in ("humaneval", "pass_at_k")


@pytest.mark.parametrize("kind", COMMANDS)
def test_what_makes_a_product_is_behind_a_version_in_its_name(kind: str) -> None:
    lock = read_code_lock()
    modules = {name: set(module_hashes(entry["modules"])) for name, entry in lock.items()}
    needed = {module for module in reached(COMMANDS[kind]) if not among([*PLANNING, *GLUE], module)}
    found = [
        (product, names)
        for product, names in products()
        if product.kind == kind and product.spec.get("source") != "hub"
    ]
    assert found
    assert set(COMMANDS[kind]) <= needed
    for product, names in found:
        behind = set().union(*(modules[name] for name in names))
        lacking = sorted(needed - behind - (set() if runs_programs(product) else modules["sandbox"]))
        assert not lacking, f"{product.key}: no version in its name ({', '.join(sorted(names))}) is of these"


def test_nothing_is_called_glue_that_is_not_imported() -> None:
    every = set().union(*map(reached, COMMANDS.values()))
    assert [glob for glob in [*PLANNING, *GLUE] if not any(fnmatch(module, glob) for module in every)] == []


def test_what_is_behind_loading_is_shared() -> None:
    """What one stage alone uses is behind its own version, so that a change of it makes nothing else anew."""
    stages = [reached(COMMANDS[kind]) for kind in ("rows", "run", "evaluation", "spectra")]
    for module in module_hashes(read_code_lock()["loading"]["modules"]):
        if says_something(module):
            assert sum(module in stage for stage in stages) > 1, module


@pytest.mark.parametrize("study", ["smoke", "tour", "paper"])
def test_another_version_of_loading_renames_what_loads_a_model_and_nothing_else(study: str) -> None:
    """Names from before there was such a version stay as long as it is 1."""

    def keys(**loading: int) -> dict[str, set[str]]:
        versions = {name: entry["version"] for name, entry in read_code_lock().items() if name != "loading"}
        found: dict[str, set[str]] = {}
        for product in Grid(load_study(study), study, versions | loading, {}):
            found.setdefault(product.kind, set()).add(product.key)
        return found

    before, one, two = keys(), keys(loading=1), keys(loading=2)
    assert one == before
    assert before.keys() == two.keys()
    renamed = {"leg", "run", "samples", "evaluation", "spectra", "throughput", "trained", "evaluated", "decomposed"}
    for kind, names in before.items():
        assert len(two[kind]) == len(names)
        assert two[kind].isdisjoint(names) if kind in renamed else two[kind] == names, kind


@pytest.mark.parametrize("study", ["smoke", "tour", "paper"])
def test_another_version_of_the_sandbox_renames_what_runs_programs_and_nothing_else(study: str) -> None:
    """Names from before there was such a version stay as long as it is 1."""

    def evaluations(**sandbox: int) -> dict[bool, list[str]]:
        versions = {name: entry["version"] for name, entry in read_code_lock().items() if name != "sandbox"}
        found: dict[bool, list[str]] = {True: [], False: []}
        for product in Grid(load_study(study), study, versions | sandbox, {}):
            if not product.members:
                found[runs_programs(product)].append(product.key)
        return found

    before, one, two = evaluations(), evaluations(sandbox=1), evaluations(sandbox=2)
    assert one == before
    assert two[False] == before[False]
    assert len(two[True]) == len(before[True]) > 0
    assert set(two[True]).isdisjoint(before[True])


def test_imports_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "scripts/a.py": "def f():\n    from scripts.package import b\n",
        "scripts/package/__init__.py": "import scripts.c",
        "scripts/package/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from scripts.family import D",
        "scripts/c.py": "import json, elsewhere.scripts, scripts.empty",
        "scripts/family/__init__.py": "from scripts.components.discovery import union\nD = 1",
        "scripts/family/one.py": "from scripts.launch import late",
        "scripts/components/discovery.py": "union = 1",
        "scripts/launch/late.py": "import scripts.not_reached",
        "scripts/empty.py": "'A docstring.'",
        "scripts/not_reached.py": "E = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    imported.cache_clear()
    try:
        assert reached(["scripts/a.py"]) == set(files) - {"scripts/empty.py", "scripts/not_reached.py"}
    finally:
        imported.cache_clear()
