"""Makes records, tokenizers, rows and comparisons of records, and has their bytes for the stages that read them.

python -m scripts.data.products KEY
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.common.commands import python_command
from scripts.common.errors import UserError, run
from scripts.components.forms import Use
from scripts.components.making import BuildContext, Builder
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES
from scripts.data import overlaps, rows, train_tokenizer
from scripts.launch.command import current_launch, find, make, product_parser
from scripts.launch.inputs import is_remade
from scripts.launch.launch import Launch
from scripts.plan.product import Product
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
        case "overlaps":
            return overlaps.build
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
    """Says which training records share words with what the study asks, before anything is trained on them.

    What is asked and has to be downloaded is not waited for: a line says that it was left out.
    """
    grid, store = launch.grid, launch.store
    trained = next(iter(product.inputs_of("records")))
    names = [name for name in grid.study.trained_on.values() if grid.records(name).key == trained]
    comparison = grid.overlaps(names[0]) if names else None
    if comparison is None or store.is_made(comparison.key):
        return
    _, *asked = comparison.inputs
    ready = [key for key in asked if store.is_made(key) or grid.is_at_hand(key)]
    for key in ready:
        make_data(launch, key)
    if len(ready) == len(asked):
        make_data(launch, comparison.key)
        compared, records = (store.require(key)["results"] for key in (comparison.key, trained))
        if (read := compared["compared"]) < records["records"]:
            print(f"{product.key}: of its {records['records']:,} records the first {read:,} were compared")
        return
    found, _ = overlaps.compare(data_bytes(launch, trained), [data_bytes(launch, key) for key in ready], overlaps.MOST)
    again = python_command("scripts.data.products", comparison.key)
    print(
        f"{product.key}: compared with {len(ready)} of {len(asked)} sets that are asked; the others are not made yet, "
        f"`{again}` compares with all once they are"
    )
    if found:
        print(f"warning: {product.key}: {overlaps.said(found)}", file=sys.stderr)


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
        for read in manifest["inputs"]:
            _make_lost(launch, read)
        make_data(launch, key)
    return launch.store.bytes_of(key)


def _make_lost(launch: Launch, key: str) -> None:
    """Makes a data product whose manifest is lost too, and first what it is made from."""
    if launch.store.is_made(key):
        return
    for read in find(launch, key).inputs:
        _make_lost(launch, read)
    make_data(launch, key)


if __name__ == "__main__":
    parser = product_parser(__doc__)
    run(lambda arguments: make_data(current_launch(arguments), arguments.product), parser)
