"""Training records that share words with what a study asks or holds out.

The rule is GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix C): texts are words in lower case without
punctuation; a training record overlaps with an item if they share 13 words in a row, or all words of an item that has
8 to 12 (the bounds that the paper puts on the length); words that more than ten different training records share are a
phrase and count for nothing. GPT-3 cuts what is shared, and 200 characters around it, out of long documents; here the
whole record overlaps.
"""

import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.data.records import digest, read_records

LONGEST, SHORTEST = 13, 8
"""Words in a row that are compared; an item with fewer than the second is not."""
PHRASE = 10
"""In how many different training records words may stand and still count."""
MOST = 200_000_000
"""How many words of training records are compared where nothing but a warning depends on it: a few minutes' work."""
REPORT = "overlaps.jsonl"
"""Name of the list of the pairs among the bytes of a comparison, or of the rows whose job acts on it."""
PROSE = (
    "text", "instruction", "input", "response", "question", "answer", "choices", "prompt", "canonical_solution", "test",
    "activity_label", "ctx_a", "ctx_b", "endings", "sentence", "option1", "option2", "options", "turns",
)  # fmt: skip
"""The fields of items whose words count; others are names and numbers of the item."""

_NO_WORD = re.compile(r"[^\w\s]|_")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BITS = 24
_SHIFT = np.uint64(64 - _BITS)


@dataclass(frozen=True)
class Overlap:
    """A training record and an item; both are counted from 1 in their ``records.jsonl``."""

    record: int
    asked: str
    """The key of the item's records."""
    item: int
    words: str
    """The first words that both have."""


@dataclass
class Asked:
    """What is asked or held out, by the words of its items."""

    _words: list[list[str]] = field(default_factory=list)
    _names: list[tuple[str, int]] = field(default_factory=list)
    _grams: dict[int, dict[int, list[tuple[int, int]]]] = field(default_factory=lambda: defaultdict(dict))
    """Length and hash to the items that have the words, each with where they begin."""
    read: int = 0
    """How many records were read."""

    def add(self, name: str, items: Iterable[Mapping[str, Any]]) -> None:
        """Adds the items of a dataset."""
        for number, item in enumerate(items, start=1):
            words = words_of(item)
            size = min(LONGEST, len(words))
            if size < SHORTEST:
                continue
            self._words.append(words)
            self._names.append((name, number))
            for start, value in enumerate(_hashes(words, size).tolist()):
                self._grams[size].setdefault(value, []).append((len(self._words) - 1, start))

    def overlaps(self, records: Iterable[Mapping[str, Any]], most: float = math.inf) -> list[Overlap]:
        """Every pair of a record and an item that overlap, by record.

        Args:
            records: those that are trained on.
            most: the number of words after which no more of them are read; `read` says how many records were.
        """
        known = {size: _Known(np.array(sorted(grams), dtype=np.uint64)) for size, grams in self._grams.items()}
        left = most
        having: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(dict)  # of words: which records, by digest
        for self.read, record in enumerate(records, start=1):
            words, own = words_of(record), None
            for size, hashes in known.items():
                values = _hashes(words, size)
                for start in hashes.places(values):
                    gram = (size, int(values[start]))
                    if self._same(gram, words[start : start + size]):
                        own = digest(record) if own is None else own
                        found = having[gram]
                        if own in found or len(found) <= PHRASE:
                            found.setdefault(own, []).append(self.read)
            left -= len(words)
            if left < 0:
                break
        pairs: dict[tuple[int, int], Overlap] = {}
        for gram, found in having.items():
            if len(found) > PHRASE:
                continue
            for item, start in self._grams[gram[0]][gram[1]]:
                name, place = self._names[item]
                words = self._words[item][start : start + gram[0]]
                for number in (number for numbers in found.values() for number in numbers):
                    pairs.setdefault((number, item), Overlap(number, name, place, " ".join(words)))
        return [pairs[pair] for pair in sorted(pairs)]

    def _same(self, gram: tuple[int, int], words: Sequence[str]) -> bool:
        """Whether these are the words, and not others of the same hash."""
        item, start = self._grams[gram[0]][gram[1]][0]
        return self._words[item][start : start + gram[0]] == words


class _Known:
    """Hashes to look for."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes  # sorted
        self._may_be = np.zeros(1 << _BITS, dtype=np.bool_)
        self._may_be[hashes >> _SHIFT] = True

    def places(self, values: NDArray[np.uint64]) -> list[int]:
        """Where in `values` one of them stands."""
        # nearly all are none, and a table of their first bits says so at once
        maybe = np.flatnonzero(self._may_be[values >> _SHIFT])
        nearest = np.searchsorted(self._hashes, values[maybe]).clip(max=len(self._hashes) - 1)
        found: list[int] = maybe[self._hashes[nearest] == values[maybe]].tolist()
        return found


def words_of(record: Mapping[str, Any]) -> list[str]:
    """The words of all texts of a record, in the order of its fields."""
    return _NO_WORD.sub("", "\n".join(_texts(record)).lower()).split()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _hashes(words: Sequence[str], size: int) -> NDArray[np.uint64]:
    """A hash of the `size` words that begin at each place, uint64 [places]; the same within a process alone."""
    count = len(words) - size + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    each = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).astype(np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for place in range(size):
        total = total * _BASE + each[place : place + count]
    return total


def compare(trained: Path, asked: Iterable[Path], most: float = math.inf) -> tuple[list[Overlap], int]:
    """The overlaps of training records with what is asked, and how many of the records were read.

    Args:
        trained: the records' directory in the store.
        asked: those of what is asked.
        most: see `Asked.overlaps`.
    """
    index = Asked()
    for directory in asked:
        items = read_records(directory)
        index.add(f"data/records/{directory.name}", ({name: item.get(name) for name in PROSE} for item in items))
    return index.overlaps(read_records(trained), most), index.read


def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
    """Writes the report of all pairs, and says it where there are some.

    Returns:
        `compared`, how many training records were; `overlapping`, how many of them overlap with what is asked.
    """
    trained, *asked = context.inputs()
    found, read = compare(trained, asked, MOST)
    (out / REPORT).write_text(report(found), encoding="utf-8")
    if found:
        print(
            f"warning: {context.key}: {said(found)}; {context.key}/{REPORT} in the store has every pair",
            file=sys.stderr,
        )
    return {"compared": read, "overlapping": len({overlap.record for overlap in found})}


def report(overlaps: Iterable[Overlap]) -> str:
    """Every pair as a line of JSON."""
    return "".join(json.dumps(vars(overlap), ensure_ascii=False) + "\n" for overlap in overlaps)


def left_out(trained: Path, asked: Iterable[Path], action: str, out: Path) -> frozenset[int]:
    """The numbers, from 1, of the training records that overlap; the report of the pairs is written into `out`.

    Raises:
        UserError: there are some, and `action` is ``refuse``.
    """
    found, _ = compare(trained, asked)
    if found and action == "refuse":
        raise UserError(
            f"{said(found)}; in the study `contamination: drop` leaves them out, and `contamination: warn` only says so"
        )
    (out / REPORT).write_text(report(found), encoding="utf-8")
    return frozenset(overlap.record for overlap in found)


def said(overlaps: Sequence[Overlap]) -> str:
    """What a sentence says of overlaps, of which there is one at least."""
    first, count = overlaps[0], len({overlap.record for overlap in overlaps})
    return (
        f"{count:,} of the training records share {SHORTEST} to {LONGEST} words in a row with what is asked or held "
        f"out; for one, record {first.record} with item {first.item} of {first.asked} ({first.words!r})"
    )
