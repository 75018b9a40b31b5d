"""Tokenizes the records of a setting and writes its rows: which tokens stand in which row of which batch.

python -m scripts.data.rows KEY
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.data.records import read_records
from scripts.study.command import current_launch, product_parser
from scripts.study.errors import UserError, run
from scripts.study.grid import Product
from scripts.study.launch import Launch
from scripts.study.store import Build

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_RECORDS_AT_ONCE = 1000


def builder(launch: Launch, product: Product) -> Build:
    """Writes what `scripts.data.batches.Batches` reads."""
    spec = product.spec

    def write(out: Path) -> dict[str, Any]:
        from tokenizers import Tokenizer

        from scripts.data import batches
        from scripts.data.products import data_bytes
        from scripts.data.tokenizer import EOS, PAD

        records, tokenizer_directory = (data_bytes(launch, key) for key in product.inputs)
        tokenizer = Tokenizer.from_file(str(tokenizer_directory / "tokenizer.json"))
        tokenizer.encode_special_tokens = True  # a text that contains "</s>" is text
        layout = {
            **{key: spec[key] for key in ("sequence_length", "batch_rows", "group_rows", "seed")},
            "eos": tokenizer.token_to_id(EOS),
            "pad": tokenizer.token_to_id(PAD),
            "vocab_size": tokenizer.get_vocab_size(),
        }
        if spec["regime"] == "cpt":
            return batches.write_cpt_rows(_documents(records, tokenizer), out, **layout)
        ift = {key: spec[key] for key in ("packing_ratio", "max_epochs")}
        return batches.write_ift_rows(_examples(records, tokenizer), out, **layout, **ift)

    return write


def _documents(directory: Path, tokenizer: "Tokenizer") -> Iterator[list[int]]:
    for (text,) in _encoded(directory, ("text",), tokenizer):
        yield text


def _examples(directory: Path, tokenizer: "Tokenizer") -> Iterator[tuple[list[int], list[int]]]:
    for example in _encoded(directory, ("instruction", "response"), tokenizer):
        yield example[0], example[1]


def _encoded(directory: Path, fields: tuple[str, ...], tokenizer: "Tokenizer") -> Iterator[tuple[list[int], ...]]:
    from scripts.data.tokenizer import prompt_text, response_text

    frame: dict[str, Callable[[str], str]] = {"text": str, "instruction": prompt_text, "response": response_text}
    lines = read_records(directory)
    while some := list(islice(lines, _RECORDS_AT_ONCE)):
        columns = []
        for field in fields:
            if any(not isinstance(record.get(field), str) for record in some):
                raise UserError(f"{directory}: every record must have the text field {field!r}")
            texts = [frame[field](record[field]) for record in some]
            columns.append([encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)])
        yield from zip(*columns, strict=True)


if __name__ == "__main__":
    from scripts.data.products import make_named

    parser = product_parser(__doc__)
    run(lambda arguments: make_named(current_launch(arguments), arguments.product, "rows"), parser)
