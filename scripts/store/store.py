"""The store: manifests, the bytes beside them, and the locks that keep two jobs from making one product.

A product is complete when its manifest exists. Bytes and manifest are written under temporary names and
renamed, the manifest last, so nothing half-written has a product's name. Manifests are never deleted; bytes
may be, and are made again from the manifest, which then proves that they are the same.

A manifest has a hash of itself, and a copy of it lies with the bytes. Snakemake deletes the file that it sees before a
job starts and after one fails, another launch's too; readers take the copy where the manifest is gone or was changed,
and whoever makes the product puts it back.
"""

import hashlib
import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from scripts.common.commands import python_command
from scripts.common.errors import UserError
from scripts.common.files import write_json
from scripts.store.fingerprint import FINGERPRINT, file_sha256, fingerprint, known_sha256
from scripts.store.locks import exclusive
from scripts.store.machine import arithmetic

Build = Callable[[Path], dict[str, Any]]
"""Writes a product's bytes into the empty directory it is given and returns its results (plain data).

What the results have under `provenance` (times, devices) joins the manifest's own provenance instead.
"""


COPY = ".manifest.json"
"""Name of a manifest's copy in the directory of the product's bytes."""

_NAMED = re.compile(rf".*-{FINGERPRINT}")
"""The last part of a product's key."""


class Specified(Protocol):
    """As much of a product as the store asks for; see `scripts.plan.grid.Product`."""

    @property
    def key(self) -> str: ...

    @property
    def spec(self) -> dict[str, Any]: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Store:
    """The directory that holds the products."""

    root: Path

    def manifest_path(self, key: str) -> Path:
        return self.root / f"{key}.json"

    def directory(self, key: str) -> Path:
        """Where the bytes of a product lie (whether or not they do)."""
        return self.root / key

    def copy_path(self, key: str) -> Path:
        """Where the copy of a manifest lies, with the bytes."""
        return self.directory(key) / COPY

    def scratch(self, key: str) -> Path:
        """Where a job keeps what it wants to find again if it is interrupted. No product is ever named so."""
        return self.root / f"{key}.unfinished"

    def read(self, key: str) -> dict[str, Any] | None:
        """The manifest of a product, or its copy; None when the product is not complete.

        A file that is cut off, was changed, or is another product's manifest is none.
        """
        return _load(self.manifest_path(key), key) or _load(self.copy_path(key), key, is_copy=True)

    def made(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` whose products are complete."""
        return {key for key in keys if self.is_made(key)}

    def is_made(self, key: str) -> bool:
        """Whether a product is complete."""
        return self.read(key) is not None

    def require(self, key: str) -> dict[str, Any]:
        """The manifest of a complete product.

        Raises:
            UserError: it is not complete.
        """
        manifest = self.read(key)
        if manifest is None:
            path = self.manifest_path(key)
            why = "is not what was written" if path.exists() else "does not exist"
            raise UserError(f"{path} {why}: {key} has to be made first")
        return manifest

    def require_writable(self) -> None:
        """Raises UserError where nothing can be made in the store."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise UserError(f"store {self.root}: nothing can be made there ({error.strerror})") from error

    def bytes_of(self, key: str) -> Path:
        """The directory of a complete product's bytes, for those who read them: they are what the manifest says.

        Their hashes are computed once a process, at about the speed of the disk (1 GB/s and core or more).

        Raises:
            UserError: the product is not complete, or its bytes were deleted or are damaged; the sentence says how to
                remake them.
        """
        manifest = self.require(key)
        directory = self.directory(key)
        if not has_bytes(manifest, directory):
            raise UserError(
                f"the bytes of {key} are gone from {directory}; "
                f"`{maker(manifest)}` makes them again and checks their hashes"
            )
        for name, file in manifest["files"].items():
            path = directory / name
            try:
                damage = None if known_sha256(path) == file["sha256"] else "another hash"
            except OSError as error:
                damage = error.strerror or str(error)
            if damage:
                raise UserError(
                    f"{path} is not what its manifest says ({damage}); delete {directory}, "
                    f"and `{maker(manifest)}` makes it again and checks its hashes"
                )
        return directory

    def by_fingerprint(self, key: str) -> dict[str, str]:
        """Fingerprint to key of the products that lie in the same first directory of the store as `key`.

        Only directories that hold manifests are read: those of bytes are many, and others may be deleting theirs. A
        copy of a manifest counts where the manifest is gone.
        """
        found = {}
        for place, below, files in os.walk(self.root / key.partition("/")[0]):
            names = [name.removesuffix(".json") for name in files if name.endswith(".json")]
            names += [name for name in below if _NAMED.fullmatch(name) and Path(place, name, COPY).exists()]
            # a model's evaluations lie in a directory that is named as the model is, and is none of bytes
            below[:] = [name for name in below if not name.startswith(".") and name not in names]
            for name in filter(_NAMED.fullmatch, names):
                found[name[-12:]] = str(Path(place, name).relative_to(self.root))
        return found

    def link(self, product: Specified, other: str) -> None:
        """Gives a product that is complete under another name, as settings and methods may be renamed, its name now.

        The bytes are linked and take no more room. Nothing happens where `other` has another spec.
        """
        with self.lock(product.key):
            if not self.is_made(product.key):
                self._link(product, other)

    def lock(self, key: str, until: float = math.inf) -> AbstractContextManager[None]:
        """Exclusive right to make a product or to delete its bytes, in this process and on this and other hosts.

        Waits for another holder, says so in one line, and gives up at `until` (a moment of `time.monotonic`; without
        it, never).

        Raises:
            LockedError: another process held it until then.
        """
        return exclusive(self.root / ".locks" / f"{key}.lock", key, until)

    def make(self, product: Specified, build: Build, code: dict[str, Any], until: float = math.inf) -> dict[str, Any]:
        """The product's manifest, after making what is missing of it: everything, bytes alone, or nothing.

        Args:
            product: what to make.
            build: see `Build`; its directory becomes the product's, unless it leaves it empty.
            code: the code versions behind the product and their hashes, kept in the manifest.
            until: moment of `time.monotonic` at which waiting for another job that makes it ends; without it, never.

        Raises:
            LockedError: another job was still making it.
            UserError: bytes made again for an existing manifest differ from what it says.
        """
        with self.lock(product.key, until):
            directory = self.directory(product.key)
            manifest = _load(self.manifest_path(product.key), product.key)
            if manifest is None:
                manifest = self._restored(product) or self._linked(product)
            if manifest is not None and has_bytes(manifest, directory):
                return manifest
            directory.parent.mkdir(parents=True, exist_ok=True)
            self._tidy(product.key)
            started = time.time()
            new = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
            try:
                results = build(new)
                provenance = results.pop("provenance", {})
                files = {
                    str(path.relative_to(new)): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
                    for path in sorted(new.rglob("*"))
                    if path.is_file() and path != new / COPY  # of the directory that a build has copied
                }
                if manifest is not None and files != manifest["files"]:
                    raise UserError(
                        f"{product.key}: the bytes made again differ from the manifest's hashes; "
                        "they were not kept (another machine, thread count or library version?)"
                    )
                is_new = manifest is None
                if manifest is None:
                    manifest = {
                        "key": product.key,
                        "fingerprint": fingerprint(product.spec),
                        "spec": product.spec,
                        "inputs": list(product.inputs),
                        "files": files,
                        "results": results,
                        "provenance": {
                            "code": code,
                            "python": platform.python_version(),
                            "machine": platform.machine(),
                            "arithmetic": arithmetic(),
                            "packages": _installed(),
                            "started": round(started, 3),
                            "seconds": round(time.time() - started, 3),
                            **provenance,
                        },
                    }
                    manifest["sha256"] = _own_hash(manifest)
                if directory.exists():
                    shutil.rmtree(directory)
                if files or manifest["results"]:  # else there is nothing that a copy would save
                    write_json(new / COPY, manifest)
                    os.replace(new, directory)
            finally:
                shutil.rmtree(new, ignore_errors=True)
            if is_new:
                write_json(self.manifest_path(product.key), manifest)
            shutil.rmtree(self.scratch(product.key), ignore_errors=True)
            return manifest

    def _linked(self, product: Specified) -> dict[str, Any] | None:
        """See `link`; None where the product has no other name."""
        other = self.by_fingerprint(product.key).get(product.key[-12:])
        return self._link(product, other) if other not in (None, product.key) else None

    def _link(self, product: Specified, other: str) -> dict[str, Any] | None:
        manifest = self.read(other)
        if manifest is None or manifest["spec"] != _plain(product.spec):
            return None
        if _load(self.manifest_path(other), other) is None and not _is_whole(manifest, self.directory(other)):
            return None
        provenance = {**manifest["provenance"], "made_as": manifest["key"]}
        manifest |= {"key": product.key, "inputs": list(product.inputs), "provenance": provenance}
        manifest["sha256"] = _own_hash(manifest)
        directory, source = self.directory(product.key), self.directory(other)
        if manifest["files"] and has_bytes(manifest, source):
            directory.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
            try:
                for name in manifest["files"]:
                    (new / name).parent.mkdir(parents=True, exist_ok=True)
                    _link_file(source / name, new / name)
                write_json(new / COPY, manifest)
                shutil.rmtree(directory, ignore_errors=True)
                os.replace(new, directory)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        write_json(self.manifest_path(product.key), manifest)
        return manifest

    def delete_bytes(self, key: str) -> None:
        """Deletes the bytes of a complete product, for whoever has its lock. The manifest stays, or is put back first.

        Raises:
            UserError: the product is not complete.
        """
        manifest = self.require(key)
        if _load(self.manifest_path(key), key) is None:
            write_json(self.manifest_path(key), manifest)
        shutil.rmtree(self.directory(key))

    def _restored(self, product: Specified) -> dict[str, Any] | None:
        """The manifest put back from its copy, where that is of this very product and of the bytes beside it."""
        manifest = _load(self.copy_path(product.key), product.key, is_copy=True)
        directory = self.directory(product.key)
        if manifest is None or manifest["spec"] != _plain(product.spec):
            return None
        if not _is_whole(manifest, directory):
            return None
        write_json(self.manifest_path(product.key), manifest)
        self._tidy(product.key)
        shutil.rmtree(self.scratch(product.key), ignore_errors=True)
        return manifest

    def _tidy(self, key: str) -> None:
        """Deletes what a killed job left half-written, for whoever has the lock."""
        directory = self.directory(key)
        for left_over in directory.parent.glob(f".{directory.name}[-.]*"):
            if left_over.is_dir():
                shutil.rmtree(left_over)
            else:
                left_over.unlink()


def _load(path: Path, key: str, *, is_copy: bool = False) -> dict[str, Any] | None:
    """What a file says, if it is the whole manifest of `key` as it was written; those of before had no hash or copy."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("key") != key:
        return None
    if "sha256" not in manifest:
        return None if is_copy else manifest
    return manifest if manifest["sha256"] == _own_hash(manifest) else None


def _is_whole(manifest: dict[str, Any], directory: Path) -> bool:
    """Whether the bytes beside a copy are those that it is of: nothing else says that the product was complete."""
    return has_bytes(manifest, directory) and all(
        file_sha256(directory / name) == file["sha256"] for name, file in manifest["files"].items()
    )


def _plain(spec: Any) -> Any:
    """A spec as a manifest has it."""
    return json.loads(json.dumps(spec))


def _link_file(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)


def _own_hash(manifest: dict[str, Any]) -> str:
    """The SHA-256 of a manifest without its hash, in hexadecimal digits."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    # written and read once: what Python tells apart and JSON does not, such as keys that are numbers, must be the same
    return hashlib.sha256(json.dumps(_plain(said), sort_keys=True).encode()).hexdigest()


def _installed() -> dict[str, str]:
    """Versions of the packages that numbers may depend on."""
    found = {}
    for name in ("torch", "transformers", "peft", "tokenizers", "torch-optimi", "lm-eval", "numpy", "safetensors"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def has_bytes(manifest: dict[str, Any], directory: Path) -> bool:
    """Whether every file that the manifest names is there, at its size; `Store.bytes_of` checks hashes too."""
    for name, file in manifest["files"].items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            return False
    return True


_MAKERS = {
    "records": "scripts.data.products",
    "tokenizer": "scripts.data.products",
    "rows": "scripts.data.products",
    "overlaps": "scripts.data.products",
    "model": "scripts.models.products",
    "leg": "scripts.training.train",
    "run": "scripts.training.train",
    "published": "scripts.models.products",
    "throughput": "scripts.training.throughput",
    "samples": "scripts.evaluation.evaluate",
    "evaluation": "scripts.evaluation.evaluate",
    "spectra": "scripts.spectra.singular_values",
}


def maker(manifest: dict[str, Any]) -> str:
    """The command that makes a product, or its bytes again."""
    return python_command(_MAKERS[manifest["spec"]["kind"]], manifest["key"])
