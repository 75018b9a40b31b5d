"""Whether the bytes are there that jobs will read; said once, before the first starts, and not by each of them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scripts.common.errors import UserError
from scripts.components.making import Made
from scripts.components.models import MODELS
from scripts.components.sources import SOURCES
from scripts.launch.launch import Launch
from scripts.launch.missing import Missing
from scripts.plan.product import Key, Product
from scripts.store.store import Store, has_bytes, maker

_DATA = ("records", "tokenizer", "rows", "overlaps")
_CHOICES: dict[str, Mapping[str, type[Made]]] = {"records": SOURCES, "tokenizer": MODELS}
"""Kind to the choices, by `source`, that its products can be taken from; tokenizers and rows are made here too."""


def is_remade(manifest: Mapping[str, Any]) -> bool:
    """Whether whoever reads the bytes of a product makes them again where they are gone.

    Data alone are: that costs seconds, and needs nothing that a machine lacks. What was downloaded is the exception,
    because jobs often run where no network is.
    """
    spec = manifest["spec"]
    chosen = _CHOICES.get(spec["kind"], {}).get(spec.get("source"))
    return spec["kind"] in _DATA and not (chosen and chosen.needs_network)


def _lost(store: Store, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What stays gone of a product's bytes, and of those that its bytes are made again from; with the manifests."""
    manifest = store.read(key)
    if manifest is None or has_bytes(manifest, store.directory(key)):
        return
    if is_remade(manifest):
        for read in manifest["inputs"]:
            yield from _lost(store, read)
    else:
        yield key, manifest


def require_bytes(launch: Launch, products: Iterable[Product]) -> None:
    """Ends a launch whose jobs would read bytes that were deleted, and that no job makes again by itself.

    Args:
        launch: the study and the store.
        products: that are to be made, families among them.

    Raises:
        UserError: the sentence has the command that makes the bytes again.
    """
    grid, store = launch.grid, launch.store
    missing = Missing(grid, store)
    made = {key for product in products for key in (missing.members(product.key) if product.members else [product.key])}
    gone: dict[str, tuple[Key, dict[str, Any]]] = {}
    for reader in sorted(made):
        for key in grid.products[reader].inputs:
            gone |= {read: (reader, manifest) for read, manifest in _lost(store, key)}
    if gone:
        lost, (reader, manifest) = next(iter(gone.items()))
        more = f", and so are those of {len(gone) - 1} more" if len(gone) > 1 else ""
        raise UserError(
            f"the bytes of {lost} are gone from {store.directory(lost)}, and {reader} is made from them{more}; "
            f"`{maker(manifest)}` makes them again and checks their hashes"
        )
