"""Tokenizers from their directories."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer saved in `directory`. It adds no token by itself: who builds rows places bos and eos."""
    from transformers import PreTrainedTokenizerFast

    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(directory)
    return tokenizer
