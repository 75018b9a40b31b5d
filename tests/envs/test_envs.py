"""The lock file, the stages' environments, the setup script and the files that a newcomer meets first."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs import setup

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "envs" / "requirements.lock"
ROOTS = ROOT / "envs" / "requirements.in"
STAGES = ["data", "models", "training", "evaluation", "spectra", "artifacts"]


def listed(file: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**default_environment(), "extra": ""})


def comes_with_torch(name: str) -> bool:
    return name == "triton" or name.startswith(("nvidia-", "cuda-"))


# --- the lock


def test_lock_names_no_host_path_or_option() -> None:
    for line in LOCK.read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+( ; [^/@]+)?", line), line
        assert "://" not in line, line
        assert not re.search(r"(^|\s)/", line), line


def test_lock_has_one_version_of_each_package_and_leaves_cuda_to_torch() -> None:
    names = [canonicalize_name(requirement.name) for requirement in listed(LOCK)]
    assert len(names) == len(set(names))
    assert not [name for name in names if comes_with_torch(name)]
    assert setup.versions(LOCK).keys() == set(names)  # the setup script reads the same


def test_every_root_is_in_the_lock_at_an_allowed_version() -> None:
    locked = setup.versions(LOCK)
    for root in listed(ROOTS):
        assert root.specifier.contains(locked[canonicalize_name(root.name)]), root


def test_lock_is_the_closure_and_is_what_is_installed() -> None:
    """Every locked package is installed as locked, and what its own metadata asks for is locked too."""
    locked = setup.versions(LOCK)
    for requirement in listed(LOCK):
        if not applies(requirement):
            continue
        name = canonicalize_name(requirement.name)
        assert metadata.version(name).split("+")[0] == locked[name], f"{name}: `make setup` brings it in line"
        for needed in map(Requirement, metadata.requires(name) or []):
            if applies(needed) and not comes_with_torch(needed.name):
                version = locked[canonicalize_name(needed.name)]
                assert needed.specifier.contains(version, prereleases=True), f"{name} needs {needed}"


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_resolves(python: str, tmp_path: Path) -> None:
    """Asks the package index."""
    resolved = tmp_path / "resolved"
    uv = Path(sys.executable).with_name("uv")
    what = ["--python-version", python, "--constraint", LOCK, "--output-file", resolved, ROOTS]
    subprocess.run([uv, "pip", "compile", "--quiet", "--no-annotate", "--no-header", *what], check=True)
    locked = setup.versions(LOCK)
    found = {name: v for name, v in setup.versions(resolved).items() if not comes_with_torch(name)}
    assert found.items() <= locked.items()
    assert len(found) > 100


# --- the stages' conda environments


BUILDS = {
    "data": ("sources",),
    "models": ("models",),
    "training": ("optimizers", "optimi", "methods"),
    "evaluation": ("tasks", "asking", "methods"),
}
"""Stage to the families of components whose builders and readers it calls; other stages only ask what choices say."""


def imported(file: Path, stage: str) -> set[str]:
    """Every absolute module name that a file imports, wherever in it; what a component imports inside a function or for
    its types, only where the stage calls that."""
    names: set[str] = set()
    tree = ast.parse(file.read_text())
    family = file.relative_to(ROOT).parts[2] if file.is_relative_to(ROOT / "scripts/components") else None
    inner = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    uncalled = {node for outer in inner for node in ast.walk(outer)}
    if family is None or family.removesuffix(".py") in BUILDS.get(stage, ()):
        uncalled = set()
    for node in ast.walk(tree):
        if node in uncalled:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def packages_of(stage: str) -> set[str]:
    """The distributions that a stage's modules import, and the project's modules that these import."""
    todo = sorted((ROOT / "scripts" / stage).rglob("*.py"))
    assert todo, f"scripts/{stage} is empty"
    seen: set[Path] = set()
    tops: set[str] = set()
    while todo:
        file = todo.pop()
        seen.add(file)
        for name in imported(file, stage):
            if name.split(".")[0] != "scripts":
                tops.add(name.split(".")[0])
                continue
            at = ROOT.joinpath(*name.split("."))
            todo += [f for f in (at.with_suffix(".py"), at / "__init__.py") if f.exists() and f not in seen]
    distributions = metadata.packages_distributions()
    return {canonicalize_name(d) for top in tops - sys.stdlib_module_names for d in distributions[top]}


def pinned(stage: str) -> dict[str, str]:
    """Package name -> version, of envs/<stage>.yaml."""
    environment = yaml.safe_load((ROOT / "envs" / f"{stage}.yaml").read_text())
    pins: dict[str, str] = {}
    for entry in environment["dependencies"]:
        for line in entry["pip"] if isinstance(entry, dict) else [entry]:
            name, _, version = re.sub("=+", "=", line).partition("=")
            pins[canonicalize_name(name)] = version
    return pins


def test_each_stage_has_an_environment_and_the_rules_name_no_other() -> None:
    assert sorted(file.stem for file in (ROOT / "envs").glob("*.yaml")) == sorted(STAGES)
    named = {n for file in (ROOT / "rules").glob("*.smk") for n in re.findall(r"envs/(\w+)\.yaml", file.read_text())}
    assert named <= set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_stage_environment_agrees_with_the_lock(stage: str) -> None:
    pins = pinned(stage)
    assert pins.pop("python") in {"3.11", "3.12", "3.13"}
    assert pins.pop("pip") == ""
    assert pins.items() <= setup.versions(LOCK).items()


@pytest.mark.parametrize("stage", STAGES)
def test_stage_environment_has_what_the_stage_imports(stage: str) -> None:
    # every job plans its study, and lm-eval's task files say how its tasks are planned
    assert packages_of(stage) | {"lm-eval"} <= pinned(stage).keys()


# --- the setup script, with the commands that it runs recorded instead of run


class Machine:
    """A checkout and the commands that were run to set it up; `fails` says which ones do not succeed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[str] = []
        self.fails: Callable[[str], bool] = lambda command: False
        self.pip_config = ""  # what `pip config list` prints
        self.environment: dict[str, str] = {}  # uv's
        (root / "envs").mkdir(parents=True)
        lock = "torch==2.13.0\nuv==0.13.8\nyte==1.9.4 ; python_version > '3'\n"
        (root / "envs" / "requirements.lock").write_text(lock)

    def call(self, *command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        line = " ".join(command).replace(f"{self.root}/", "")
        if line == ".venv/bin/python -m pip config list":
            return subprocess.CompletedProcess(command, 0, self.pip_config)
        self.commands.append(line)
        self.environment = environment or self.environment
        if self.fails(line):
            return subprocess.CompletedProcess(command, 1, "ERROR: it is raining\nbye\n")
        programs = self.root / ".venv" / "bin"
        if "-m venv" in line:
            shutil.rmtree(self.root / ".venv", ignore_errors=True)
            programs.mkdir(parents=True)
            (programs / "python").touch()
        elif line == GET_UV:
            (programs / "uv").touch()
        return subprocess.CompletedProcess(command, 0, "fine\n")

    def setup(self) -> list[str]:
        """Sets up; returns the commands that it took."""
        self.commands.clear()
        setup.main(self.root)
        return list(self.commands)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "checkout")
    monkeypatch.setattr(setup, "call", machine.call)
    monkeypatch.setattr(setup, "has_gpu", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    return machine


HELD = "--constraint envs/requirements.lock"
PIP = ".venv/bin/python -m pip install"
UV = ".venv/bin/uv pip install --python .venv/bin/python"
GET_UV = f"{PIP} {HELD} uv"
TORCH_CPU = f"{UV} {HELD} torch==2.13.0+cpu"
TORCH_CPU_PIP = f"{PIP} {HELD} torch==2.13.0+cpu"
TORCH_BACKEND = f"{UV} {HELD} --torch-backend cpu torch==2.13.0"
TORCH_PLAIN = f"{UV} {HELD} torch==2.13.0"
TORCH_PLAIN_PIP = f"{PIP} {HELD} torch==2.13.0"
REST = f"{UV} --no-deps --requirement envs/requirements.lock"
REST_PIP = f"{PIP} --no-deps --requirement envs/requirements.lock"


def made_venv(commands: list[str]) -> bool:
    return bool(commands) and "-m venv --clear" in commands[0]


def test_sets_up_once(machine: Machine) -> None:
    first = machine.setup()
    assert made_venv(first)
    assert first[1:] == [GET_UV, TORCH_CPU, REST]
    assert machine.setup() == []


@pytest.mark.parametrize(
    "tried",
    [
        [TORCH_CPU, TORCH_CPU_PIP],
        [TORCH_CPU, TORCH_CPU_PIP, TORCH_BACKEND],
        [TORCH_CPU, TORCH_CPU_PIP, TORCH_BACKEND, TORCH_PLAIN],
        [TORCH_CPU, TORCH_CPU_PIP, TORCH_BACKEND, TORCH_PLAIN, TORCH_PLAIN_PIP],
    ],
)
def test_torch_for_a_machine_without_gpu(machine: Machine, tried: list[str]) -> None:
    """All fail but the last."""
    machine.fails = lambda command: command in tried[:-1]
    assert machine.setup()[1:] == [GET_UV, *tried, REST]


def test_torch_for_a_machine_with_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "has_gpu", lambda: True)
    assert machine.setup()[1:] == [GET_UV, TORCH_BACKEND.replace("cpu", "auto"), REST]


def test_torch_backend_of_the_persons_choice(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu130")
    assert machine.setup()[1:] == [GET_UV, TORCH_BACKEND.replace("cpu", "cu130"), REST]


def test_torch_for_macos_is_the_plain_build(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.setup()[1:] == [GET_UV, TORCH_PLAIN, REST]


def test_pip_takes_over_where_uv_fails(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.fails = lambda command: command.startswith(UV)
    assert machine.setup()[1:] == [GET_UV, TORCH_CPU, TORCH_CPU_PIP, REST, REST_PIP]
    assert re.findall("^uv .*", capsys.readouterr().out, re.MULTILINE) == [
        f"uv failed: ERROR: it is raining (all that was said: {machine.root}/.venv/install.log);"
        " pip takes over, some minutes ..."
    ]
    assert machine.setup() == []


def test_pip_takes_over_where_uv_cannot_be_had(machine: Machine) -> None:
    machine.fails = lambda command: command == GET_UV
    assert machine.setup()[1:] == [GET_UV, TORCH_CPU_PIP, GET_UV, REST_PIP]


def test_a_program_that_cannot_be_started_fails_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "uv").touch()
    done = setup.call(str(tmp_path / "uv"))
    assert done.returncode != 0
    assert setup.last_line(done.stdout).startswith("error: [Errno 13] Permission denied")


def test_uv_is_set_up_as_pip_is(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if re.match("(?i)(pip|uv|ssl)_|all_proxy$", name)]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text(
        """
        [global]
        index-url = https://mirror.example/simple
        extra-index-url =
            https://one.example/simple
            https://two.example/simple
        find-links = /wheels https://wheels.example
        cert = /company's.pem
        client-cert = /me.pem
        proxy = http://nobody.example
        timeout = 60
        no-color = yes
        [install]
        constraint = /caps.txt
        proxy = http://proxy.example
        [download]
        cert = /other.pem
        """.replace("\n        ", "\n")
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_CERT", "")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "one.example two.example")
    asked = [sys.executable, "-m", "pip", "config", "list"]
    machine.pip_config = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "7")  # what a person set for uv counts more
    machine.setup()
    assert machine.environment.items() >= os.environ.items()
    names = {name for name in machine.environment if re.match("(UV|SSL)_|ALL_PROXY$", name)}
    assert {name: machine.environment[name] for name in names} == {
        "UV_INDEX_URL": "https://mirror.example/simple",
        "UV_EXTRA_INDEX_URL": "https://one.example/simple https://two.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,https://wheels.example",
        "UV_CONSTRAINT": "/caps.txt",
        "UV_INSECURE_HOST": "one.example two.example",
        "UV_HTTP_TIMEOUT": "7",
        "UV_SYSTEM_CERTS": "1",
        "SSL_CERT_FILE": "/company's.pem",
        "SSL_CLIENT_CERT": "/me.pem",
        "ALL_PROXY": "http://proxy.example",
    }


@pytest.mark.parametrize(("value", "told"), [("1", True), ("false", False)])
def test_uv_asks_no_index_where_pip_asks_none(machine: Machine, value: str, told: bool) -> None:
    machine.pip_config = f":env:.no-index='{value}'\n"
    assert ("--no-index" in machine.setup()[-1]) == told


def test_all_is_compiled_where_imports_do_not_keep_what_they_compile(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert machine.setup()[-1] == REST.replace("--no-deps", "--compile-bytecode --no-deps")


def test_an_interrupted_setup_is_begun_anew(machine: Machine) -> None:
    def interrupt(command: str) -> bool:
        if command == REST:
            raise KeyboardInterrupt
        return False

    machine.fails = interrupt
    with pytest.raises(KeyboardInterrupt):
        machine.setup()
    machine.fails = lambda command: False
    assert made_venv(machine.setup())
    assert machine.setup() == []


def test_an_interruption_takes_back_what_was_complete(machine: Machine) -> None:
    machine.setup()
    lock = machine.root / "envs" / "requirements.lock"
    before = lock.read_text()
    lock.write_text(before.replace("1.9.4", "1.9.5"))
    machine.fails = lambda command: command in (REST, REST_PIP)
    with pytest.raises(setup.SetupError):
        machine.setup()
    lock.write_text(before)  # .venv now holds a mixture, so the old lock does not make it complete
    machine.fails = lambda command: False
    assert made_venv(machine.setup())


def test_a_changed_lock_or_python_or_place_is_set_up_anew(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.setup()
    (machine.root / "envs" / "requirements.lock").write_text("torch==2.13.0\n")
    assert made_venv(machine.setup())
    monkeypatch.setattr(sys, "version", "3.14.0 (another)")
    assert made_venv(machine.setup())
    machine.root = machine.root.rename(tmp_path / "moved")
    assert made_venv(machine.setup())
    assert machine.setup() == []


def test_a_venv_made_by_hand_or_without_its_python_is_not_complete(machine: Machine) -> None:
    (machine.root / ".venv" / "bin").mkdir(parents=True)
    (machine.root / ".venv" / "bin" / "python").touch()
    assert made_venv(machine.setup())
    (machine.root / ".venv" / "bin" / "python").unlink()  # as when the Python that it links to was removed
    assert made_venv(machine.setup())


def test_errors_are_one_sentence(machine: Machine) -> None:
    machine.fails = lambda command: command in (REST, REST_PIP)
    with pytest.raises(setup.SetupError) as error:
        machine.setup()
    sentence = "installing the packages of envs/requirements.lock failed: ERROR: it is raining ("
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_setup_parses_on_an_old_python_to_say_so() -> None:
    """An old Python must reach the sentence: no newer syntax in the file, nothing new used before it."""
    tree = ast.parse((ROOT / "envs" / "setup.py").read_text(), feature_version=(3, 7))
    check = next(at for at, node in enumerate(tree.body) if isinstance(node, ast.If))
    assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in tree.body[:check])
    assert "sys.exit" in ast.unparse(tree.body[check])


# --- what a newcomer meets first


def test_make_alone_lists_its_targets() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    said = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"^make ([\w-]+) ", said, re.MULTILINE)) == set(phony[1].split()) - {"help"}


def test_continuous_integration_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert re.match(r"\s+Apache License\s+Version 2\.0, January 2004\s", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
