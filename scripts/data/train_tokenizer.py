"""Trains the tokenizer of a pretrained-here base model on the text of the study's records.

python -m scripts.data.train_tokenizer KEY
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError, run
from scripts.data.records import read_records
from scripts.launch.command import current_launch, product_parser
from scripts.launch.launch import Launch
from scripts.plan.product import Product
from scripts.store.store import Build


def builder(launch: Launch, product: Product) -> Build:
    """Writes an HF tokenizer directory."""

    def train(out: Path) -> dict[str, Any]:
        from scripts.data.products import data_bytes
        from scripts.data.tokenizer import train_tokenizer

        directories = [data_bytes(launch, key) for key in product.inputs]
        train_tokenizer(_texts(directories), product.spec["vocabulary"], out)
        return {}

    return train


def _texts(directories: list[Path]) -> Iterator[str]:
    from scripts.data.tokenizer import prompt_text, response_text

    for directory in directories:
        for record in read_records(directory):
            fields = ("text",) if "text" in record else ("instruction", "response")
            if any(not isinstance(record.get(field), str) for field in fields):
                raise UserError(f"{directory}: a tokenizer is trained on documents or instructions, not on benchmarks")
            if "text" in record:
                yield record["text"]
            else:
                yield prompt_text(record["instruction"]) + response_text(record["response"])


if __name__ == "__main__":
    from scripts.data.products import make_named

    parser = product_parser(__doc__)
    run(lambda arguments: make_named(current_launch(arguments), arguments.product, "tokenizer"), parser)
