"""Code versions: a changed module is seen, a changed docstring is not, and the repository's own record holds."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.common.errors import UserError
from scripts.store.codelock import combined, differences, module_hashes, read_code_lock, write_code_lock


def test_the_record_is_up_to_date() -> None:
    """Fails when code behind a version changed without a decision; the message says what to decide."""
    assert not (different := differences(read_code_lock())), "\n".join(different)


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
    return module_hashes(["m.py"], tmp_path)["m.py"]


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
    own = hash_of(tmp_path, CODE)
    program = (
        "from pathlib import Path; from scripts.store.codelock import module_hashes; "
        "print(module_hashes(['m.py'], Path('{}'))['m.py'])"
    )
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


def test_the_sentence_says_what_to_decide_and_which_modules_differ(tmp_path: Path) -> None:
    for name in ("changed", "gone", "same"):
        (tmp_path / f"{name}.py").write_text(CODE)
    lock = {"trainer": {"version": 3, "modules": ["*.py"], "hashes": module_hashes(["*.py"], tmp_path)}}
    assert not differences(lock, tmp_path)
    (tmp_path / "changed.py").write_text(CODE.replace("x + 1", "x + 2"))
    (tmp_path / "gone.py").rename(tmp_path / "new.py")
    (sentence,) = differences(lock, tmp_path)
    assert "(changed.py, gone.py, new.py)" in sentence
    assert "--raise trainer" in sentence
    assert "--keep trainer" in sentence


def test_what_is_left_out_does_not_count(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.py").write_text(CODE)
    assert set(module_hashes(["!b.py", "*.py"], tmp_path)) == {"a.py", "c.py"}


@pytest.mark.parametrize("glob", ["gone.py", "!gone.py"])
def test_a_module_that_is_gone_is_an_error(tmp_path: Path, glob: str) -> None:
    (tmp_path / "m.py").write_text(CODE)
    with pytest.raises(UserError, match="names no file"):
        module_hashes(["m.py", glob], tmp_path)


def test_one_hash_stands_for_all(tmp_path: Path) -> None:
    """Any other module, name or hash gives another one; their order does not."""
    hashes = {"a.py": "0" * 12, "b.py": "1" * 12}
    others = [{"a.py": "0" * 12}, {"a.py": "1" * 12, "b.py": "0" * 12}, {**hashes, "c.py": "1" * 12}, {}]
    assert len({combined(other) for other in [hashes, dict(reversed(hashes.items())), *others]}) == 1 + len(others)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Whatever the digits of a hash look like to YAML."""
    hashes = {"a.py": "123456789012", "b.py": "12345e678901", "c.py": "0x1234567890", "d.py": "abcdefabcdef"}
    lock = {"trainer": {"version": 3, "modules": ["*.py", "!e.py"], "hashes": hashes}}
    write_code_lock(lock, tmp_path / "code.lock")
    assert read_code_lock(tmp_path / "code.lock") == lock


@pytest.mark.parametrize("other", [lambda paths: paths[1:2], lambda paths: paths[-1:], lambda paths: []])
def test_branches_that_touch_different_modules_merge(tmp_path: Path, other: Callable[[list[str]], list[str]]) -> None:
    """Neighbouring lines too, whose changes git merges only where an unchanged line is between them."""
    paths = sorted(read_code_lock()["trainer"]["hashes"])
    ours, theirs, both = read_code_lock(), read_code_lock(), read_code_lock()
    for lock in (ours, both):
        lock["trainer"]["hashes"][paths[0]] = "0123456789ab"
    for lock in (theirs, both):
        lock["trainer"]["hashes"] |= dict.fromkeys(other(paths), "ba9876543210")
        lock["data"]["version"] += 1
    files = [tmp_path / name for name in ("ours", "base", "theirs")]
    for lock, file in zip((ours, read_code_lock(), theirs), files, strict=True):
        write_code_lock(lock, file)
    subprocess.run(["git", "merge-file", *files], check=True)
    assert read_code_lock(files[0]) == both


def codelock(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.store.codelock", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The code and its record, which holds."""
    for part in ("config", "scripts"):
        shutil.copytree(part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    write_code_lock(
        {
            name: {**entry, "hashes": module_hashes(entry["modules"], tmp_path)}
            for name, entry in read_code_lock().items()
        },
        tmp_path / "config/code.lock",
    )
    return tmp_path


def add(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text()}\n{line}\n")


def test_the_command_keeps_and_raises(checkout: Path) -> None:
    loop, lock = checkout / "scripts/training/schedules.py", checkout / "config/code.lock"
    before = read_code_lock(lock)["trainer"]["version"]
    assert codelock(checkout).returncode == 0
    add(loop, "EXTRA = 1")
    done = codelock(checkout)
    assert done.returncode == 1
    assert "(scripts/training/schedules.py)" in done.stderr
    assert "--raise trainer" in done.stderr
    assert codelock(checkout, "--keep", "trainer").returncode == 0
    assert read_code_lock(lock)["trainer"]["version"] == before
    add(loop, "EXTRA = 2")
    assert codelock(checkout, "--raise", "trainer").returncode == 0
    assert read_code_lock(lock)["trainer"]["version"] == before + 1
    assert codelock(checkout, "--raise", "typo").returncode == 1


@pytest.mark.parametrize("module", ["attempts", "devices", "metrics", "trackers"])
def test_what_only_watches_training_forces_no_decision(checkout: Path, module: str) -> None:
    add(checkout / f"scripts/training/{module}.py", "EXTRA = 1")
    assert codelock(checkout).returncode == 0
    add(checkout / "scripts/training/loop.py", "EXTRA = 1")
    done = codelock(checkout)
    assert done.returncode == 1
    assert done.stderr.count("the code behind") == 1
    assert "(scripts/training/loop.py)" in done.stderr


@pytest.mark.parametrize("version", [0, -1, 1.0, 1.5, True, "1", None, [1]])
def test_a_version_that_is_no_positive_integer_is_refused(version: object, tmp_path: Path) -> None:
    path = tmp_path / "code.lock"
    path.write_text(json.dumps({"data": {"version": version, "modules": ["*.py"], "hashes": {}}}))
    with pytest.raises(UserError) as raised:
        read_code_lock(path)
    assert str(raised.value) == f"{path}: data.version: must be a whole number from 1 up, not {version!r}"


@pytest.mark.parametrize("glob", ["", "!", "/etc/*", "!/etc/*", 1])
def test_a_glob_that_is_none_is_refused(glob: object, tmp_path: Path) -> None:
    path = tmp_path / "code.lock"
    path.write_text(json.dumps({"data": {"version": 1, "modules": [glob], "hashes": {}}}))
    with pytest.raises(UserError) as raised:
        read_code_lock(path)
    assert str(raised.value) == f"{path}: data.modules: must be globs relative to the repository, not {glob!r}"
