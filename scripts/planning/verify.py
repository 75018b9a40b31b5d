"""Checks what the store has of a study: manifests, the bytes beside them, what they were made from.

python -m scripts.planning.verify [--study NAME] [--store DIR]     reads every byte, about as fast as the disk
python -m scripts.planning.verify --fast                           sizes instead of hashes

A line on stdout for each fault says which file of which product it is, what is wrong with it, and what to do. Bytes
that were pruned are no fault, nor is a product that is not made. What the study does not name is counted and no more:
it may be another study's. It changes nothing.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.common.commands import snakemake_command
from scripts.common.errors import UserError, run
from scripts.common.progress import Progress
from scripts.launch.command import current_launch, launch_options
from scripts.launch.launch import Launch
from scripts.plan.grid import Grid
from scripts.plan.product import PLACES, Key, Product
from scripts.planning.disk import spoken
from scripts.store.codelock import combined
from scripts.store.fingerprint import file_sha256, fingerprint
from scripts.store.store import COPY, Store, maker

Manifest = dict[str, Any]
_PARTS = {"fingerprint", "spec", "inputs", "files", "provenance"}
"""What every manifest has, beside its key."""


@dataclass(frozen=True)
class Fault:
    """Something in the store that is not as it was made."""

    key: str
    """Of the product."""
    path: Path
    what: str
    remedy: str

    @property
    def words(self) -> str:
        return f"{self.key}: {self.path} {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Found:
    """What the store has of a study.

    `unreadable` are products with a manifest that says nothing, and no copy of it that does.
    """

    manifests: Mapping[str, Manifest]
    unreadable: tuple[str, ...]
    others: int
    """Products that the study does not name."""


def look(store: Store, grid: Grid) -> Found:
    """Reads the manifest of every product of the study, or its copy."""
    manifests, unreadable = {}, []
    for key in grid.products:
        manifest = store.read(key)
        if manifest and manifest.keys() >= _PARTS:
            manifests[key] = manifest
        elif store.manifest_path(key).exists():
            unreadable.append(key)
    first = dict.fromkeys(place.partition("/")[0] for place in PLACES.values())
    there = {one for place in first for one in store.by_fingerprint(place)}
    return Found(manifests, tuple(unreadable), len(there - {product.fingerprint for product in grid}))


def is_pruned(store: Store, manifest: Manifest) -> bool:
    """Whether none of a product's files is there, as after `scripts.planning.prune`."""
    directory = store.directory(manifest["key"])
    return bool(manifest["files"]) and not any((directory / name).exists() for name in manifest["files"])


def faults(store: Store, grid: Grid, found: Found, *, fast: bool) -> Iterator[Fault]:
    """The faults of a study's products, in the study's order, while the store is read.

    Args:
        store: where the products are.
        grid: the study.
        found: see `look`.
        fast: compare sizes alone, and no hashes.
    """
    for key in found.unreadable:
        path = store.manifest_path(key)
        yield Fault(key, path, f"is no whole manifest of {key}", _anew(store, key))
    sizes = {key: _size(manifest) for key, manifest in found.manifests.items()}
    what, unit = f"verifying {store.root}", "products" if fast else "bytes"
    progress = Progress(what, unit, len(sizes) if fast else sum(sizes.values()))
    for key, manifest in found.manifests.items():
        if why := _is_other(manifest, key):
            yield Fault(key, store.manifest_path(key), why, _anew(store, key))
        else:
            yield from _manifest_faults(store, manifest)
            yield from _input_faults(store, grid.products[key], manifest)
            yield from _file_faults(store, manifest, fast=fast)
        progress.add(1 if fast else sizes[key])


def _size(manifest: Manifest) -> int:
    return sum(file["bytes"] for file in manifest["files"].values())


def _anew(store: Store, key: str) -> str:
    again = snakemake_command(str(store.manifest_path(key)))
    return f"delete it and {store.directory(key)}, and `{again}` makes the product anew"


def _is_other(manifest: Manifest, key: str) -> str | None:
    """In what a manifest is not that of `key`; manifests of before have no hash of their own that would show it."""
    for said in (manifest["fingerprint"], fingerprint(manifest["spec"])):
        if said != Key(key).fingerprint:
            return f"has the spec of another product, whose fingerprint is {said}"
    return None


def _manifest_faults(store: Store, manifest: Manifest) -> Iterator[Fault]:
    """Of the two places of a manifest, the one where it is another; where one is missing, the other counts."""
    key = manifest["key"]
    path, copy = store.manifest_path(key), store.copy_path(key)
    if path.exists() and _json(path) != manifest:
        yield Fault(key, path, "was changed, and its copy counts", f"`{maker(manifest)}` puts it back")
    elif copy.exists() and _json(copy) != manifest:
        yield Fault(key, copy, f"is no copy of {path}", "delete it")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _input_faults(store: Store, product: Product, manifest: Manifest) -> Iterator[Fault]:
    """What a product was made from, as its manifest has it, has a manifest too and is what the study makes it from."""
    path = store.manifest_path(product.key)
    for key in manifest["inputs"]:
        if not store.is_made(key):
            again = snakemake_command(str(store.manifest_path(key)))
            yield Fault(product.key, path, f"was made from {key}, which has no manifest", f"`{again}` makes it again")
    wanted, said = ({Key(key).fingerprint: key for key in keys} for keys in (product.inputs, manifest["inputs"]))
    if wanted.keys() != said.keys():
        lacks = ", ".join(wanted[one] for one in wanted if one not in said) or "nothing"
        has = ", ".join(said[one] for one in said if one not in wanted) or "nothing"
        yield Fault(product.key, path, f"names {has} as an input in place of {lacks}", _anew(store, product.key))


def _file_faults(store: Store, manifest: Manifest, *, fast: bool) -> Iterator[Fault]:
    key, files = manifest["key"], manifest["files"]
    directory = store.directory(key)
    for path in sorted(directory.rglob("*")):
        if not path.is_dir() and str(path.relative_to(directory)) not in (*files, COPY):
            yield Fault(key, path, "is in no manifest", "delete it")
    if not files or is_pruned(store, manifest):
        return
    again = f"delete {directory}, and `{maker(manifest)}` makes it again and checks its hashes"
    for name, file in files.items():
        path = directory / name
        if what := _damage(path, file, fast=fast):
            yield Fault(key, path, what, again)


def _damage(path: Path, file: Mapping[str, Any], *, fast: bool) -> str | None:
    """In what a file is not what its manifest says; None where it is."""
    try:
        size = path.stat().st_size
        if size != file["bytes"]:
            return f"has {size:,} bytes instead of {file['bytes']:,}"
        if not fast and file_sha256(path) != file["sha256"]:
            return "has another hash than its manifest says"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def by_other_code(now: Mapping[str, str], manifest: Manifest) -> bool:
    """Whether the code behind a product has another hash by now, under the same version or an earlier name of it.

    No fault: a version that stays the same says that the change does not matter; `scripts.planning.explain` has both.

    Args:
        now: code version to the hash of the code behind it.
        manifest: of the product.
    """
    return any(entry["hash"] != now.get(name) for name, entry in manifest["provenance"]["code"].items())


def main(launch: Launch, *, fast: bool) -> None:
    """Prints every fault, and one line that sums up.

    Raises:
        UserError: there is a fault, or no such store.
    """
    store, grid = launch.store, launch.grid
    if not store.root.is_dir():
        raise UserError(f"the store {store.root} does not exist; --store names another")
    found = look(store, grid)
    wrong: set[str] = set()
    number = 0
    for fault in faults(store, grid, found, fast=fast):
        print(fault.words, flush=True)
        wrong.add(fault.key)
        number += 1
    looked_at = len(found.manifests) + len(found.unreadable)
    if number:
        what = "1 fault" if number == 1 else f"{number} faults"
        raise UserError(f"{what} in {len(wrong)} of the {looked_at} products of study {grid.name} in {store.root}")
    pruned = [manifest for manifest in found.manifests.values() if is_pruned(store, manifest)]
    size = sum(map(_size, found.manifests.values())) - sum(map(_size, pruned))
    now = {name: combined(entry["hashes"]) for name, entry in launch.code.items()}
    elsewhere = sum(by_other_code(now, manifest) for manifest in found.manifests.values())
    print(
        f"{looked_at} of {len(grid.products)} products of study {grid.name} lie in {store.root}, and are whole: "
        f"{spoken(size)} by their {'sizes' if fast else 'hashes'}; {len(pruned)} are pruned to their manifests, "
        f"{elsewhere} were made by other code than that of this checkout, "
        f"{found.others} that the study does not name were not looked at"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    launch_options(parser)
    parser.add_argument("--fast", action="store_true", help="compare sizes alone, and no hashes")
    run(lambda arguments: main(current_launch(arguments), fast=arguments.fast), parser)
