"""Makes the products of the data stage: records, tokenizers, rows; and has their bytes for the stages that read them.

python -m scripts.data.products KEY
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError, run
from scripts.components.forms import Use
from scripts.components.making import BuildContext, Builder
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES
from scripts.data import rows, train_tokenizer
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
    make_with(builder, launch, name)


def make_with(builder_of: Callable[[Mapping[str, Any]], Builder], launch: Launch, name: str) -> None:
    """Makes what is missing of a product, by the builder of its spec; see `make_data`."""
    product = find(launch, name)
    build, context = builder_of(product.spec), context_of(launch, product)
    make(launch, product, lambda out: build(product.spec, context, out))
    print(f"{product.key}: complete")


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
