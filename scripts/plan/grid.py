"""Everything that a study names: its products and its conditions.

A product's key ends in the fingerprint of its spec. Inputs are keys too, and a function of the product's own key and
spec alone (which is why what a study calls its datasets stands in no key: renaming one must not move what is made of
it).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scripts.common.errors import UserError
from scripts.components.sources import SOURCES
from scripts.plan.conditions import GRID, Condition, Conditions
from scripts.plan.data import Data
from scripts.plan.evaluation import BASE
from scripts.plan.product import Catalogue, Key, Product
from scripts.plan.training import Training
from scripts.study.schema import Study

_COMPARED = (("rows",), ("samples", "evaluation"))
"""Kinds of products: the records of the first are compared with those of the second."""


class Grid:
    """Every product and condition of a study.

    Args:
        study: the validated study.
        name: the study's.
        versions: code versions by their name, see ``config/code.lock``.
        data_lock: entries of ``config/data.lock`` by what they identify, see `scripts.study.datalock`.

    Raises:
        UserError: what is asked is a copy of what is trained on.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        versions: Mapping[str, int],
        data_lock: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.study = study
        self.name = name
        self.versions = dict(versions)
        self._data_lock = data_lock
        self._catalogue = Catalogue(versions, data_lock)
        self._data = Data(study, self._catalogue)
        self._data.refuse_copies()
        self._conditions = Conditions(study, self._catalogue, self._data, Training(study, self._catalogue, self._data))
        rows, evaluations = ({read for one in self if one.kind in kinds for read in one.inputs} for kinds in _COMPARED)
        self._overlaps = self._data.overlaps(rows, evaluations)

    def under(self, versions: Mapping[str, int]) -> "Grid":
        """The same study where some code versions are others."""
        if versions.items() <= self.versions.items():
            return self
        return Grid(self.study, self.name, {**self.versions, **versions}, self._data_lock)

    @property
    def products(self) -> dict[str, Product]:
        return self._catalogue.products

    @property
    def outside(self) -> dict[str, str]:
        """Products that come from outside, and what the lock's entry of each is called."""
        return self._catalogue.outside

    @property
    def unlocked(self) -> dict[str, str]:
        """Those of them that have no entry in the lock, and what the entry would be called."""
        return self._catalogue.unlocked

    @property
    def blocks(self) -> dict[str, list[Condition]]:
        """Conditions by block; see `Conditions`."""
        return self._conditions.blocks

    @property
    def throughput(self) -> dict[str, Key]:
        """The benchmark of training speed: method to its product's key; empty where the study has none."""
        return self._conditions.throughput

    @property
    def model(self) -> Product:
        """The base model."""
        return self._data.model

    def records(self, dataset: str) -> Product:
        """The records of a dataset."""
        return self._data.records(dataset)

    def overlaps(self, dataset: str) -> Product | None:
        """What the records of a dataset that is trained on share with what is asked; None where no product says it."""
        return self._overlaps.get(dataset)

    def is_at_hand(self, records: Key) -> bool:
        """Whether a dataset's records can be made without the network."""
        return records not in self.unlocked and not SOURCES[self.products[records].spec["source"]].needs_network

    def rows(self, setting: str, seed: int) -> Product:
        """The tokenized rows of a setting, and the composition of every batch."""
        return self._data.rows(setting, seed)

    def conditions(self, block: str, setting: str | None = None) -> list[Condition]:
        """The base model and the conditions of a block; in one setting where it is given.

        Args:
            block: ``grid``, ``sweep``, or one of the study's own blocks.
            setting: a setting's name, or None for all.
        """
        return [*self.blocks[BASE], *(c for c in self.blocks[block] if setting in (None, c.setting))]

    def makers(self, block: str, keys: Iterable[Key]) -> list[Key]:
        """What the study's jobs write so that these products of a block's conditions are there, at its grain."""
        return self._conditions.makers(block, keys)

    def find(self, name: str) -> Product:
        """The product called `name`: a key, or a key without its fingerprint or its leading ``runs/``.

        A sweep's products differ from the grid's in nothing but the fingerprint; a name without it is the grid's.

        Raises:
            UserError: the study has no such product, or several of that name.
        """
        if product := self.products.get(name):
            return product
        found = [product for product in self if product.name in (name, f"runs/{name}")]
        if not found:
            places = ", ".join(sorted(condition.product for condition in self.conditions(GRID))[:3])
            raise UserError(f"study {self.name!r} has no product {name!r}; it has, among others, {places}")
        meant = [product for product in found if product.key in self._conditions.outside_sweep] or found
        if len(meant) > 1:
            keys = ", ".join(product.key for product in meant)
            raise UserError(
                f"study {self.name!r} has several products {name!r}; one of them has to be named whole: {keys}"
            )
        return meant[0]

    def __iter__(self) -> Iterator[Product]:
        return iter(self._catalogue)
