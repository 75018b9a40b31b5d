"""Tokenizes the records of a setting and writes its rows: which tokens stand in which row of which batch."""

from collections.abc import Container, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.components.templates import JOIN, PLAIN
from scripts.data import overlaps
from scripts.data.packing import FOUNDRY
from scripts.data.records import read_records

if TYPE_CHECKING:
    from scripts.data.encoding import Encoding

_RECORDS_AT_ONCE = 1000


def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
    """Writes what `scripts.data.batches.Batches` reads."""
    from scripts.data import batches
    from scripts.data.encoding import Encoding

    records, tokenizer_directory, *asked = context.inputs()
    left_out = overlaps.left_out(records, asked, spec["contamination"]["action"], out) if asked else frozenset()
    # a spec that does not say it is of a tokenizer that puts nothing before a text
    reading = spec.get("bos", "none"), spec.get("join", JOIN), spec.get("template", PLAIN)
    encoding = Encoding.read(tokenizer_directory, *reading)
    layout = {
        **{key: spec[key] for key in ("sequence_length", "batch_rows", "group_rows", "seed")},
        "eos": encoding.eos,
        "pad": encoding.pad,
        "vocab_size": encoding.size,
    }
    counts = {"overlapping": len(left_out)} if asked else {}
    if spec["regime"] == "cpt":
        return batches.write_cpt_rows(_documents(records, encoding, left_out), out, **layout) | counts
    ift = {key: spec[key] for key in ("packing", "packing_ratio", "max_epochs") if key in spec}
    examples = _examples(records, encoding, spec.get("packing", FOUNDRY), left_out)
    return batches.write_ift_rows(examples, out, ending=encoding.ending, **layout, **ift) | counts


def _documents(directory: Path, encoding: "Encoding", left_out: Container[int]) -> Iterator[list[int]]:
    for some in _records(directory, left_out, "text"):
        yield from encoding.documents([record["text"] for record in some])


def _examples(
    directory: Path, encoding: "Encoding", packing: str, left_out: Container[int]
) -> Iterator[tuple[list[int], list[int]]]:
    for some in _records(directory, left_out, "instruction", "response"):
        prompts, responses = zip(*map(encoding.form.example, some), strict=True)
        if packing == FOUNDRY:
            # llm-foundry leaves out what has no response; the text around one is none
            responses = tuple(text if record["response"] else "" for text, record in zip(responses, some, strict=True))
        yield from encoding.examples(prompts, responses)


def _records(directory: Path, left_out: Container[int], *fields: str) -> Iterator[list[dict[str, Any]]]:
    """The records, many at a time, each with a text in every one of some fields.

    Without those whose numbers, from 1, are to be left out.
    """
    lines = (record for number, record in enumerate(read_records(directory), start=1) if number not in left_out)
    while some := list(islice(lines, _RECORDS_AT_ONCE)):
        for field in fields:
            if any(not isinstance(record.get(field), str) for record in some):
                raise UserError(f"{directory}: every record must have the text field {field!r}")
        yield some
