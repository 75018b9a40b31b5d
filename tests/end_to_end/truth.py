"""What the tests of reruns share: the smoke study's jobs, and whether its figure is true."""

import hashlib
from pathlib import Path
from typing import Any

from tests.conftest import PARTS, House

FIG2 = "results/figures/fig2.pdf"
# the smoke study: 2 settings x 2 methods x 2 durations; CPT has 2 legs a method; fig2 asks 3 tasks a model and the base
RUNS, LEGS, EVALUATIONS = 8, 4, 8 * 3 + 3

_REFERENCES: dict[str, str] = {}
"""Content of a checkout to the data that it makes: several events end at the same checkout."""


def condition_grain(study: dict[str, Any]) -> None:
    study["grain"] = "condition"


def check_truth(house: House, tmp_path: Path) -> None:
    """Asking again is nothing; and the data equal those of a checkout that trains everything anew."""
    assert "Nothing to be done" in house.snakemake(FIG2)
    reference = house.clone(tmp_path / "reference", keep_store=False)
    reference.edit(lambda study: study.update(grain="family"))
    content = _content(reference)
    if content not in _REFERENCES:
        reference.snakemake("results/figures/fig2.csv")
        _REFERENCES[content] = reference.csv()
    assert house.csv() == _REFERENCES[content]


def _content(house: House) -> str:
    digest = hashlib.sha256(house.study.encode())
    for path in sorted(path for part in PARTS for path in (house.root / part, *(house.root / part).rglob("*"))):
        if path.is_file():
            digest.update(f"\n{path.relative_to(house.root)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
