"""Keys that products were made under: a change of the code that computes them must not rename what exists.

Where a key is to change (a raised code version, a corrected study), `python -m tests.plan.test_golden_keys` records the
new ones; what was made under the old ones is then made again by whoever needs it.
"""

import hashlib
import json
import tarfile
from itertools import groupby
from pathlib import Path

import pytest

from scripts.plan.grid import Grid
from scripts.store.codelock import read_code_lock
from scripts.store.fingerprint import canonical
from scripts.study.load import load_study

RECORDED = Path(__file__).with_name("golden_keys.json")
STUDIES = ("paper", "paper-v1", "paper-v1-13b", "released", "tour")
Digests = dict[str, list[int | str]]


def grid(study: str) -> Grid:
    """The study's products where nothing from outside is locked, so that locking moves no recorded key."""
    current = {name: entry["version"] for name, entry in read_code_lock().items()}
    return Grid(load_study(study), study, current, {})


def digests(study: str) -> Digests:
    """Place in the store to the number of products there, and the SHA-256 of their sorted keys."""
    keys = sorted(product.key for product in grid(study))
    places = {place: list(found) for place, found in groupby(keys, lambda key: key.split("/")[0])}
    return {
        place: [len(found), hashlib.sha256("\n".join(found).encode()).hexdigest()] for place, found in places.items()
    }


@pytest.mark.parametrize("study", STUDIES)
def test_keys_are_those_recorded(study: str) -> None:
    assert digests(study) == json.loads(RECORDED.read_text())[study]


def test_products_of_the_recorded_demo_have_the_names_that_they_were_made_under() -> None:
    """Of families it has some that were made when studies grouped their members otherwise; cards are none any more.

    Evaluations have other names since what models write is a product apart.
    """
    products = {**grid("demo").products, **grid("demo-seeds").products}
    agree = 0
    with tarfile.open("docs/studies/demo/manifests.tar.gz") as archive:
        for member in archive:
            if not member.name.endswith(".json") or (file := archive.extractfile(member)) is None:
                continue
            manifest = json.load(file)
            key = manifest["key"]
            if key not in products and key.startswith(("families/", "studies/", "evaluations/")):
                continue
            assert canonical(products[key].spec) == canonical(manifest["spec"]), key
            assert list(products[key].inputs) == manifest["inputs"], key
            agree += 1
    assert agree == 887


if __name__ == "__main__":
    RECORDED.write_text(json.dumps({study: digests(study) for study in STUDIES}, indent=1) + "\n")
