"""Puts a study's base model, made in the store, among the weights that the project ships.

python -m scripts.models.ship --study demo
"""

import argparse
import shutil

from scripts.common.errors import run
from scripts.common.files import write_json
from scripts.components.models.pretrained import SHIPPED
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.store.store import COPY


def main(launch: Launch) -> None:
    """Replaces what is shipped by what the store has."""
    model = launch.grid.model
    directory = launch.store.bytes_of(model.key)
    shutil.rmtree(SHIPPED, ignore_errors=True)
    shutil.copytree(directory, SHIPPED / model.key, ignore=shutil.ignore_patterns(COPY))
    write_json(SHIPPED / f"{model.key}.json", launch.store.require(model.key))
    print(f"{model.key}: shipped, {sum(path.stat().st_size for path in (SHIPPED / model.key).iterdir()):,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    launch_options(parser)
    run(lambda arguments: main(current_launch(arguments)), parser)
