"""The machine under a number: what a manifest records of it beside packages, and how it is made to round as others do.

Imports none of the libraries that it describes: of what a process has not loaded, nothing it made depends.
"""

import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError

_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "AMD64")

STRICT = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "MKL_CBWR": "COMPATIBLE",  # torch's matrix products; AVX2 would be another path on AMD's processors than on Intel's
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's in bf16
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",  # numpy's and scipy's matrix products
}
"""Environment variables under which every x86 processor with AVX2 runs the same kernels.

Libraries read them when they are loaded. `Resources.strict_arithmetic` sets them.
"""


def strict_variables() -> dict[str, str]:
    """Those that this machine needs for strict arithmetic: `STRICT`, or none where it is no x86.

    Raises:
        UserError: it is an old x86, which cannot run these kernels.
    """
    if platform.machine() not in _X86:
        return {}
    if (flags := _flags()) and not {"avx2", "fma"} <= flags:
        raise UserError("resources.strict_arithmetic: needs a processor with AVX2 and FMA, which this one is not")
    return STRICT


def arithmetic() -> dict[str, Any]:
    """What a number's last bits may depend on beside the versions of packages; plain data.

    `processor` is its name, `capability` the vector instructions that torch uses, or would use (None: not known),
    `threads` how many it computes with (None: as many as there are cores), `libraries` those that were loaded,
    `variables` those of `STRICT` that are set, `strict` whether they are as strict arithmetic sets them.
    """
    variables = {name: os.environ[name] for name in STRICT if name in os.environ}
    return {
        "processor": processor(),
        "capability": _capability(),
        "threads": _threads(),
        "libraries": _libraries(),
        "variables": variables,
        "strict": platform.machine() in _X86 and variables == STRICT,
    }


def processor() -> str:
    """The name of the processor, as the system has it; on ARM Linux the numbers of its maker and of its design."""
    if name := _cpuinfo("model name"):
        return name
    if (maker := _cpuinfo("CPU implementer")) and (part := _cpuinfo("CPU part")):
        return f"{platform.machine()} (implementer {maker}, part {part})"
    return platform.processor() or platform.machine()


def _cpuinfo(name: str) -> str | None:
    """A line of the first processor in /proc/cpuinfo; None where there is none."""
    with suppress(OSError):
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
        if found := re.search(rf"^{name}[ \t]*:[ \t]*(\S.*)$", text, re.MULTILINE):
            return found[1].strip()
    return None


def _flags() -> set[str]:
    """The instruction sets of the processor by Linux' names; empty where they are not known."""
    return set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())


def _capability() -> str | None:
    """As torch calls it; read off the processor, as torch does, where torch is not loaded."""
    if torch := sys.modules.get("torch"):
        return str(torch.backends.cpu.get_cpu_capability())
    flags = _flags()
    if not flags:
        return None
    if {"avx512vl", "avx512bw", "avx512dq", "fma"} <= flags:
        return "AVX512"
    return "AVX2" if {"avx2", "fma"} <= flags else "SVE" if "sve" in flags else "DEFAULT"


def _threads() -> int | None:
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    found = re.match(r"\d+", os.environ.get("OMP_NUM_THREADS", ""))
    return int(found[0]) if found else None


def _libraries() -> dict[str, str]:
    """What torch and numpy, if they are loaded, multiply matrices with, and its version."""
    found = {}
    if torch := sys.modules.get("torch"):
        built = torch.__config__.show()
        for name, pattern in (
            ("torch_blas", r"BLAS_INFO=(\w+)"),
            ("mkl", r"Math Kernel Library Version ([\d.]+)"),
            ("onednn", r"MKL-DNN v([\d.]+)"),
        ):
            if match := re.search(pattern, built):
                found[name] = match[1]
    if numpy := sys.modules.get("numpy"):
        blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        found["numpy_blas"] = f"{blas['name']} {blas['version']}"
    return found
