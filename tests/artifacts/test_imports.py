"""Which files a CSV, a page and a drawing are made anew for, against what Python itself imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.artifacts import imports
from tests.artifacts.conftest import REGISTRY, ROOT

KINDS = {artifact.kind: artifact for artifact in REGISTRY.values()}
LOOKS = {"scripts/artifacts/style.py", "scripts/artifacts/tables.py", "scripts/artifacts/words.py"}
"""How a page looks, for which no CSV is made anew."""
RECIPES = {"scripts/artifacts/recipes.py", "scripts/artifacts/imports.py"}
"""What says of what a file is made computes nothing that is in it."""

# Prints a line for each list of modules: the files of this project that are loaded after importing them, with nothing
# in the place of the module that says of what files are made.
LOADED = """
import json, os, sys, types
sys.modules["scripts.artifacts.recipes"] = types.ModuleType("scripts.artifacts.recipes")
import matplotlib.figure, pandas, pydantic, scipy.stats, seaborn, yaml
for modules in json.loads(sys.argv[1]):
    if not os.fork():
        import importlib
        for module in modules:
            importlib.import_module(module)
        files = [module.__file__ for name, module in sys.modules.items()
            if name.split(".")[0] == "scripts" and hasattr(module, "__file__")]
        os.write(1, (json.dumps([modules, [os.path.relpath(file) for file in files if file]]) + "\\n").encode())
        os._exit(0)
    os.wait()
"""
# Runs a command with functions that raise in place of those of the modules that are named.
WITHOUT = """
import importlib, inspect, runpy, sys
def gone(*_, **__):
    raise AssertionError("a CSV depends on how a page looks")
for name in ("scripts.artifacts.style", "scripts.artifacts.tables"):
    module = importlib.import_module(name)
    for function, value in list(vars(module).items()):
        if inspect.isfunction(value) and value.__module__ == name:
            setattr(module, function, gone)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
print("\\n".join(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "scripts" and m.__file__))
"""


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_that_python_imports_is_found() -> None:
    def full(*names: str) -> tuple[str, ...]:
        return tuple(f"scripts.artifacts.{name}" for name in names)

    asked = {full("claims"): imports.of_command("claims"), full("comparison"): imports.of_command("comparison")}
    asked[full("printed")] = imports.of_printed()
    for kind, artifact in KINDS.items():
        drawing = "tabulate" if artifact.is_table else "draw"
        asked[full(drawing, kind)] = imports.of_drawing(drawing, kind)
        # a kind that has no `collect` is loaded only to see that
        asked[full("collect", *([kind] if imports.collects(kind) else []))] = imports.of_csv(kind)
    for line in python(LOADED, json.dumps(list(asked))).splitlines():
        modules, loaded = json.loads(line)
        found = asked.pop(tuple(modules))
        assert "scripts/plan/grid.py" in loaded
        left_out = LOOKS if modules[0].endswith(("collect", "printed")) else set()
        assert set(loaded) - left_out <= set(found), modules
    assert not asked


@pytest.mark.parametrize("command", ["collect table1", "collect tableS14", "printed fig1"])
def test_a_csv_does_not_depend_on_how_a_page_looks(tmp_path: Path, command: str) -> None:
    """Neither do modules that a command imports while it runs escape."""
    name, artifact = command.split()
    own = ["--study", "paper"] if name == "collect" else []
    said = python(WITHOUT, f"scripts.artifacts.{name}", artifact, "--csv", str(tmp_path / "it.csv"), *own)
    loaded = {Path(file).relative_to(ROOT).as_posix() for file in said.split("\n") if file.startswith(str(ROOT))}
    assert "scripts/artifacts/points.py" in loaded
    found = imports.of_csv(REGISTRY[artifact].kind) if name == "collect" else imports.of_printed()
    assert loaded - LOOKS - RECIPES <= set(found)


def test_no_stage_but_what_is_computed_with() -> None:
    """The trainer, the harness and the data have versions of their own."""
    stages = ("data", "models", "training", "evaluation", "spectra")
    found = {file for kind in KINDS for file in imports.of_csv(kind)}
    found |= set(imports.of_command("claims")) | set(imports.of_command("comparison"))
    code = {file for file in found if file.split("/")[1] in stages and not file.endswith("__init__.py")}
    evaluation = {f"scripts/evaluation/{name}.py" for name in ("diversity", "results", "scores")}
    assert code == {*evaluation, "scripts/spectra/ranks.py"}


def test_imports_inside_functions_and_blocks_count_but_for_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "artifacts/one.py": "if True:\n    def f():\n        try:\n            from scripts.plan import two\n"
        "        except ImportError:\n            import scripts.plan.three as t\n",
        "plan/__init__.py": "",
        "plan/two.py": "from scripts.components import tasks\n",
        "plan/three.py": "THREE = 'import scripts.plan.four'\n",
        "plan/four.py": "",
        "components/tasks/__init__.py": "from scripts.components.discovery import modules\n",
        "components/tasks/a.py": "def build():\n    from scripts.training import loop\n",
        "components/discovery.py": "",
        "training/loop.py": "",
    }
    for name, text in files.items():
        (tmp_path / "scripts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scripts" / name).write_text(text)
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    caches = [value for value in vars(imports).values() if hasattr(value, "cache_clear")]
    for cached in caches:
        cached.cache_clear()
    try:
        found = imports.behind("scripts.artifacts.one")
    finally:
        for cached in caches:
            cached.cache_clear()
    assert set(found) == {f"scripts/{name}" for name in files} - {"scripts/plan/four.py", "scripts/training/loop.py"}


def test_it_takes_less_time_than_to_parse_everything_once() -> None:
    """It is asked in every Snakemake, of each job too."""
    asked = "imports.of_csv('spectrum'), imports.of_drawing('draw', 'spectrum'), imports.of_command('comparison')"
    said = python(
        "import ast, time; from pathlib import Path; from scripts.artifacts import imports; clock = time.process_time\n"
        f"began = clock(); {asked}; asked = clock() - began; began = clock()\n"
        "for path in Path('scripts').rglob('*.py'):\n    ast.parse(path.read_text())\n"
        "print(asked / (clock() - began))"
    )
    assert float(said) < 1
