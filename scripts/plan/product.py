"""Products of the store by name: what a key says, and the catalogue of all that a study names."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scripts.store.fingerprint import fingerprint

PLACES = {
    "records": "data/records",
    "tokenizer": "data/tokenizers",
    "rows": "data/rows",
    "overlaps": "data/overlaps",
    "model": "models",
    "leg": "legs",
    "run": "runs",
    "published": "published",
    "throughput": "throughput",
    "samples": "samples",
    "evaluation": "evaluations",
    "spectra": "spectra",
    "trained": "families/trained",
    "evaluated": "families/evaluated",
    "decomposed": "families/decomposed",
}
"""Kind of a product to the directory of the store that it lies in."""
_KINDS = {place: kind for kind, place in PLACES.items()}
NOT_LOCKED = "not-locked"
"""Stands in the name of what ``config/data.lock`` has no entry for."""


class Key(str):
    """A product's place in the store without ``.json``: ``runs/code-cpt/lora-r4/64K-seed0-3f2a9c0d1e5b``."""

    __slots__ = ()

    @property
    def fingerprint(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the product's spec."""
        return self[-12:]

    @property
    def name(self) -> str:
        """The key without its fingerprint."""
        return self[:-13]

    @property
    def kind(self) -> str:
        """The kind of the product, by where it lies.

        Raises:
            ValueError: no product lies there.
        """
        return _KINDS[self._place]

    @property
    def within(self) -> str:
        """The key without the directory of its kind: ``code-cpt/lora-r4/64K-seed0-3f2a9c0d1e5b``."""
        return self[len(self._place) + 1 :]

    @property
    def _place(self) -> str:
        first, _, rest = self.partition("/")
        for place in (first, f"{first}/{rest.partition('/')[0]}"):
            if place in _KINDS:
                return place
        raise ValueError(f"{self}: no product lies there")


@dataclass(frozen=True, eq=False)
class Product:
    """Something in the store: what decides its content (`spec`), its name (`key`), what it is made from."""

    key: Key
    spec: dict[str, Any]
    inputs: tuple[Key, ...]
    members: tuple[Key, ...] = ()
    """Of a family: the keys of the products that the family's job makes, in the order it makes them."""

    @classmethod
    def of(cls, key: str, spec: dict[str, Any], inputs: Iterable[str] = (), members: Iterable[str] = ()) -> "Product":
        """A product of keys that are plain text, such as a manifest's."""
        return cls(Key(key), spec, tuple(map(Key, inputs)), tuple(map(Key, members)))

    @property
    def kind(self) -> str:
        return str(self.spec["kind"])

    @property
    def fingerprint(self) -> str:
        return self.key.fingerprint

    @property
    def name(self) -> str:
        """The key without its fingerprint."""
        return self.key.name

    @property
    def is_judged(self) -> bool:
        """Whether it is an evaluation of samples, which asks no model."""
        return bool(self.inputs_of("samples"))

    def inputs_of(self, kind: str) -> list[Key]:
        """The inputs of a kind, in their order."""
        return [key for key in self.inputs if key.kind == kind]


@dataclass(frozen=True)
class Catalogue:
    """Every product that a study names, by its key; and what names depend on beside the study.

    Attributes:
        versions: code versions by their name, see ``config/code.lock``.
        data_lock: entries of ``config/data.lock`` by what they identify, see `scripts.study.datalock`.
        outside: products that come from outside, and what the lock's entry of each is called.
        unlocked: those of them that have no entry in the lock, and what the entry would be called.
    """

    versions: Mapping[str, int]
    data_lock: Mapping[str, Mapping[str, Any]]
    products: dict[str, Product] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)
    unlocked: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, spec: dict[str, Any], *inputs: Product, members: tuple[Key, ...] = ()) -> Product:
        """The product of this name and spec; the one that is there already, where it is."""
        key = Key(f"{name}-{fingerprint(spec)}")
        if key not in self.products:
            self.products[key] = Product(key, spec, tuple(product.key for product in inputs), members)
        return self.products[key]

    def add_outside(self, name: str, spec: dict[str, Any], identity: str, *inputs: Product, locked: bool) -> Product:
        """A product that comes from outside; where the lock lacks its identity, its name says so."""
        product = self.add(name if locked else f"{name}.{NOT_LOCKED}", spec, *inputs)
        self.outside[product.key] = identity
        if not locked:
            self.unlocked[product.key] = identity
        return product

    def entry(self, identity: str | None) -> Mapping[str, Any]:
        """The lock's entry; empty where there is none, or nothing to lock."""
        return self.data_lock.get(identity, {}) if identity else {}

    def __iter__(self) -> Iterator[Product]:
        return iter(self.products.values())
