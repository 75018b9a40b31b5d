"""Programs that import packages: those that are named and nothing else, over every backend that works here."""

import os

import numpy
import pytest

from scripts.common.errors import UserError
from scripts.evaluation.sandbox import ProgramResult, Sandbox, backends

NUMPY = ("numpy",)
MEAN = "import numpy as np\ndef f(values):\n    return np.mean(values), np.sum(values)\n"


@pytest.fixture(scope="module", params=["bubblewrap", "namespaces"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if Sandbox(request.param) not in backends():
        pytest.skip(f"{request.param} does not work on this machine")
    return Sandbox(request.param)


def judge(sandbox: Sandbox, program: str, check: str, packages: tuple[str, ...] = NUMPY) -> ProgramResult:
    """With the memory that a study has by default."""
    return sandbox.run([(program, check)], timeout_seconds=60, memory_mb=2048, packages=packages)[0]


def test_a_program_imports_what_is_named_and_no_more(sandbox: Sandbox) -> None:
    check = "assert f([1, 2, 6]) == (3.0, 9)"
    without = ProgramResult("missing_package", "ModuleNotFoundError: No module named 'numpy'")
    assert judge(sandbox, MEAN, check, ()) == without
    assert judge(sandbox, MEAN, "import numpy\n", ()) == without
    assert judge(sandbox, MEAN, check) == ProgramResult("passed", "")
    assert judge(sandbox, MEAN, "assert f([1, 2, 6]) == (3.0, 8)").outcome == "wrong"
    installed = os.path.dirname(os.path.dirname(numpy.__file__))
    outside = f"import sys\nsys.path.append({installed!r})\nimport yaml\n"
    assert judge(sandbox, outside, "").outcome == "missing_package"
    # What a package lacks is the program's mistake, as is what the standard library lacks.
    for module in ("numpy.nothing", "os.nothing"):
        assert judge(sandbox, f"import {module}", "").outcome == "error"


def test_only_the_packages_own_files_are_there_and_none_can_be_changed(sandbox: Sandbox) -> None:
    program = (
        "import numpy, os\n"
        "def f():\n"
        "    done = []\n"
        "    for path in (numpy.__file__, '/packages/numpy/new.py', '/packages/new.py'):\n"
        "        try:\n            open(path, 'w').close()\n            done.append(path)\n"
        "        except OSError:\n            pass\n"
        "    return sorted(os.listdir('/packages')), done\n"
    )
    there = ["numpy", f"numpy-{numpy.__version__}.dist-info", "numpy.libs"]
    verdict = judge(sandbox, program, "there, done = f()\nraise RuntimeError(there, done)")
    places, done = eval(verdict.detail.removeprefix("RuntimeError: "))
    assert done == []
    assert set(places) <= set(there)  # a numpy that was built here has no `numpy.libs`
    assert places[:2] == there[:2]


def test_dependencies_come_along(sandbox: Sandbox) -> None:
    program = "import sympy\ndef f(text):\n    return int(sympy.Integer(text) ** 2), sympy.isprime(7)\n"
    packages = ("numpy", "sympy")  # which imports mpmath
    assert judge(sandbox, program, "assert f('12') == (144, True)", packages) == ProgramResult("passed", "")


def test_numbers_and_arrays_arrive(sandbox: Sandbox) -> None:
    program = (
        "import numpy as np\n"
        "def scalars():\n"
        "    return [np.int64(-3), np.uint8(200), np.bool_(True), np.float32(0.5), np.float64(0.1), np.complex64(1j),\n"
        "            np.str_('a')]\n"
        "def table(n):\n    return np.arange(2 * n, dtype='<i2').reshape(2, n).T\n"
        "def total(array):\n    return array.sum(axis=0)\n"
        "def empty():\n    return np.zeros((0, 3))\n"
        "def objects():\n    return np.array([None, 1], dtype=object)\n"
    )
    check = (
        "import numpy\n"
        "expected = [-3, 200, True, 0.5, 0.1, 1j, 'a']\n"
        "for got, value in zip(scalars(), expected, strict=True):\n"
        "    assert (type(got), got) == (type(value), value)\n"
        "got = table(3)\n"
        "assert got.dtype == numpy.int16 and got.tolist() == [[0, 3], [1, 4], [2, 5]]\n"
        "assert numpy.array_equal(total(numpy.array([[1.5, 2.0], [3.0, 4.0]])), [4.5, 6.0])\n"
        "assert empty().shape == (0, 3)\n"
        "assert list(objects()) == [None, 1]\n"  # stays where it is, and is iterated there
    )
    assert judge(sandbox, program, check) == ProgramResult("passed", "")


def test_the_checks_numpy_is_its_own(sandbox: Sandbox) -> None:
    softened = (
        "import numpy, sys\n"
        "numpy.allclose = numpy.array_equal = lambda *_: True\n"
        "class Mild:\n    def __getattr__(self, name):\n        return lambda *_: True\n"
        "sys.modules['numpy'] = sys.modules['numpy._core'] = Mild()\n"
        "sys.path.insert(0, '/tmp')\n"
        "open('/tmp/numpy.py', 'w').write('allclose = lambda *_: True')\n"
        "def f(x):\n    return x\n"
    )
    for check in ("import numpy\nassert numpy.allclose(f(2), 3)", "assert numpy.allclose(f(2), 3)"):
        assert judge(sandbox, softened, check).outcome != "passed"
    # Under its own name, a package that the program has imported is there for the check.
    assert judge(sandbox, MEAN + "import numpy", "assert numpy.allclose(f([1, 2])[0], 1.5)").outcome == "passed"


def test_an_array_of_objects_cannot_be_forged(sandbox: Sandbox) -> None:
    """Its bytes would be addresses in the judge."""
    array = b"a3\nS2\n|Ot1\nI1\n1Y8\n" + bytes(8)
    text = b"t3\nB1\n1" + array + b"d0\n"
    program = (
        "import os\ndef f(x):\n    for descriptor in range(3, 64):\n"
        f"        try:\n            os.write(descriptor, {len(text).to_bytes(8, 'big') + text!r})\n"
        "        except OSError:\n            pass\n    os._exit(0)\n"
    )
    assert judge(sandbox, program, "import numpy\nf(2)") == ProgramResult("error", "ValueError: an array of |O")


def test_what_is_not_installed_is_said_before_anything_runs(sandbox: Sandbox) -> None:
    with pytest.raises(UserError, match=r"package nowhere: .* not installed .*install it with `.* install nowhere`"):
        sandbox.run([], timeout_seconds=1, memory_mb=2048, packages=("numpy", "nowhere"))
    with pytest.raises(UserError, match="package numpy: programs cannot import it in the sandbox with 40 MiB"):
        sandbox.run([("", "")], timeout_seconds=60, memory_mb=40, packages=NUMPY)
