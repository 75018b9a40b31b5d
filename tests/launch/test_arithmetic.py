"""The study's strict arithmetic and the environment's own wishes; test_strict_arithmetic of end_to_end trains."""

import os
import subprocess
import sys

import pytest

from scripts.launch import arithmetic

STRICT = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"}


@pytest.fixture(autouse=True)
def _given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "strict_variables", lambda: STRICT)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_the_study_decides_and_one_line_says_what_it_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert arithmetic.make_strict()
    assert {name: os.environ[name] for name in STRICT} == STRICT
    assert capsys.readouterr().err == (
        "The study's strict_arithmetic decides: ATEN_CPU_CAPABILITY=default is now avx2.\n"
    )
    assert not arithmetic.make_strict()
    assert not capsys.readouterr().err


def test_a_machine_that_needs_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "strict_variables", dict)
    before = dict(os.environ)
    assert not arithmetic.make_strict()
    assert os.environ == before


def test_the_same_process_begins_anew_once_with_its_own_arguments() -> None:
    program = (
        "import os, sys\n"
        "from scripts.launch import arithmetic\n"
        f"arithmetic.strict_variables = lambda: {STRICT}\n"
        "print(os.getpid(), os.environ.get('MKL_CBWR'), sys.argv[1:], flush=True)\n"
        "arithmetic.begin_strictly()\n"
        "print('goes on')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, "a b", "--c"], capture_output=True, text=True, check=True)
    first, second, last = done.stdout.splitlines()
    pid = first.split()[0]
    assert first == f"{pid} None ['a b', '--c']"
    assert second == f"{pid} COMPATIBLE ['a b', '--c']"
    assert last == "goes on"
