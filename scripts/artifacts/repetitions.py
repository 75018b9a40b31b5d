"""By how much repetitions of a study's runs differ, as recorded in ``config/repetitions.csv``.

A run that is repeated with another seed differs; so does one on another kind of CPU, whose arithmetic rounds
otherwise, under the same fingerprint. `scripts.artifacts.record_repetitions` writes the file, from a study with several
seeds.
"""

import csv
import math
from pathlib import Path

from scripts.common.files import project

REPETITIONS = project("config/repetitions.csv")


def reach(study: str, path: Path = REPETITIONS) -> dict[tuple[str, str], float]:
    """(setting, metric) to how far from a run another lies in two of three cases: sqrt(2) standard deviations.

    Both runs deviate from their mean, so their difference has twice the variance. Empty for a study of which nothing
    is recorded.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["study"] == study]
    return {(row["setting"], row["metric"]): math.sqrt(2) * float(row["deviation"]) for row in rows}
