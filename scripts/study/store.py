"""The store: manifests, the bytes beside them, and the locks that keep two jobs from making one product.

A product is complete when its manifest exists. Bytes and manifest are written under temporary names and
renamed, the manifest last, so nothing half-written has a product's name. Manifests are never deleted; bytes
may be, and are made again from the manifest, which then proves that they are the same.
"""

import fcntl
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from scripts.study.errors import UserError
from scripts.study.fingerprint import file_sha256, fingerprint
from scripts.study.grid import Product

Build = Callable[[Path], dict[str, Any]]
"""Writes a product's bytes into the empty directory it is given and returns its results (plain data)."""


@dataclass(frozen=True)
class Store:
    """The directory that holds the products."""

    root: Path

    def manifest_path(self, key: str) -> Path:
        return self.root / f"{key}.json"

    def directory(self, key: str) -> Path:
        """Where the bytes of a product lie (whether or not they do)."""
        return self.root / key

    def scratch(self, key: str) -> Path:
        """Where a job keeps what it wants to find again if it is interrupted. No product is ever named so."""
        return self.root / f"{key}.unfinished"

    def read(self, key: str) -> dict[str, Any] | None:
        """The manifest of a product, or None when it is not complete.

        Raises:
            UserError: the file is there and is not the manifest of `key`.
        """
        path = self.manifest_path(key)
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{path}: is not valid JSON; delete it and it is made again") from error
        if not isinstance(manifest, dict) or manifest.get("key") != key:
            raise UserError(f"{path}: is not the manifest of {key}; delete it and it is made again")
        return manifest

    def require(self, key: str) -> dict[str, Any]:
        """The manifest of a complete product.

        Raises:
            UserError: it is not complete.
        """
        manifest = self.read(key)
        if manifest is None:
            raise UserError(f"{self.manifest_path(key)} does not exist: {key} has to be made first")
        return manifest

    def bytes_of(self, key: str) -> Path:
        """The directory of a complete product's bytes.

        Raises:
            UserError: the product is not complete, or its bytes were deleted; the sentence says how to remake them.
        """
        manifest = self.require(key)
        directory = self.directory(key)
        if not has_bytes(manifest, directory):
            raise UserError(
                f"the bytes of {key} are gone from {directory}; "
                f"`{maker(manifest)}` makes them again and checks their hashes"
            )
        return directory

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Exclusive right to make a product. Waits for another holder and says so; ends with its process."""
        path = self.root / ".locks" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{key}: another job is making it; waiting for it", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def make(self, product: Product, build: Build, code: dict[str, Any]) -> dict[str, Any]:
        """The product's manifest, after making what is missing of it: everything, bytes alone, or nothing.

        Args:
            product: what to make.
            build: see `Build`; its directory becomes the product's, unless it leaves it empty.
            code: the code versions behind the product and their hashes, kept in the manifest.

        Raises:
            UserError: bytes made again for an existing manifest differ from what it says.
        """
        with self.lock(product.key):
            manifest = self.read(product.key)
            directory = self.directory(product.key)
            if manifest is not None and has_bytes(manifest, directory):
                return manifest
            directory.parent.mkdir(parents=True, exist_ok=True)
            for left_over in directory.parent.glob(f".{directory.name}-*"):  # of a killed job: the lock is ours
                shutil.rmtree(left_over, ignore_errors=True)
            started = time.time()
            new = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
            try:
                results = build(new)
                files = {
                    str(path.relative_to(new)): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
                    for path in sorted(new.rglob("*"))
                    if path.is_file()
                }
                if manifest is not None and files != manifest["files"]:
                    raise UserError(
                        f"{product.key}: the bytes made again differ from the manifest's hashes; "
                        "they were not kept (another machine, thread count or library version?)"
                    )
                if directory.exists():
                    shutil.rmtree(directory)
                if files:
                    os.replace(new, directory)
            finally:
                shutil.rmtree(new, ignore_errors=True)
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
                        "packages": _installed(),
                        "started": round(started, 3),
                        "seconds": round(time.time() - started, 3),
                    },
                }
                write_json(self.manifest_path(product.key), manifest)
            shutil.rmtree(self.scratch(product.key), ignore_errors=True)
            return manifest


def _installed() -> dict[str, str]:
    """Versions of the packages that numbers may depend on."""
    found = {}
    for name in ("torch", "transformers", "peft", "tokenizers", "torch-optimi", "lm-eval", "numpy", "safetensors"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def has_bytes(manifest: dict[str, Any], directory: Path) -> bool:
    """Whether every file that the manifest names is there, at its size. Hashes are checked where bytes are made."""
    for name, file in manifest["files"].items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            return False
    return True


_MAKERS = {
    "records": "scripts.data.records",
    "tokenizer": "scripts.data.train_tokenizer",
    "rows": "scripts.data.rows",
    "model": "scripts.models.pretrain",
    "leg": "scripts.training.train",
    "run": "scripts.training.train",
    "published": "scripts.models.published",
    "throughput": "scripts.training.throughput",
    "evaluation": "scripts.evaluation.evaluate",
    "spectra": "scripts.spectra.singular_values",
}


def maker(manifest: dict[str, Any]) -> str:
    """The command that makes a product, or its bytes again."""
    spec = manifest["spec"]
    from_hub = spec["kind"] == "model" and spec.get("source") == "hub"
    return f"python -m {'scripts.models.fetch' if from_hub else _MAKERS[spec['kind']]} {manifest['key']}"


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable JSON, complete or not at all, and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as new, new.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there becomes `path` when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
