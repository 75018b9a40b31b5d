"""Which examples share a row, a group and a step: pure functions of the examples' lengths and a seed.

A row is a bin of `sequence_length` tokens, a group is the rows whose loss is averaged as one unit (the
paper's device microbatch), a step is `batch_rows` rows. There are four ways to fill rows:

foundry  What llm-foundry 0.8 does for a device microbatch. Before anything is packed it drops the examples that have
         an empty prompt or response, or no token of the response in the first `sequence_length` tokens
         (`is_valid_ift_example`); the others it cuts off there (`Seq2SeqFinetuningCollator`). Then it packs, first fit
         from the longest to the shortest, keeps the fullest bins, and carries all others on (`BinPackCollator`). It
         differs from that in five things:
         - There, every device carries left-over bins of its own, so what is in a row depends on the number of devices.
           Here they pass from group to group, in the order of the groups, whatever machine trains later.
         - There, they pass on to the next epoch. Here an epoch ends with them, so no example is trained twice in one.
         - The order of the examples is that of `shuffled`, and not of its sampler.
         - Rows are padded at the right; there, where the tokenizer says.
         - eos stands behind every response. There, none is put behind one whose own last token it is already, which no
           text has here: what looks like a special token is text.
none     One example a row.
bfd      Best-fit decreasing over the whole epoch (TRL's `bfd`): from the longest example to the shortest, each goes
         into the fullest row that has room, and the rows are then shuffled. Examples of one length meet other
         neighbours in every epoch. Examples longer than a row are dropped, where TRL cuts their ends off.
concat   The shuffled examples end to end, cut into rows (TRL's `wrapped`). Examples are cut where rows end.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

FOUNDRY = "foundry"


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
    """One pass: every example id is in exactly one of `rows`, `too_long`, `incomplete_step`, `left_over` and
    `without_loss`; in `rows` once, unless it was cut into two of them (concat)."""

    rows: list[tuple[int, ...]]
    """The examples of each row, step after step (`batch_rows` rows each) and group after group."""
    too_long: list[int]
    """Longer than a row (bfd, none)."""
    incomplete_step: list[int]
    """The end of the shuffled epoch, too few for a step."""
    left_over: list[int]
    """In bins that no group kept before the epoch ended."""
    cuts: list[int] | None = None
    """Where examples are cut (concat): how many tokens of each row's first example stand in the row before. A row's
    last example ends where the row does."""
    without_loss: list[int] = field(default_factory=list)
    """Those that would give no loss (foundry). One that is longer than a row fills a row with its first tokens."""


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
    lengths: NDArray[np.int64],
    layout: Layout,
    *,
    seed: int,
    epoch: int,
    packing: str = FOUNDRY,
    lossless: NDArray[np.bool_] | None = None,
) -> Epoch:
    """The composition of every row of one epoch.

    Every epoch is shuffled on its own and begins with no carried bins, so it does not need the ones before. All
    epochs have the same number of rows.

    Args:
        lengths: of all examples in tokens, with eos, int [examples].
        lossless: which of them `without_loss` says it of, bool [examples]; none, if None. Only foundry drops them.

    Raises:
        ValueError: an unknown `packing`.
    """
    if packing not in PACKINGS:
        raise ValueError(f"packing is {packing!r}; allowed are {', '.join(PACKINGS)}")
    dropped = np.zeros(len(lengths), dtype=np.bool_) if lossless is None else lossless
    return PACKINGS[packing](lengths, dropped, layout, seed, epoch)


def without_loss(
    lengths: NDArray[np.int64], prompt_lengths: NDArray[np.int64], sequence_length: int, ending: int = 1
) -> NDArray[np.bool_]:
    """Which examples llm-foundry leaves out: without a prompt, without a response, or with a prompt that fills a row.

    Args:
        lengths: in tokens, with what ends the response, int [examples].
        prompt_lengths: how many of them are prompt, int [examples].
        ending: how many of them end the response.
    """
    empty = (prompt_lengths == 0) | (lengths - prompt_lengths <= ending)
    found: NDArray[np.bool_] = empty | (prompt_lengths >= sequence_length)
    return found


_Lengths: TypeAlias = NDArray[np.int64]
_Lossless: TypeAlias = NDArray[np.bool_]


def _foundry(lengths: _Lengths, lossless: _Lossless, layout: Layout, seed: int, epoch: int) -> Epoch:
    sizes = np.minimum(lengths, layout.sequence_length)
    rows, incomplete_step, left_over = _first_fit(np.flatnonzero(~lossless), sizes, layout, seed, epoch)
    return Epoch(
        rows=rows,
        too_long=[],
        incomplete_step=incomplete_step,
        left_over=left_over,
        without_loss=np.flatnonzero(lossless).tolist(),
    )


def _first_fit(
    fits: NDArray[np.intp], sizes: _Lengths, layout: Layout, seed: int, epoch: int
) -> tuple[list[tuple[int, ...]], list[int], list[int]]:
    """The rows of an epoch group by group, the examples behind the last whole step, and those that no group kept."""
    order = fits[shuffled(len(fits), seed, epoch)].tolist()
    used = layout.steps_per_epoch(len(order)) * layout.examples_per_step
    lengths: list[int] = sizes.tolist()
    rows: list[tuple[int, ...]] = []
    carried: list[Bin] = []
    for start in range(0, used, layout.examples_per_group):
        group = order[start : start + layout.examples_per_group]
        kept, carried = pack_group(group, lengths, carried, rows=layout.group_rows, capacity=layout.sequence_length)
        rows.extend(row.examples for row in kept)
    return rows, order[used:], [example for lost in carried for example in lost.examples]


def _none(lengths: _Lengths, lossless: _Lossless, layout: Layout, seed: int, epoch: int) -> Epoch:
    fits = np.flatnonzero(lengths <= layout.sequence_length)
    # with as many examples as rows, the packer gives each a row of its own
    rows, incomplete_step, left_over = _first_fit(fits, lengths, replace(layout, packing_ratio=1), seed, epoch)
    too_long = np.flatnonzero(lengths > layout.sequence_length).tolist()
    return Epoch(rows=rows, too_long=too_long, incomplete_step=incomplete_step, left_over=left_over)


def _best_fit(lengths: _Lengths, lossless: _Lossless, layout: Layout, seed: int, epoch: int) -> Epoch:
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


def _concatenated(lengths: _Lengths, lossless: _Lossless, layout: Layout, seed: int, epoch: int) -> Epoch:
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


PACKINGS: Mapping[str, Callable[[_Lengths, _Lossless, Layout, int, int], Epoch]] = {
    FOUNDRY: _foundry,
    "none": _none,
    "bfd": _best_fit,
    "concat": _concatenated,
}
"""Name to what composes an epoch from lengths, what gives no loss, layout, seed and epoch."""
