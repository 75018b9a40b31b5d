"""Writes ``config/data.lock``: the SHA-256 of every dataset that comes from outside, by the study that names it.

python -m scripts.data.lock --study NAME
"""

import argparse
from pathlib import Path

import yaml

from scripts.study.errors import UserError, run
from scripts.study.fingerprint import file_sha256
from scripts.study.launch import DATA_LOCK, read_data_lock
from scripts.study.load import load_study
from scripts.study.schema import PathDataset
from scripts.study.store import atomic_path

_HEADER = "# Identity of the datasets that come from outside. Written by `python -m scripts.data.lock`; commit it.\n"


def main(arguments: argparse.Namespace) -> None:
    study = load_study(arguments.study)
    outside = {name: dataset for name, dataset in study.datasets.items() if isinstance(dataset, PathDataset)}
    lock = read_data_lock()
    for name, dataset in outside.items():
        path = Path(dataset.path)
        if not path.is_file():
            raise UserError(f"config/studies/{arguments.study}.yaml: datasets.{name}.path: {path} is not a file")
        lock[name] = {"path": dataset.path, "sha256": file_sha256(path)}
    with atomic_path(DATA_LOCK) as new:
        new.write_text(_HEADER + (yaml.safe_dump(lock, sort_keys=True) if lock else ""), encoding="utf-8")
    print(f"{DATA_LOCK}: {len(outside)} dataset{'s' * (len(outside) != 1)} of study {arguments.study} locked")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--study", required=True)
    run(main, parser)
