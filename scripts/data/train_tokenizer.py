"""Trains the tokenizer of a pretrained-here base model on the text of the study's records."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.components.templates import record_prompt, response_text
from scripts.data.records import read_records


def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
    """Writes an HF tokenizer directory."""
    from scripts.data.tokenizer import train_tokenizer

    train_tokenizer(_texts(context.inputs()), spec["vocabulary"], out)
    return {}


def _texts(directories: list[Path]) -> Iterator[str]:
    for directory in directories:
        for record in read_records(directory):
            fields = ("text",) if "text" in record else ("instruction", "response")
            if any(not isinstance(record.get(field), str) for field in fields):
                raise UserError(f"{directory}: a tokenizer is trained on documents or instructions, not on benchmarks")
            if "text" in record:
                yield record["text"]
            else:
                yield record_prompt(record) + response_text(record["response"])
