"""Rows on disk: written once, they say what every batch of a run holds.

A directory of rows has a meta.json and, by regime,

    cpt   rows.npy           [rows, sequence_length] ids of shuffled documents, eos after each, cut into rows
    ift   tokens.npy         the ids of all examples, one after the other: prompt, response, what ends it
          offsets.npy        [examples + 1] where each example starts
          prompt_lengths.npy [examples] how many of its tokens are prompt
          row_examples.npy   the example ids of all rows of all epochs, one row after the other
          row_offsets.npy    [epochs * steps_per_epoch * batch_rows + 1] where each row starts in it
          row_cuts.npy       [rows of all epochs] where examples are cut into rows (packing: concat): how many tokens
                             of a row's first example stand in the row before

Token ids are uint16 when the vocabulary has fewer than 65536 entries, else uint32; all else is int64.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.common.errors import UserError
from scripts.data.packing import FOUNDRY, PACKINGS, Epoch, Layout, check_groups, compose_epoch, shuffled, without_loss

IGNORED = -100
"""The label of a position that has no loss (the convention of transformers)."""


def write_cpt_rows(
    documents: Iterable[list[int]],
    out: Path,
    *,
    sequence_length: int,
    batch_rows: int,
    group_rows: int,
    eos: int,
    pad: int,
    vocab_size: int,
    seed: int,
) -> dict[str, int]:
    """Shuffle tokenized documents, join them with `eos` after each, cut them into rows, write them to `out`.

    Documents are read once and never held in memory together. Returns the counts that meta.json keeps:
    tokens (with eos) = rows * sequence_length + dropped_tail_tokens. Raises UserError when the documents do
    not fill one batch.
    """
    check_groups(batch_rows, group_rows)
    spill = out / "documents.tmp"
    offsets = _append_all(([*document, eos] for document in documents), spill, vocab_size)
    tokens = int(offsets[-1])
    count = tokens // sequence_length
    if count < batch_rows:
        raise UserError(
            f"the documents give {count} rows of {sequence_length} tokens, but one batch needs {batch_rows}"
        )
    source = np.memmap(spill, dtype=_token_type(vocab_size), mode="r")
    rows = np.lib.format.open_memmap(out / "rows.npy", mode="w+", dtype=source.dtype, shape=(count, sequence_length))
    flat = rows.reshape(-1)
    position = 0
    for document in shuffled(len(offsets) - 1, seed, 0):
        ids = source[offsets[document] : offsets[document + 1]][: flat.size - position]
        flat[position : position + ids.size] = ids
        position += ids.size
    rows.flush()
    spill.unlink()
    counts = {
        "documents": len(offsets) - 1,
        "tokens": tokens,
        "rows": count,
        "dropped_tail_tokens": tokens - count * sequence_length,
    }
    _write_meta(
        out,
        regime="cpt",
        sequence_length=sequence_length,
        batch_rows=batch_rows,
        group_rows=group_rows,
        rows=count,
        eos=eos,
        pad=pad,
        seed=seed,
        counts=counts,
    )
    return counts


def write_ift_rows(
    examples: Iterable[tuple[list[int], list[int]]],
    out: Path,
    *,
    sequence_length: int,
    batch_rows: int,
    group_rows: int,
    max_epochs: int,
    eos: int,
    pad: int,
    vocab_size: int,
    seed: int,
    packing: str = FOUNDRY,
    packing_ratio: float = 1,
    ending: Sequence[int] = (),
) -> dict[str, Any]:
    """Write tokenized (prompt, response) pairs, and who shares a row with whom in each epoch, to `out`.

    Behind each response stands `ending`, `eos` alone where it is not given.
    `packing` is one of `scripts.data.packing`; `packing_ratio` belongs to foundry alone.
    Epoch e is the same whatever `max_epochs` is: a shorter run reads the first epochs of a longer one.
    Examples are read once and never held in memory together. Returns the counts that meta.json keeps; in
    every item of "per_epoch", in examples as in tokens (with what ends them),
    all = trained + dropped_too_long + dropped_incomplete_step + dropped_left_over + dropped_without_loss.
    The last is there only where it is not 0. The ends that foundry cuts off are tokens of dropped_too_long, and their
    examples are trained, or dropped for another reason.
    Raises UserError for an unknown packing, and when the examples that can be trained on do not fill one step.
    """
    if packing not in PACKINGS:
        raise UserError(f"the packing {packing!r} is unknown; allowed are {', '.join(PACKINGS)}")
    layout = Layout(sequence_length, batch_rows, group_rows, packing_ratio)
    prompt_lengths = array("q")
    behind = list(ending) or [eos]

    def sequences() -> Iterator[list[int]]:
        for prompt, response in examples:
            prompt_lengths.append(len(prompt))
            yield [*prompt, *response, *behind]

    spill = out / "examples.tmp"
    offsets = _append_all(sequences(), spill, vocab_size)
    lengths = np.diff(offsets)
    prompts = np.array(prompt_lengths, dtype=np.int64)
    lossless = without_loss(lengths, prompts, sequence_length, len(behind))
    row_examples, row_sizes, row_cuts = array("q"), array("q"), array("q")
    per_epoch = []
    for number in range(max_epochs):
        epoch = compose_epoch(lengths, layout, seed=seed, epoch=number, packing=packing, lossless=lossless)
        if not epoch.rows:
            if packing == FOUNDRY:
                fitting, can = int(np.count_nonzero(~lossless)), "have a token to learn in"
            else:
                fitting, can = int(np.count_nonzero(lengths <= sequence_length)), "fit into"
            raise UserError(
                f"{fitting} of {len(lengths)} examples {can} a row of {sequence_length} tokens; "
                f"packed as {packing!r} they do not fill the {batch_rows} rows of one step"
            )
        for row in epoch.rows:
            row_examples.extend(row)
            row_sizes.append(len(row))
        row_cuts.extend(epoch.cuts or [])
        per_epoch.append(_epoch_counts(epoch, lengths, sequence_length, packing))
    np.save(out / "tokens.npy", np.memmap(spill, dtype=_token_type(vocab_size), mode="r"))
    spill.unlink()
    np.save(out / "offsets.npy", offsets)
    np.save(out / "prompt_lengths.npy", prompts)
    np.save(out / "row_examples.npy", np.array(row_examples, dtype=np.int64))
    np.save(out / "row_offsets.npy", _starts(row_sizes))
    if row_cuts:
        np.save(out / "row_cuts.npy", np.array(row_cuts, dtype=np.int64))
    counts = {"examples": len(lengths), "tokens": int(offsets[-1]), "per_epoch": per_epoch}
    _write_meta(
        out,
        regime="ift",
        sequence_length=sequence_length,
        batch_rows=batch_rows,
        group_rows=group_rows,
        **({"packing_ratio": packing_ratio} if packing == FOUNDRY else {"packing": packing}),
        steps_per_epoch=len(row_sizes) // (batch_rows * max_epochs),
        epochs=max_epochs,
        eos=eos,
        pad=pad,
        seed=seed,
        counts=counts,
    )
    return counts


class Batches:
    """The batches of a directory of rows; a batch is a function of the step alone.

    sequence_length, batch_rows, group_rows: the shape. Group g of a batch is its rows g * group_rows to
    (g + 1) * group_rows - 1. steps_per_epoch and epochs are None for cpt, whose rows go round without end.
    """

    def __init__(self, directory: Path) -> None:
        meta = json.loads((directory / "meta.json").read_text())
        self.regime: str = meta["regime"]
        self.sequence_length: int = meta["sequence_length"]
        self.batch_rows: int = meta["batch_rows"]
        self.group_rows: int = meta["group_rows"]
        self.steps_per_epoch: int | None = meta.get("steps_per_epoch")
        self.epochs: int | None = meta.get("epochs")
        self.counts: dict[str, Any] = meta["counts"]
        self._pad: int = meta["pad"]
        self._eos: int = meta["eos"]
        names = ["rows"] if self.regime == "cpt" else _IFT_ARRAYS
        self._arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in names}
        cuts = directory / "row_cuts.npy"
        self._cuts: NDArray[np.int64] | None = np.load(cuts, mmap_mode="r") if cuts.exists() else None

    def batch(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(input_ids, labels) of a step counted from 0, both int64 [batch_rows, sequence_length].

        labels[:, t] is the token at t (the model shifts), or IGNORED. cpt: every token counts, and the first
        row follows the last. ift: padding (at the right, so a causal model needs no mask), prompts and the
        first token of every example do not count. Raises IndexError for a step that was never composed.
        """
        first = self._first_row(step)
        if self.regime == "cpt":
            input_ids = self._cpt_rows(first)
            return input_ids, input_ids.copy()
        input_ids = np.full((self.batch_rows, self.sequence_length), self._pad, dtype=np.int64)
        labels = np.full_like(input_ids, IGNORED)
        for row in range(self.batch_rows):
            for example, cut, begin, end in self._pieces(first + row):
                ids = self._arrays["tokens"][self._arrays["offsets"][example] + cut :][: end - begin]
                # What stands before an example belongs to another one, so its first token is never a target.
                silent = min(max(1, int(self._arrays["prompt_lengths"][example]) - cut), end - begin)
                input_ids[row, begin:end] = ids
                labels[row, begin + silent : end] = ids[silent:]
        return input_ids, labels

    def segments(self, step: int) -> NDArray[np.int64]:
        """Which example or document a position of a batch belongs to, int64 [batch_rows, sequence_length].

        Counted from 0 in every row; eos belongs to the document that it ends. ift: padding is a segment of its own.
        cpt: rows are cut without regard to documents, so a row's first and last segment may be parts of one.
        Raises IndexError as `batch` does.
        """
        first = self._first_row(step)
        if self.regime == "cpt":
            ends: NDArray[np.int64] = (self._cpt_rows(first) == self._eos).astype(np.int64)
            return ends.cumsum(axis=1, dtype=np.int64) - ends
        numbers = np.empty((self.batch_rows, self.sequence_length), dtype=np.int64)
        for row in range(self.batch_rows):
            number = 0
            for *_, begin, end in self._pieces(first + row):
                numbers[row, begin:end] = number
                number += 1
            numbers[row, end:] = number
        return numbers

    def _first_row(self, step: int) -> int:
        if step < 0:
            raise IndexError(f"step {step} is negative")
        if self.steps_per_epoch is not None and self.epochs is not None and step >= self.steps_per_epoch * self.epochs:
            raise IndexError(f"step {step} lies behind epoch {self.epochs} of {self.steps_per_epoch} steps")
        return step * self.batch_rows

    def _cpt_rows(self, first: int) -> NDArray[np.int64]:
        rows = self._arrays["rows"]
        taken: NDArray[np.int64] = rows[np.arange(first, first + self.batch_rows) % len(rows)].astype(np.int64)
        return taken

    def _pieces(self, row: int) -> Iterator[tuple[int, int, int, int]]:
        """What stands in a row of the composition, from left to right: (example, its tokens before, begin, end)."""
        offsets = self._arrays["offsets"]
        begin, end = self._arrays["row_offsets"][row : row + 2]
        cut = 0 if self._cuts is None else int(self._cuts[row])
        position = 0
        for example in self._arrays["row_examples"][begin:end].tolist():
            size = int(offsets[example + 1] - offsets[example]) - cut
            stop = min(position + size, self.sequence_length)
            yield example, cut, position, stop
            position, cut = stop, 0


_IFT_ARRAYS = ["tokens", "offsets", "prompt_lengths", "row_examples", "row_offsets"]


def _token_type(vocab_size: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if vocab_size < 65536 else np.uint32)


def _append_all(sequences: Iterable[list[int]], path: Path, vocab_size: int) -> NDArray[np.int64]:
    """Write sequences of ids to `path`, one raw after the other; returns where each starts, and the end."""
    sizes = array("q")
    with path.open("wb") as file:
        for sequence in sequences:
            ids = np.array(sequence, dtype=np.int64)
            if ids.min() < 0 or ids.max() >= vocab_size:
                raise ValueError(f"a token id lies outside the vocabulary of {vocab_size}")
            file.write(ids.astype(_token_type(vocab_size)).tobytes())
            sizes.append(ids.size)
    return _starts(sizes)


def _starts(sizes: "array[int]") -> NDArray[np.int64]:
    """Offsets of consecutive pieces of the given sizes, with the end as last: int64 [sizes + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, dtype=np.int64))])


def _epoch_counts(epoch: Epoch, lengths: NDArray[np.int64], sequence_length: int, packing: str) -> dict[str, int]:
    """How many examples and tokens an epoch trains on, and how many it drops for which reason."""
    whole = lengths
    if packing == FOUNDRY:
        lengths = np.minimum(lengths, sequence_length)
    parts = {
        "trained": {example for row in epoch.rows for example in row},
        "dropped_too_long": epoch.too_long,
        "dropped_incomplete_step": epoch.incomplete_step,
        "dropped_left_over": epoch.left_over,
        **({"dropped_without_loss": epoch.without_loss} if epoch.without_loss else {}),
    }
    counts = {}
    for name, members in parts.items():
        counts[f"{name}_examples"] = len(members)
        counts[f"{name}_tokens"] = int(lengths[np.array([*members], dtype=np.int64)].sum())
    counts["dropped_too_long_tokens"] += int((whole - lengths).sum())
    if epoch.cuts is not None:
        # The last example may go on behind the last row: it counts as trained, but that end of it does not.
        behind = counts["trained_tokens"] - len(epoch.rows) * sequence_length
        counts["trained_tokens"] -= behind
        counts["dropped_incomplete_step_tokens"] += behind
    return counts


def _write_meta(out: Path, **meta: Any) -> None:
    (out / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
