"""The products of the data stage, by kind: how each is made, and its bytes for the stages that read them."""

import sys
from pathlib import Path

from scripts.common.errors import UserError
from scripts.data import hub, records, rows, train_tokenizer
from scripts.launch.command import find, make
from scripts.launch.launch import Launch
from scripts.store.store import has_bytes

_BUILDERS = {"records": records.builder, "tokenizer": train_tokenizer.builder, "rows": rows.builder}
_DOWNLOADED = ("hub", "package")


def make_named(launch: Launch, name: str, kind: str) -> None:
    """Makes what is missing of a data product.

    Raises:
        UserError: there is no such product, or it is of another kind.
    """
    product = find(launch, name)
    if product.kind != kind:
        raise UserError(f"{product.key}: is of the kind {product.kind!r}, not {kind!r}")
    builder = _BUILDERS[kind]
    if kind == "tokenizer" and product.spec.get("source") == "hub":
        builder = hub.tokenizer_builder
    make(launch, product, builder(launch, product))
    print(f"{product.key}: complete")


def data_bytes(launch: Launch, key: str) -> Path:
    """The directory of a data product's bytes. Bytes that were deleted are made again, and proven the same.

    Data are the only bytes that another job remakes: that costs seconds, and needs nothing that this machine lacks.
    What was downloaded is the exception, because jobs often run where no network is.

    Raises:
        UserError: the product is not complete, or its bytes cannot be made again.
    """
    manifest = launch.store.require(key)
    made_here = manifest["spec"].get("source") not in _DOWNLOADED
    if made_here and not has_bytes(manifest, launch.store.directory(key)):
        print(f"{key}: its bytes are gone; making them again from the manifest", file=sys.stderr, flush=True)
        make_named(launch, key, manifest["spec"]["kind"])
    return launch.store.bytes_of(key)
