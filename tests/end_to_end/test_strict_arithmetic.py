"""Under strict arithmetic a real training gives the same bytes, whatever kernels the environment asks for."""

import shutil
from typing import Any

import pytest

from scripts.store.machine import STRICT, strict_variables
from tests.conftest import House

pytestmark = pytest.mark.skipif(not strict_variables(), reason="strict arithmetic is of x86 processors")

LEG = "legs/code-cpt/full/2.048K-seed0"
OTHERS = {
    "MKL_CBWR": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3",
}


def test_bytes_do_not_depend_on_the_environment(prepared: House, tmp_path: Any, monkeypatch: Any) -> None:
    house = prepared.copy(tmp_path)
    house.standins = ""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def trained(*, by_rule: bool = False, **environment: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The leg's files (weights, and the optimizer's state, of which no digit is lost) and its arithmetic."""
        shutil.rmtree(house.store / "legs", ignore_errors=True)
        with monkeypatch.context() as outer:
            for name in STRICT:
                outer.delenv(name, raising=False)
            for name, value in environment.items():
                outer.setenv(name, value)
            if by_rule:
                house.snakemake(f"{house.store_root}/{key}.json")
            else:
                options = ["--study", house.study, "--store", house.store_root]
                house.python("-m", "scripts.training.train", *options, LEG)
        ((_, manifest),) = house.manifests("legs").items()
        return manifest["files"], {"key": manifest["key"], **manifest["provenance"]["arithmetic"]}

    default, loose = trained(ATEN_CPU_CAPABILITY="default")
    key = loose["key"]
    assert loose["strict"] is False
    house.edit(lambda study: study["resources"].update(strict_arithmetic=True))
    results = [
        trained(ATEN_CPU_CAPABILITY="default", **OTHERS, by_rule=True),
        trained(ATEN_CPU_CAPABILITY="avx2"),
        trained(ATEN_CPU_CAPABILITY="avx512"),
    ]
    for files, arithmetic in results:
        assert files == results[0][0]
        assert arithmetic["strict"] is True
        assert arithmetic["capability"] == "AVX2"
        assert arithmetic["key"] == key, "it is in no name"
    assert default != results[0][0], "without it the environment decides"
