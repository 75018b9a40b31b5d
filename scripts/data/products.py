"""Makes the products of the data stage: records, tokenizers, rows; and has their bytes for the stages that read them.

python -m scripts.data.products KEY
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.common.commands import python_command
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path
from scripts.components.forms import Use
from scripts.components.making import BuildContext, Builder
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES
from scripts.data import overlaps, rows, train_tokenizer
from scripts.launch.command import current_launch, find, make, product_parser
from scripts.launch.inputs import is_remade
from scripts.launch.launch import Launch
from scripts.plan.product import Key, Product
from scripts.store.store import has_bytes


def builder(spec: Mapping[str, Any]) -> Builder:
    """What makes the bytes of a data product.

    Raises:
        UserError: the spec is that of another product.
    """
    match spec["kind"]:
        case "records":
            return SOURCES[spec["source"]].build
        case "tokenizer":
            return MODELS[spec["source"]].build_tokenizer if "source" in spec else train_tokenizer.build
        case "rows":
            return rows.build
    raise UserError(f"a product of the kind {spec['kind']!r} is none of the data stage")


def context_of(launch: Launch, product: Product) -> BuildContext:
    """What the builder of a product is told; what it reads of the inputs must be data."""
    return BuildContext(
        key=product.key,
        study=launch.name,
        scratch=launch.store.scratch(product.key),
        data_lock=launch.data_lock,
        inputs=lambda: [data_bytes(launch, key) for key in product.inputs],
        uses=uses_of(launch, product),
    )


def uses_of(launch: Launch, product: Product) -> list[Use]:
    """What the study has records for; nothing, if the product is none, or none of the study's."""
    if product.kind != "records":
        return []
    grid = launch.grid
    named = [name for name in grid.study.datasets if grid.records(name).key == product.key]
    return [use for name in named for use in grid.study.uses(name)]


def make_data(launch: Launch, name: str) -> None:
    """Makes what is missing of a data product.

    Raises:
        UserError: there is no such product, or it cannot be made.
    """
    product = make_with(builder, launch, name)
    if product.kind == "rows":
        _compare(launch, product)


def _compare(launch: Launch, product: Product) -> None:
    """Says which training records share words with what the study asks, and lists the pairs beside the rows.

    What is asked and has to be downloaded is not waited for: a line says that it was left out.
    """
    study, grid, store = launch.grid.study, launch.grid, launch.store
    trained = next(iter(product.inputs_of("records")))
    names = [name for name in study.trained_on.values() if grid.records(name).key == trained]
    path = store.root / f"{product.key}.{overlaps.REPORT}"
    if not names or study.contamination != "warn" or path.exists():
        return
    asked = dict.fromkeys(grid.records(name).key for name in study.compared_with(names[0]))
    if not asked:
        return
    ready = [key for key in asked if store.is_made(key) or _is_at_hand(launch, key)]
    for key in ready:
        make_data(launch, key)
    directories = [data_bytes(launch, key) for key in ready]
    found, read = overlaps.compare(data_bytes(launch, trained), directories, overlaps.MOST)
    if read < (records := store.require(trained)["results"]["records"]):
        print(f"{product.key}: of its {records:,} records the first {read:,} were compared with what is asked")
    if len(ready) == len(asked):
        with atomic_path(path) as new:
            new.write_text(overlaps.report(found), encoding="utf-8")
    else:
        again = python_command("scripts.data.products", product.key)
        print(
            f"{product.key}: compared with {len(ready)} of {len(asked)} sets that are asked; the others are not made "
            f"yet, `{again}` compares with them once they are"
        )
    if found:
        more = f"; {path} has every pair" if path.exists() else ""
        print(f"warning: {product.key}: {overlaps.said(found)}{more}", file=sys.stderr)


def _is_at_hand(launch: Launch, key: Key) -> bool:
    """Whether records can be made without the network."""
    source = SOURCES[launch.grid.products[key].spec["source"]]
    return not source.needs_network and key not in launch.grid.unlocked


def make_with(builder_of: Callable[[Mapping[str, Any]], Builder], launch: Launch, name: str) -> Product:
    """Makes what is missing of a product, by the builder of its spec, and returns it; see `make_data`."""
    product = find(launch, name)
    build, context = builder_of(product.spec), context_of(launch, product)
    make(launch, product, lambda out: build(product.spec, context, out))
    print(f"{product.key}: complete")
    return product


def data_bytes(launch: Launch, key: str) -> Path:
    """The directory of a data product's bytes. Bytes that were deleted are made again, and proven the same.

    See `scripts.launch.inputs.is_remade` for those of which this is true.

    Raises:
        UserError: the product is not complete, or its bytes cannot be made again.
    """
    manifest = launch.store.require(key)
    if is_remade(manifest) and not has_bytes(manifest, launch.store.directory(key)):
        print(f"{key}: its bytes are gone; making them again from the manifest", file=sys.stderr, flush=True)
        make_data(launch, key)
    return launch.store.bytes_of(key)


if __name__ == "__main__":
    parser = product_parser(__doc__)
    run(lambda arguments: make_data(current_launch(arguments), arguments.product), parser)
