"""A store with a base model and rows, and recipes of products that are trained in it."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripts.plan.product import PLACES, Product
from scripts.store.fingerprint import fingerprint
from scripts.store.store import Store
from scripts.training import train

OPTIMIZER = {
    "name": "decoupled_lionw",
    "learning_rate": 2e-3,
    "betas": [0.9, 0.95],
    "weight_decay": 1e-4,
    "clip_norm": 1.0,
}
RECIPE = {"model": "0" * 12, "rows": "1" * 12, "versions": {}, "optimizer": OPTIMIZER, "seed": 5, "precision": "fp32"}
COSINE = {"warmup_fraction": 0.1, "final_fraction": 0.01}


class House:
    """A store with a base model and rows, and as much of a launch as training asks for."""

    checkpoint_seconds = 1e9

    def __init__(self, root: Path, base: Path, rows: Path) -> None:
        self.store = Store(root)
        self.base = tuple(self.bring(kind, source) for kind, source in [("model", base), ("rows", rows)])

    @property
    def grid(self) -> SimpleNamespace:
        resources = SimpleNamespace(checkpoint_seconds=self.checkpoint_seconds)
        return SimpleNamespace(study=SimpleNamespace(resources=resources))

    def code_of(self, product: Product) -> dict[str, Any]:
        return {}

    def bring(self, kind: str, source: Path) -> str:
        product = Product.of(f"{PLACES[kind]}/given-000000000000", {"kind": kind}, ())
        build = lambda out: shutil.copytree(source, out, dirs_exist_ok=True) and {}  # noqa: E731
        self.store.make(product, build, {})
        return product.key

    def product(self, spec: dict[str, Any], *start: Product) -> Product:
        key = f"{spec['kind']}s/it-{fingerprint(spec)}"
        return Product.of(key, spec, (*self.base, *(leg.key for leg in start)))

    def train(self, spec: dict[str, Any], *start: Product) -> tuple[Product, dict[str, Any]]:
        """The product, and its manifest's results."""
        product = self.product(spec, *start)
        return product, self.train_product(product)["results"]

    def train_product(self, product: Product) -> dict[str, Any]:
        """Its manifest."""
        return train.train(self, product)  # type: ignore[arg-type]

    def weights(self, product: Product) -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in self.store.directory(product.key).glob("*model.safetensors")}
        assert found
        return found
