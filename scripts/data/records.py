"""Makes the records of a dataset: generated here, or taken from the file that ``config/data.lock`` names.

python -m scripts.data.records KEY
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.study.command import current_launch, product_parser
from scripts.study.errors import UserError, run
from scripts.study.fingerprint import file_sha256
from scripts.study.grid import Product
from scripts.study.launch import Launch
from scripts.study.store import Build

FILE = "records.jsonl"


def builder(launch: Launch, product: Product) -> Build:
    """Writes ``records.jsonl``: one JSON object a line, in the format of the real set."""
    spec = product.spec

    def generate(out: Path) -> dict[str, Any]:
        from scripts.data.generators import GENERATORS

        count = 0
        with (out / FILE).open("w", encoding="utf-8") as file:
            for record in GENERATORS[spec["generator"]](spec["records"], spec["seed"], spec["split"]):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
        if count != spec["records"]:
            raise UserError(
                f"{product.key}: the generator has {count} different records, {spec['records']} are asked for"
            )
        return {"records": count}

    def copy(out: Path) -> dict[str, Any]:
        entry = next((entry for entry in launch.data_lock.values() if entry["sha256"] == spec["sha256"]), None)
        if entry is None:
            raise UserError(f"{product.key}: no dataset of config/data.lock has the SHA-256 {spec['sha256'][:12]}...")
        source = Path(entry["path"])
        if not source.is_file():
            raise UserError(f"{source}: is not there, where config/data.lock says that it is")
        if (found := file_sha256(source)) != spec["sha256"]:
            raise UserError(
                f"{source}: its SHA-256 is {found[:12]}..., config/data.lock says {spec['sha256'][:12]}...; "
                "restore the file, or lock the new one with `python -m scripts.data.lock`"
            )
        shutil.copyfile(source, out / FILE)
        return {"records": sum(1 for _ in read_records(out))}

    return generate if spec["source"] == "generated" else copy


def read_records(directory: Path) -> Iterator[dict[str, Any]]:
    """The records in a product's directory.

    Raises:
        UserError: a line is not a JSON object.
    """
    with (directory / FILE).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{directory / FILE}, line {number}: not valid JSON") from error
            if not isinstance(record, dict):
                raise UserError(f"{directory / FILE}, line {number}: not a JSON object")
            yield record


if __name__ == "__main__":
    from scripts.data.products import make_named

    parser = product_parser(__doc__)
    run(lambda arguments: make_named(current_launch(arguments), arguments.product, "records"), parser)
