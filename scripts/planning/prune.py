"""Says which bytes of the store no study needs any more, and deletes them when told to. Manifests always stay.

python -m scripts.planning.prune [--study NAME]... [--store DIR]     only says what it would delete
python -m scripts.planning.prune --delete [--unnamed]

A leg end is needed until every leg, branch and run that starts from it is complete; a run or a published checkpoint,
until its evaluations and spectra are; a checkpoint, until its product is. The studies that count are the named ones, or
all of this checkout, as their files are now: a launch that is running may be of what they were before. What none of
them names may be another checkout's, and is left alone without `--unnamed`. Metrics lie beside the manifests and stay
like them.
"""

import argparse
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scripts.common.errors import UserError, run
from scripts.launch.chosen import belong_to
from scripts.launch.launch import launch_by_hand
from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.planning.disk import spoken
from scripts.store.codelock import read_code_lock
from scripts.store.locks import LockedError
from scripts.store.store import COPY, Store, has_bytes, maker
from scripts.study import datalock
from scripts.study.load import ACCEPTED, STUDIES, load_study

_DONE_WITH = ("leg", "run", "published")
"""Kinds of products whose bytes are read by other products alone; figures read those of all other kinds."""
_PRODUCT = re.compile(r"(?P<key>.+-[0-9a-f]{12})\.json")
_UNFINISHED = re.compile(r"(?P<key>.+-[0-9a-f]{12})\.unfinished")
_LEFT_OVER = re.compile(r"\.(?P<key>.+-[0-9a-f]{12})-\w+")
"""The directory that `Store.make` fills; it outlives only a job that was killed."""


@dataclass(frozen=True)
class Found:
    """A directory of bytes that no study needs."""

    key: str
    """Of the product that they are of."""
    path: Path
    bytes: int
    named: bool
    """Whether a study names the product."""
    words: str
    """The command that makes the bytes again; or, where no one needs them ever again, what they are."""


def found(store: Store, grids: Iterable[Grid]) -> list[Found]:
    """Everything that can be deleted, in the order of the keys.

    A directory is left alone where its product is not complete, and where there is nothing in it but the manifest's
    copy.
    """
    products: dict[str, Product] = {product.key: product for grid in grids for product in grid}
    readers: dict[str, set[str]] = defaultdict(set)
    for product in products.values():
        # a family's own job reads nothing but what its members read
        for read in product.inputs if not product.members else ():
            readers[read].add(product.key)

    manifest_of = cache(store.read)

    def complete(key: str) -> bool:
        return manifest_of(key) is not None

    def gone(key: str) -> bool:
        manifest = manifest_of(key)
        return manifest is not None and not has_bytes(manifest, store.directory(key))

    @cache
    def needed(key: str) -> bool:
        # also to make bytes again that are needed themselves
        return any(not complete(reader) or (needed(reader) and gone(reader)) for reader in readers[key])

    def of(key: str, path: Path, words: str) -> Found:
        return Found(key, path, _size(path), key in products, words)

    listed = []
    for key, path in _directories(store.root):
        if path == store.directory(key):
            manifest = manifest_of(key)
            done_with = key not in products or (products[key].kind in _DONE_WITH and not needed(key))
            if done_with and manifest and manifest["files"]:
                listed.append(of(key, path, maker(manifest)))
        elif path != store.scratch(key):
            listed.append(of(key, path, f"left behind by a killed job of {key}"))
        elif complete(key) or key not in products:
            listed.append(of(key, path, f"checkpoints of {key}"))
    return sorted(listed, key=lambda item: (item.key, item.path))


def _directories(root: Path) -> Iterator[tuple[str, Path]]:
    """Every directory of a store that holds bytes of a product, with the product's key."""
    for place, directories, files in os.walk(root):
        here = Path(place)
        manifests = {match["key"] for file in files if (match := _PRODUCT.fullmatch(file))}
        for name in list(directories):
            match = _UNFINISHED.fullmatch(name) or _LEFT_OVER.fullmatch(name)
            product = match["key"] if match else name if name in manifests or (here / name / COPY).exists() else None
            if product:
                yield str((here / product).relative_to(root)), here / name
            if product or name.startswith("."):
                directories.remove(name)


def _size(directory: Path) -> int:
    size = 0
    for place, _, files in os.walk(directory):
        for file in files:
            with suppress(FileNotFoundError):  # of a job at work
                size += os.lstat(os.path.join(place, file)).st_size
    return size


def delete(store: Store, items: Iterable[Found], *, really: bool = True) -> dict[Found, str]:
    """Deletes them, except where a job holds the lock: those are returned, with what is known of the job.

    If not `really`, it only tries the locks.
    """
    held = {}
    for item in items:
        try:
            with store.lock(item.key, until=time.monotonic()):
                if really and item.path == store.directory(item.key):
                    store.delete_bytes(item.key)
                elif really:
                    shutil.rmtree(item.path)
        except LockedError as error:
            held[item] = str(error).partition(";")[0]
    return held


def main(names: Sequence[str], root: str | None, *, really: bool, unnamed: bool) -> None:
    """Prints what no study needs, and deletes it if `really`; with `unnamed` also what no study names.

    Raises:
        UserError: a study is unknown or wrong, or there is no such store.
    """
    names = names or _studies()
    store = launch_by_hand(names[0], root).store
    belong_to(None, str(store.root))
    if not store.root.is_dir():
        raise UserError(f"the store {store.root} does not exist; --store names another")
    versions = {name: entry["version"] for name, entry in read_code_lock().items()}
    every = found(store, [Grid(load_study(name), name, versions, datalock.read()) for name in names])
    chosen = [item for item in every if item.named or unnamed]
    kept = [item for item in every if not (item.named or unnamed)]
    held = delete(store, chosen, really=really)
    free = [item for item in chosen if item not in held]

    print(f"{store.root}, for the studies {', '.join(names)}; a line is a size, and the command that makes it again")
    _list("deleted" if really else "no longer needed", free)
    _list("of no study, and left alone without --unnamed", kept)
    for item, holder in held.items():
        print(f"left alone: {spoken(item.bytes)} in {item.path}, {holder}")
    room = spoken(sum(item.bytes for item in free))
    print(f"{room} are free now" if really else f"{room} would be free; nothing was deleted, --delete does it")


def _list(title: str, items: Sequence[Found]) -> None:
    if items:
        print(f"{title}: {spoken(sum(item.bytes for item in items))}")
    for item in items:
        print(f"{spoken(item.bytes):>12}  {item.words}")


def _studies() -> list[str]:
    return sorted(file.stem for file in STUDIES.glob("*.yaml") if not file.name.endswith(ACCEPTED))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--study", action="append", metavar="NAME", help="a study that counts (default: all there are)")
    parser.add_argument("--store", help="the store's directory (default: where launches have it)")
    parser.add_argument("--delete", action="store_true", help="delete, instead of only saying what would be deleted")
    parser.add_argument("--unnamed", action="store_true", help="the bytes of products that no study names, too")
    run(
        lambda given: main(given.study, given.store, really=given.delete, unnamed=given.unnamed),
        parser,
    )
