"""What has to be made for what, in a store as it is at one moment.

The only reason to make a product is that it is missing. So a job waits for those of its inputs alone that are missing
too: what is there is no input, nothing above it can have it made again, and its timestamp never counts.
"""

from collections.abc import Collection, Iterable

from scripts.plan.grid import Grid
from scripts.plan.product import Key
from scripts.store.fingerprint import canonical
from scripts.store.store import Store


class Missing:
    """Asks the store once for each product: a plan must not change while it is made.

    Args:
        grid: the study.
        store: where its products are, or the keys of those that are to count as made.
    """

    def __init__(self, grid: Grid, store: Store | Collection[str]) -> None:
        self._grid = grid
        self._store = store
        self._made: dict[str, bool] = {}
        self._named: dict[str, dict[str, str]] = {}
        self.renamed: dict[Key, str] = {}
        """Products that are made under another name, to that; `Store.link` gives them theirs."""

    def is_made(self, key: Key) -> bool:
        """Whether a product is complete, be it under another name: of a setting or a method that was renamed.

        A family is complete if all that it is for is there: its runs, whatever its legs.
        """
        if key not in self._made:
            members = self._grid.products[key].members and self._grid.products[key].spec["members"]
            self._made[key] = (
                all(self.is_made(Key(member)) for member in members) if members else self._is_in_store(key)
            )
        return self._made[key]

    def _is_in_store(self, key: Key) -> bool:
        if isinstance(self._store, Collection):
            return key in self._store
        return self._store.is_made(key) or self._is_renamed(key, self._store)

    def _is_renamed(self, key: Key, store: Store) -> bool:
        place = key.partition("/")[0]
        if place not in self._named:
            self._named[place] = store.by_fingerprint(key)
        other = self._named[place].get(key.fingerprint, key)
        if other == key or (manifest := store.read(other)) is None:
            return False
        if canonical(manifest["spec"]) != canonical(self._grid.products[key].spec):
            return False
        self.renamed[key] = other
        # what it was made from gets its name too, where it is there: a figure reads how long its models were trained
        for read in self._grid.products[key].inputs:
            self.is_made(read)
        return True

    def members(self, family: Key) -> list[Key]:
        """Those members of a family that its job makes, in order: what is missing, and legs only if that needs them."""
        product = self._grid.products[family]
        needed = {Key(member) for member in product.spec["members"] if not self.is_made(Key(member))}
        for member in reversed(product.members):  # a leg stands before what starts from it
            if member in needed:
                needed.update(self._missing(self._grid.products[member].inputs))
        return [member for member in product.members if member in needed]

    def before(self, key: Key) -> list[Key]:
        """The products that have to be made before this one; none if it is made."""
        if self.is_made(key):
            return []
        product = self._grid.products[key]
        if not product.members:
            return self._missing(product.inputs)
        waits_for = {read for member in self.members(key) for read in self._missing(self._grid.products[member].inputs)}
        # at family grain a run is made by its family
        return [read for read in product.inputs if waits_for & {read, *self._grid.products[read].members}]

    def behind(self, jobs: Iterable[Key]) -> list[Key]:
        """These jobs' products and all that have to be made before them, each once."""
        found: dict[Key, None] = {}
        waiting = list(jobs)
        while waiting:
            job = waiting.pop()
            if job not in found:
                found[job] = None
                waiting += self.before(job)
        return list(found)

    def jobs(self, block: str, keys: Iterable[Key]) -> list[Key]:
        """What the study's jobs have to write so that these products of a block's conditions are there.

        At condition grain these are the missing products, at family grain their families.
        """
        return self._grid.makers(block, self._missing(keys))

    def _missing(self, keys: Iterable[Key]) -> list[Key]:
        return [key for key in keys if not self.is_made(key)]
