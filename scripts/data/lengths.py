"""How long examples are against the rows that they are put into, said before anything is made of them."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from scripts.common.errors import UserError
from scripts.data.encoding import Encoding
from scripts.data.packing import FOUNDRY

_AT_ONCE = 1000


def said(records: Iterable[tuple[str, Mapping[str, Any]]], encoding: Encoding, packing: str, row: int) -> str | None:
    """What a sentence says of examples that are longer than a row of `row` tokens; None where there is none.

    Args:
        records: examples, each with where it stands.

    Raises:
        UserError: of every one the prompt alone fills a row, so that there is nothing to train on.
    """
    total = longer = without_loss = 0
    first = ""
    left = iter(records)
    while some := list(islice(left, _AT_ONCE)):
        prompts, responses = zip(*(encoding.form.example(record) for _, record in some), strict=True)
        for (place, _), (prompt, response) in zip(some, encoding.examples(prompts, responses), strict=True):
            total += 1
            tokens = len(prompt) + len(response) + len(encoding.ending)
            if tokens > row:
                first = first or f"{place}, has {tokens:,}"
                longer += 1
                without_loss += len(prompt) >= row
    if not longer:
        return None
    if without_loss == total:
        raise UserError(
            f"the prompt alone of every example is longer than a row of {row:,} tokens (sequence_length), so that no "
            f"response can be trained on; the first, {first}"
        )
    what = "the end of each is cut off" if packing == FOUNDRY else "they are left out"
    more = f"; of {without_loss:,} that is the whole response" if without_loss and packing == FOUNDRY else ""
    return (
        f"{longer:,} of {total:,} examples are longer than a row of {row:,} tokens (sequence_length), and {what}"
        f"{more}; the first, {first}"
    )
