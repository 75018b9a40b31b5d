"""Tokenizes the records of a setting and writes its rows: which tokens stand in which row of which batch."""

from collections.abc import Callable, Container, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.components.templates import PLAIN, record_prompt, response_text
from scripts.data import overlaps
from scripts.data.packing import FOUNDRY
from scripts.data.records import read_records

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_RECORDS_AT_ONCE = 1000


def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
    """Writes what `scripts.data.batches.Batches` reads."""
    from tokenizers import Tokenizer

    from scripts.data import batches
    from scripts.data.tokenizer import EOS, PAD

    records, tokenizer_directory, *asked = context.inputs()
    left_out = overlaps.left_out(records, asked, spec["contamination"]["action"], out) if asked else frozenset()
    tokenizer = Tokenizer.from_file(str(tokenizer_directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # a text that contains "</s>" is text
    eos, pad = tokenizer.token_to_id(EOS), tokenizer.token_to_id(PAD)
    if eos is None:
        raise UserError(f"{tokenizer_directory}: the tokenizer has no token {EOS!r}")
    layout = {
        **{key: spec[key] for key in ("sequence_length", "batch_rows", "group_rows", "seed")},
        "eos": eos,
        "pad": eos if pad is None else pad,  # Llama 2 has no pad token, and what is masked may be any
        "vocab_size": tokenizer.get_vocab_size(),
    }
    if spec["regime"] == "cpt":
        return batches.write_cpt_rows(_documents(records, tokenizer, left_out), out, **layout)
    ift = {key: spec[key] for key in ("packing", "packing_ratio", "max_epochs") if key in spec}
    examples = _examples(records, tokenizer, spec.get("template", PLAIN), spec.get("packing", FOUNDRY), left_out)
    return batches.write_ift_rows(examples, out, **layout, **ift)


def _documents(directory: Path, tokenizer: "Tokenizer", left_out: Container[int]) -> Iterator[list[int]]:
    for (text,) in _encoded(directory, {"text": lambda record: str(record["text"])}, tokenizer, left_out):
        yield text


def _examples(
    directory: Path, tokenizer: "Tokenizer", template: str, packing: str, left_out: Container[int]
) -> Iterator[tuple[list[int], list[int]]]:
    def response(record: Mapping[str, Any]) -> str:
        # llm-foundry leaves out what has no response; the text around one is none
        empty = packing == FOUNDRY and not record["response"]
        return "" if empty else response_text(record["response"], template)

    frame = {"instruction": lambda record: record_prompt(record, template), "response": response}
    for example in _encoded(directory, frame, tokenizer, left_out):
        yield example[0], example[1]


def _encoded(
    directory: Path,
    frame: Mapping[str, Callable[[Mapping[str, Any]], str]],
    tokenizer: "Tokenizer",
    left_out: Container[int],
) -> Iterator[tuple[list[int], ...]]:
    """The token ids of some fields of every record; `frame` says which, and what text of a record is each.

    Without the records whose numbers, from 1, are to be left out.
    """
    lines = (record for number, record in enumerate(read_records(directory), start=1) if number not in left_out)
    while some := list(islice(lines, _RECORDS_AT_ONCE)):
        columns = []
        for field, text_of in frame.items():
            if any(not isinstance(record.get(field), str) for record in some):
                raise UserError(f"{directory}: every record must have the text field {field!r}")
            texts = [text_of(record) for record in some]
            columns.append([encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)])
        yield from zip(*columns, strict=True)
