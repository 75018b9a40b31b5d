"""Records by how much repetitions of a study's runs differ, from artifacts' CSVs of a study with several seeds.

python -m scripts.artifacts.record_repetitions --study demo CSV ...
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import pandas

from scripts.artifacts.points import read_text, to_numbers
from scripts.artifacts.repetitions import REPETITIONS
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path

COLUMNS = ("study", "setting", "metric", "deviation", "seeds", "conditions")
_READ = ("kind", "setting", "metric", "method", "duration_value", "learning_rate", "value", "condition")


def deviations(paths: Iterable[Path]) -> pandas.DataFrame:
    """The standard deviation over seeds of each metric in each setting, from artifacts' CSVs.

    It is pooled over conditions: the root of the mean of their sample variances, each with one degree less than it has
    seeds as its weight.

    Returns:
        A row for each setting and metric, with `deviation`, `seeds` (the most that a condition has) and `conditions`.

    Raises:
        UserError: a CSV is not of the right form, or no condition has two seeds.
    """
    rows = pandas.concat([_values(path) for path in paths]).drop_duplicates(["condition", "metric"])
    rows = rows[(rows["kind"] != "base") & rows["value"].notna()]
    condition = ["setting", "metric", "method", "variant", "duration_value", "learning_rate"]
    found = rows.groupby(condition, as_index=False)["value"].agg(["var", "count"])
    found = found[found["count"] > 1]
    if found.empty:
        raise UserError("no condition of these CSVs has more than one seed")
    found["squares"] = found["var"] * (found["count"] - 1)
    found["freedom"] = found["count"] - 1
    pooled = found.groupby(["setting", "metric"], as_index=False).agg(
        squares=("squares", "sum"), freedom=("freedom", "sum"), seeds=("count", "max"), conditions=("count", "size")
    )
    pooled["deviation"] = (pooled["squares"] / pooled["freedom"]) ** 0.5
    return pooled


def _values(path: Path) -> pandas.DataFrame:
    rows = read_text(path, _READ)
    to_numbers(rows, ["value"], path)
    # CSVs that were recorded before conditions could have a variant have none
    return rows[[*_READ]].assign(variant=rows.get("variant", ""))


def main(study: str, paths: list[Path], out: Path = REPETITIONS) -> None:
    """Records the deviations of a study's repetitions in place of those that were recorded."""
    pooled = deviations(paths)
    pooled["study"], pooled["deviation"] = study, pooled["deviation"].map("{:.4f}".format)
    new = pooled[[*COLUMNS]]
    if out.exists():
        known = pandas.read_csv(out, dtype=str)
        new = pandas.concat([known[known["study"] != study], new])
    with atomic_path(out) as path:
        new.to_csv(path, index=False, lineterminator="\n")
    print(f"{out}: {len(pooled)} deviations of study {study}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--study", required=True, help="the study whose points with one seed they are for")
    parser.add_argument("csv", nargs="+", type=Path, help="CSVs of artifacts of a study with several seeds")
    run(lambda arguments: main(arguments.study, arguments.csv), parser)
