"""The tokenizer of a generated world.

Evaluation scores or continues a prompt `p` with an answer `a`, while training saw `p + a` as one text. A
model can only answer what it learned if both give the same tokens: encode(p) + encode(a) == encode(p + a).
Here a newline is always a piece of its own, so this holds for every prompt that ends in a newline and for
every answer that starts with one. It also holds where a space leads the answer (`Answer:` + ` 42`), because
a space leads the word or digit after it. It does not hold for a prompt that ends in a space, or between two
letters or two symbols.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

# Tried in this order. Digits stand alone; a word, a digit and a run of symbols each take one space before
# them; indentation is a piece of its own (it never joins the newline before it, see above).
PIECES = r"\n| ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|[^\S\n]+"

SMALLEST_VOCABULARY = 3 + 256
"""Three special tokens and every byte: with these nothing is unknown."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: Path) -> None:
    """Train a byte-level BPE on `texts` and save it in `out` as a directory that `transformers` loads.

    The vocabulary has at most `vocab_size` entries (fewer when the texts offer fewer merges): bos, eos and
    pad are 0, 1 and 2, then the 256 bytes, then the merges. The order of the texts does not matter. Raises
    ValueError when `vocab_size` cannot hold the bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"vocab_size is {vocab_size}, but bytes and special tokens need {SMALLEST_VOCABULARY}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        # A text that contains "</s>" is text: only we place special tokens, by id.
        split_special_tokens=True,
    ).save_pretrained(out)


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer saved in `directory`. It adds no token by itself: who builds rows places bos and eos."""
    from transformers import PreTrainedTokenizerFast

    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(directory)
    return tokenizer
