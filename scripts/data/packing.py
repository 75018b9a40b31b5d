"""Which examples share a row, a group and a step: pure functions of the examples' lengths and a seed.

A row is a bin of `sequence_length` tokens, a group is the rows whose loss is averaged as one unit (the
paper's device microbatch), a step is `batch_rows` rows. There are four ways to fill rows:

foundry  What llm-foundry's `BinPackCollator` does for a device microbatch (llmfoundry/data/packing.py,
         `first_fit_bin_packing`), with two differences. There, every device carries left-over bins of its own, so
         what is in a row depends on the number of devices; here they pass from group to group, in the order of the
         groups, whatever machine trains later. And there they pass on to the next epoch; here an epoch ends with
         them, so that no example is trained twice in one.
none     One example a row.
bfd      Best-fit decreasing over the whole epoch (TRL's `bfd`): from the longest example to the shortest, each goes
         into the fullest row that has room, and the rows are then shuffled. Examples of one length meet other
         neighbours in every epoch. Examples longer than a row are dropped, where TRL cuts their ends off.
concat   The shuffled examples end to end, cut into rows (TRL's `wrapped`). Examples are cut where rows end.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CARRIED_BINS_PER_ROW = 10
"""How many left-over bins a group hands on, per row; the emptiest beyond that are dropped (llm-foundry)."""


class Bin(NamedTuple):
    """Examples that share a row: their total length in tokens, and their ids in the order of the row."""

    size: int
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How rows are made: tokens a row, rows a step, rows a group, and (foundry) raw examples taken per row.

    Raises ValueError when the rows of a step are not whole groups, or there are fewer examples than rows.
    """

    sequence_length: int
    batch_rows: int
    group_rows: int
    packing_ratio: float = 1

    def __post_init__(self) -> None:
        check_groups(self.batch_rows, self.group_rows)
        if self.packing_ratio < 1:
            raise ValueError(f"packing_ratio is {self.packing_ratio}, but every row needs an example")

    @property
    def examples_per_group(self) -> int:
        """Rounded down, as llm-foundry does: ratio 3.1 takes 18 examples for 6 rows."""
        return int(self.group_rows * self.packing_ratio)

    @property
    def examples_per_step(self) -> int:
        return self.batch_rows // self.group_rows * self.examples_per_group

    def steps_per_epoch(self, examples: int) -> int:
        """Whole steps that `examples` examples give; what is over is dropped."""
        return examples // self.examples_per_step


@dataclass(frozen=True)
class Epoch:
    """One pass: every example id is in exactly one of the first four fields; in `rows` once, unless it was cut."""

    rows: list[tuple[int, ...]]
    """The examples of each row, step after step (`batch_rows` rows each) and group after group."""
    too_long: list[int]
    """Longer than a row."""
    incomplete_step: list[int]
    """The end of the shuffled epoch, too few for a step."""
    left_over: list[int]
    """In bins that no group kept before the epoch ended."""
    cuts: list[int] | None = None
    """Where examples are cut (concat): how many tokens of each row's first example stand in the row before. A row's
    last example ends where the row does."""


def check_groups(batch_rows: int, group_rows: int) -> None:
    """Raise ValueError unless a step of `batch_rows` rows is made of whole groups of `group_rows`."""
    if group_rows < 1 or batch_rows < group_rows or batch_rows % group_rows:
        raise ValueError(f"batch_rows is {batch_rows}, which is not a multiple of group_rows, {group_rows}")


def shuffled(count: int, seed: int, epoch: int, *purpose: int) -> NDArray[np.intp]:
    """A permutation of range(count), int [count], that only `seed`, `epoch` and `purpose` (none, or one) decide.

    Sorts the raw 64-bit stream of PCG64, which numpy promises never to change; `Generator.permutation` may
    change with a numpy version, and what a batch holds must not.
    """
    keys = np.random.PCG64([seed, epoch, *purpose]).random_raw(count)
    return np.argsort(keys, kind="stable")


def pack_group(
    examples: Iterable[int], lengths: Sequence[int], carried: Sequence[Bin], *, rows: int, capacity: int
) -> tuple[list[Bin], list[Bin]]:
    """Pack the examples of one group into bins of `capacity` tokens: (the `rows` fullest bins, the others).

    From the longest example to the shortest, each goes into the first bin that has room, the carried bins
    first. A bin that receives an example moves to the end of the line. As soon as the examples that remain
    are just enough to give every row a bin of its own, each of them opens one, so that no row stays empty.
    Both results are sorted from the fullest bin to the emptiest; ties keep their order. `examples` and
    `carried` together are at least `rows`.
    """
    bins = list(carried)
    longest_first = sorted(examples, key=lambda example: lengths[example], reverse=True)
    for position, example in enumerate(longest_first):
        length = lengths[example]
        fitting = None
        if len(longest_first) - position > rows - len(bins):
            fitting = next((i for i, candidate in enumerate(bins) if candidate.size + length <= capacity), None)
        chosen = Bin(0, ()) if fitting is None else bins.pop(fitting)
        bins.append(Bin(chosen.size + length, (*chosen.examples, example)))
    bins.sort(key=lambda candidate: candidate.size, reverse=True)
    return bins[:rows], bins[rows:]


def pack_best_fit(examples: Iterable[int], lengths: Sequence[int], *, capacity: int) -> list[tuple[int, ...]]:
    """Best-fit decreasing: the examples of every bin of `capacity` tokens, bins in the order they were opened.

    From the longest example to the shortest, each goes into the bin with the least room that is enough; among
    bins with the same room, into the one that has had it longest; and opens a bin where none has room. Ties of
    length keep their order.
    """
    bins: list[list[int]] = []
    waiting: dict[int, deque[int]] = {}  # room to the bins that have it
    rooms: list[int] = []  # the keys of `waiting`, sorted
    for example in sorted(examples, key=lambda example: lengths[example], reverse=True):
        length = lengths[example]
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room, chosen = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[place]
            chosen = waiting[room].popleft()
            if not waiting[room]:
                del waiting[room], rooms[place]
        bins[chosen].append(example)
        if room - length not in waiting:
            waiting[room - length] = deque()
            insort(rooms, room - length)
        waiting[room - length].append(chosen)
    return [tuple(members) for members in bins]


def compose_epoch(
    lengths: NDArray[np.int64], layout: Layout, *, seed: int, epoch: int, packing: str = "foundry"
) -> Epoch:
    """The composition of every row of one epoch, from the lengths of all examples in tokens, int [examples].

    Every epoch is shuffled on its own and begins with no carried bins, so it does not need the ones before. All
    epochs have the same number of rows. Raises ValueError for an unknown `packing`.
    """
    if packing not in PACKINGS:
        raise ValueError(f"packing is {packing!r}; allowed are {', '.join(PACKINGS)}")
    return PACKINGS[packing](lengths, layout, seed, epoch)


def _foundry(lengths: NDArray[np.int64], layout: Layout, seed: int, epoch: int) -> Epoch:
    fits = np.flatnonzero(lengths <= layout.sequence_length)
    order = fits[shuffled(len(fits), seed, epoch)].tolist()
    used = layout.steps_per_epoch(len(order)) * layout.examples_per_step
    sizes: list[int] = lengths.tolist()
    rows: list[tuple[int, ...]] = []
    carried: list[Bin] = []
    left_over: list[int] = []
    for start in range(0, used, layout.examples_per_group):
        group = order[start : start + layout.examples_per_group]
        kept, others = pack_group(group, sizes, carried, rows=layout.group_rows, capacity=layout.sequence_length)
        rows.extend(row.examples for row in kept)
        limit = CARRIED_BINS_PER_ROW * layout.group_rows
        carried = others[:limit]
        left_over.extend(example for lost in others[limit:] for example in lost.examples)
    left_over.extend(example for lost in carried for example in lost.examples)
    return Epoch(
        rows=rows,
        too_long=np.flatnonzero(lengths > layout.sequence_length).tolist(),
        incomplete_step=order[used:],
        left_over=left_over,
    )


def _none(lengths: NDArray[np.int64], layout: Layout, seed: int, epoch: int) -> Epoch:
    # with as many examples as rows, the packer gives each a row of its own
    return _foundry(lengths, replace(layout, packing_ratio=1), seed, epoch)


def _best_fit(lengths: NDArray[np.int64], layout: Layout, seed: int, epoch: int) -> Epoch:
    fits = np.flatnonzero(lengths <= layout.sequence_length)
    order = fits[shuffled(len(fits), seed, epoch)].tolist()
    bins = pack_best_fit(order, lengths.tolist(), capacity=layout.sequence_length)
    rows = [bins[row] for row in shuffled(len(bins), seed, epoch, 1)]
    used = len(rows) // layout.batch_rows * layout.batch_rows
    return Epoch(
        rows=rows[:used],
        too_long=np.flatnonzero(lengths > layout.sequence_length).tolist(),
        incomplete_step=[example for row in rows[used:] for example in row],
        left_over=[],
    )


def _concatenated(lengths: NDArray[np.int64], layout: Layout, seed: int, epoch: int) -> Epoch:
    order = shuffled(len(lengths), seed, epoch)
    ends = np.cumsum(lengths[order])
    tokens = int(ends[-1]) if len(ends) else 0
    steps = tokens // (layout.sequence_length * layout.batch_rows)
    begins = np.arange(steps * layout.batch_rows) * layout.sequence_length
    first = np.searchsorted(ends, begins, side="right")
    last = np.searchsorted(ends, begins + layout.sequence_length, side="left")
    members = order.tolist()
    return Epoch(
        rows=[tuple(members[a : b + 1]) for a, b in zip(first.tolist(), last.tolist(), strict=True)],
        too_long=[],
        incomplete_step=members[int(last[-1]) + 1 if steps else 0 :],
        left_over=[],
        cuts=(begins - (ends - lengths[order])[first]).tolist(),
    )


PACKINGS: Mapping[str, Callable[[NDArray[np.int64], Layout, int, int], Epoch]] = {
    "foundry": _foundry,
    "none": _none,
    "bfd": _best_fit,
    "concat": _concatenated,
}
"""Name to what composes an epoch from lengths, layout, seed and epoch."""
