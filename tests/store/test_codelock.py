"""Code versions: a changed module is seen, a changed docstring is not, and the repository's own record holds."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.common.errors import UserError
from scripts.store.codelock import code_hash, differences, read_code_lock


def test_the_record_is_up_to_date() -> None:
    """Fails when code behind a version changed without a decision; the message says what to decide."""
    assert not (different := differences(read_code_lock())), "\n".join(different)


def test_every_module_of_a_stage_is_behind_its_version() -> None:
    """Whatever the command lines import of their own stage counts, directly or through other modules."""
    lock = read_code_lock()
    for version, entry_point in {
        "data": "scripts/data/rows.py",
        "trainer": "scripts/training/train.py",
        "judge": "scripts/evaluation/evaluate.py",
        "pretrainer": "scripts/models/pretrain.py",
    }.items():
        stage = str(Path(entry_point).parent)
        behind = {str(path) for glob in lock[version]["modules"] for path in Path().glob(glob)}
        assert {path for path in imports(entry_point) if path.startswith(stage)} <= behind | GLUE


# says which product is made by which builder; no content depends on it
GLUE = {"scripts/data/products.py"}


def imports(path: str, seen: set[str] | None = None) -> set[str]:
    """The files of this project that a module imports, anywhere in its text, and theirs."""
    seen = set() if seen is None else seen
    if path in seen or not Path(path).is_file():
        return seen
    seen.add(path)
    for node in ast.walk(ast.parse(Path(path).read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("scripts"):
                imports(name.replace(".", "/") + ".py", seen)
    return seen


CODE = '''"""A module."""

# a comment
def f(x: int) -> str:
    """Says x."""
    return f"{x!r} is {x + 1:>4}"


class A:
    b: int = 1
    """A field."""

    async def g(self, *, y=None):
        return [z for z in (1, 2) if z]
'''


def hash_of(tmp_path: Path, code: str) -> str:
    (tmp_path / "m.py").write_text(code)
    return code_hash(["m.py"], tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "Another docstring."),
        ("# a comment\n", ""),
        ("Says x.", "Says what x is.\n\n    At length.\n    "),
        ("A field.", "Some field."),
        ("(1, 2)", "(\n        1,\n        2,\n    )"),
        ('"""Says x."""', "'''Says x.'''"),
    ],
)
def test_what_does_not_count(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert hash_of(tmp_path, CODE) == hash_of(tmp_path, CODE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("x + 1", "x + 2"), ("!r", "!s"), (">4", ">5"), ("y=None", "y=0"), ("b: int = 1", "b: int = True"), ("if z", "")],
)
def test_what_counts(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert hash_of(tmp_path, CODE) != hash_of(tmp_path, CODE.replace(old, new))


def test_the_hash_is_the_same_on_every_supported_python(tmp_path: Path) -> None:
    """The record is committed, so it must not depend on who computes it."""
    (tmp_path / "m.py").write_text(CODE)
    program = (
        "from pathlib import Path; from scripts.store.codelock import code_hash; print(code_hash(['m.py'], Path('{}')))"
    )
    own = code_hash(["m.py"], tmp_path)
    for version in ("python3.12", "python3.13"):
        python = shutil.which(version)
        # only the interpreter is another one; what it imports (yaml) is pure Python
        site = next(path for path in sys.path if path.endswith("site-packages"))
        if python is None:
            continue
        done = subprocess.run(
            [python, "-c", program.format(tmp_path)],
            env={"PYTHONPATH": site, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            assert done.stdout.strip() == own


def test_the_sentence_says_what_to_decide(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(CODE)
    lock = {"trainer": {"version": 3, "modules": ["m.py"], "hash": code_hash(["m.py"], tmp_path)}}
    assert not differences(lock, tmp_path)
    (tmp_path / "m.py").write_text(CODE.replace("x + 1", "x + 2"))
    (sentence,) = differences(lock, tmp_path)
    assert "--raise trainer" in sentence
    assert "--keep trainer" in sentence


def test_a_module_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no file"):
        code_hash(["gone.py"], tmp_path)


def test_the_command_keeps_and_raises(tmp_path: Path) -> None:
    root = Path.cwd()
    for part in ("config", "scripts"):
        shutil.copytree(root / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    loop = tmp_path / "scripts/training/schedules.py"

    def codelock(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scripts.store.codelock", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert codelock().returncode == 0
    loop.write_text(loop.read_text() + "\nEXTRA = 1\n")
    done = codelock()
    assert done.returncode == 1
    assert "--raise trainer" in done.stderr
    before = read_code_lock(tmp_path / "config/code.lock")["trainer"]["version"]
    assert codelock("--keep", "trainer").returncode == 0
    assert read_code_lock(tmp_path / "config/code.lock")["trainer"]["version"] == before
    loop.write_text(loop.read_text() + "\nEXTRA = 2\n")
    assert codelock("--raise", "trainer").returncode == 0
    assert read_code_lock(tmp_path / "config/code.lock")["trainer"]["version"] == before + 1
    assert codelock("--raise", "typo").returncode == 1
