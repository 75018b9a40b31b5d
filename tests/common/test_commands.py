"""The commands that messages print work when they are pasted."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.common import commands
from scripts.common.commands import python_command, snakemake_command
from scripts.launch import chosen
from tests.conftest import ROOT, House, copy_checkout

COMMAND = re.compile(r"`[^`]*(python -m|snakemake) ")
STATIC = {
    # what lies in files of config/, for every reader of the repository
    "scripts/study/describe.py",
}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(copy_checkout(ROOT, tmp_path / "house"), study="paper", store_root="some store")


def texts(path: Path) -> list[str]:
    """The texts of a module but for docstrings, those of an f-string joined."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents, parts, found = set(), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):  # docstrings, of attributes too
            documents.add(node.value)
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            found.append("".join(one.value for one in node.values if isinstance(one, ast.Constant)))
    return found + [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents | parts
    ]


def test_every_command_of_a_message_is_made_by_the_functions() -> None:
    files = [path for path in Path("scripts").rglob("*.py") if path.as_posix() not in STATIC]
    assert len(files) > 150
    by_hand = {
        f"{path}: {text}"
        for path in files
        for text in texts(path)
        # the head of a file says who writes it, to whoever reads the repository
        if COMMAND.search(text) and not text.lstrip("# ").startswith(("Identity of", "Code versions"))
    }
    rules = {
        f"{path}: {line.strip()}"
        for path in [*Path("rules").glob("*.smk"), Path("Snakefile")]
        for line in path.read_text(encoding="utf-8").splitlines()
        if COMMAND.search(line)
    }
    assert by_hand | rules == set()


def test_a_command_names_study_and_store_only_where_they_are_not_meant_anyway() -> None:
    chosen.belong_to("demo", "results/store")
    assert shlex.split(python_command("scripts.training.train", "KEY"))[1:] == ["-m", "scripts.training.train", "KEY"]
    assert shlex.split(snakemake_command("results/claims.md"))[1:] == ["results/claims.md"]
    chosen.belong_to("paper", "/scratch/a store")
    words = shlex.split(python_command("scripts.training.train", "KEY"))
    assert words[3:] == ["KEY", "--study", "paper", "--store", "/scratch/a store"]
    words = shlex.split(python_command("scripts.planning.prune", "--delete", options=("store",)))
    assert words[3:] == ["--delete", "--store", "/scratch/a store"]
    assert shlex.split(snakemake_command("all"))[1:] == ["all", "--config", "study=paper", "store=/scratch/a store"]
    words = shlex.split(snakemake_command("all", study="tour"))
    assert words[1:] == ["all", "--config", "study=tour", "store=/scratch/a store"]
    commands.belong_to()
    assert "--store" not in python_command("scripts.training.train", "KEY", study="demo")


def test_the_interpreter_is_typed_as_in_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv/bin/python"))
    assert python_command("scripts.planning.status") == ".venv/bin/python -m scripts.planning.status"
    monkeypatch.setattr(sys, "executable", "/opt/env/bin/python")
    assert python_command("scripts.planning.status") == "/opt/env/bin/python -m scripts.planning.status"
    assert snakemake_command("all") == "/opt/env/bin/python -m snakemake all"


def pasted(command: str, where: Path) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a command in which nothing of this process's environment helps to find the project."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(where)}
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=where, env=environment, capture_output=True, text=True, check=False
    )


def command_in(said: str) -> str:
    (found,) = re.findall(r"`([^`]*(?:-m scripts|snakemake)[^`]*)`", said)
    return str(found)


def test_what_a_launch_that_lacks_a_lock_advises_is_of_its_study(house: House) -> None:
    house.edit(lambda study: study["datasets"]["humaneval"].update(version="9.9.9"))
    # of a model that fits into any machine, which is asked first
    house.edit(lambda study: study["model"]["architecture"].update(hidden_size=512, intermediate_size=1024, heads=8))
    said = house.snakemake("results/figures/fig2.pdf", ok=False)
    done = pasted(command_in(said) + " --help", house.root)
    assert done.returncode == 0, done
    assert "--study paper" in command_in(said)


def test_what_a_table_advises_makes_the_table(house: House, tmp_path: Path) -> None:
    said = house.python("-m", "scripts.artifacts.draw", "tableS1", "--csv", "a", "--pdf", "b", "--png", "c", ok=False)
    done = pasted(command_in(said) + " -n", house.root)
    assert done.returncode == 0, done.stderr
    assert "tabulate" in done.stdout
    # and from another directory, where the project has to be named
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from scripts.common.commands import python_command, snakemake_command\n"
        "print(snakemake_command('results/figures/fig2.pdf')); print(python_command('scripts.artifacts.listing'))\n"
    )
    words = [sys.executable, "-c", program, str(house.root)]
    printed = subprocess.run(words, cwd=elsewhere, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "This was a dry-run" in pasted(f"{printed[0]} -n", elsewhere).stdout
    assert pasted(printed[1], elsewhere).stdout.startswith("fig1 ")


def test_what_a_status_of_lost_bytes_advises_finds_the_store(house: House) -> None:
    """Of another store and study than the configuration's: the command has both, and finds the product."""
    program = (
        "from scripts.launch import chosen\nfrom scripts.launch.launch import launch_by_hand\n"
        "from scripts.store.store import maker\n"
        "launch = launch_by_hand('smoke', 'some store'); chosen.belong_to(launch.name, launch.store_root)\n"
        "product = next(p for p in launch.grid if p.kind == 'records' and 'gsm8k' in p.key)\n"
        "launch.store.make(product, lambda out: {'records': (out / 'x').write_text('x')} , {})\n"
        "print(maker({'spec': product.spec, 'key': product.key}))\n"
    )
    (command,) = (line for line in house.python("-c", program).splitlines() if " -m scripts." in line)
    assert shlex.split(command)[-4:] == ["--study", "smoke", "--store", "some store"]
    done = pasted(command, house.root)
    assert (done.returncode, done.stderr) == (0, ""), done
    (house.root / "some store").rename(house.root / "gone")
    assert "is new: nothing is in it yet" in pasted(command, house.root).stderr
