"""What a manifest records of the machine, against torch's own word and the files of other machines."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.common.errors import UserError
from scripts.plan.product import Product
from scripts.store import machine
from scripts.store.fingerprint import fingerprint
from scripts.store.store import Store

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9654 96-Core Processor
flags\t\t: fpu sse2 fma avx avx2 avx512f avx512dq avx512bw avx512vl
processor\t: 1
model name\t: the second one
"""
HASWELL = "model name\t: Intel(R) Xeon(R) CPU E5-2680 v3 @ 2.50GHz\nflags\t\t: fpu sse2 fma avx avx2\n"
NEHALEM = "model name\t: Intel(R) Xeon(R) CPU X5570 @ 2.93GHz\nflags\t\t: fpu sse2 sse4_2\n"
GRAVITON = "BogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Another machine: its architecture, and its /proc/cpuinfo, which macOS does not have."""

    def be(architecture: str, cpuinfo: str | None) -> None:
        if cpuinfo is not None:
            (tmp_path / "cpuinfo").write_text(cpuinfo)
        monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(platform, "machine", lambda: architecture)
        monkeypatch.setattr(platform, "processor", lambda: "")
        for library in ("torch", "numpy"):
            monkeypatch.delitem(sys.modules, library, raising=False)

    return be


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "processor", "capability"),
    [
        ("x86_64", AMD, "AMD EPYC 9654 96-Core Processor", "AVX512"),
        ("x86_64", HASWELL, "Intel(R) Xeon(R) CPU E5-2680 v3 @ 2.50GHz", "AVX2"),
        ("x86_64", NEHALEM, "Intel(R) Xeon(R) CPU X5570 @ 2.93GHz", "DEFAULT"),
        ("aarch64", GRAVITON, "aarch64 (implementer 0x41, part 0xd40)", "SVE"),
        ("arm64", None, "arm64", None),
    ],
)
def test_processors(on: Any, architecture: str, cpuinfo: str | None, processor: str, capability: str | None) -> None:
    on(architecture, cpuinfo)
    found = machine.arithmetic()
    assert (found["processor"], found["capability"], found["libraries"]) == (processor, capability, {})


def test_strict_arithmetic_is_of_x86_processors_with_avx2(on: Any) -> None:
    on("x86_64", HASWELL)
    assert machine.strict_variables() == machine.STRICT
    on("x86_64", NEHALEM)
    with pytest.raises(UserError, match=r"strict_arithmetic: needs a processor with AVX2"):
        machine.strict_variables()
    on("aarch64", GRAVITON)
    assert machine.strict_variables() == {}
    assert machine.arithmetic()["strict"] is False


def told(imports: str, **environment: str) -> dict[str, Any]:
    """What a process that has imported these records of itself, beside what torch says."""
    program = (
        f"import json, sys\n{imports}\nfrom scripts.store import machine, store\nfound = machine.arithmetic()\n"
        "found['loaded'] = [name for name in ('torch', 'numpy') if name in sys.modules]\n"
        "import torch\nfound['torch'] = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()\n"
        "print(json.dumps(found))"
    )
    clean = {name: value for name, value in os.environ.items() if name not in machine.STRICT}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_without_the_libraries_it_says_what_torch_would() -> None:
    found = told("", OMP_NUM_THREADS="1")
    assert found["loaded"] == [], "the store needs none of them"
    assert found["libraries"] == {}
    if platform.machine() == "x86_64" and sys.platform == "linux":
        assert [found["capability"], found["threads"]] == found["torch"]


def test_of_a_loaded_torch_it_says_what_it_uses() -> None:
    found = told("import torch; torch.set_num_threads(2)", OMP_NUM_THREADS="1", ATEN_CPU_CAPABILITY="default")
    assert [found["capability"], found["threads"]] == found["torch"] == ["DEFAULT", 2]
    assert found["variables"] == {"ATEN_CPU_CAPABILITY": "default"}
    assert {"torch_blas", "onednn", "numpy_blas"} <= found["libraries"].keys()


def test_a_manifest_has_it(tmp_path: Path, on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on("x86_64", AMD)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for name, value in machine.STRICT.items():
        monkeypatch.setenv(name, value)
    spec = {"kind": "run"}
    manifest = Store(tmp_path).make(Product.of(f"runs/a-{fingerprint(spec)}", spec), lambda out: {}, {})
    assert manifest["provenance"]["arithmetic"] == {
        "processor": "AMD EPYC 9654 96-Core Processor",
        "capability": "AVX512",
        "threads": 3,
        "libraries": {},
        "variables": machine.STRICT,
        "strict": True,
    }
