"""Generated data sets at laptop scale, in the record formats of the real sets they stand for.

Each generator takes (count, seed, split) and yields records; the same arguments give the same records. Splits are
"train", "test" and "validation", and share no item.
"""

from collections.abc import Callable, Iterator
from typing import Any

from scripts.data.generators import chat, code, everyday, math

GENERATORS: dict[str, Callable[[int, int, str], Iterator[dict[str, Any]]]] = {
    "everyday-documents": everyday.documents,
    "code-documents": code.documents,
    "math-documents": math.documents,
    "code-instructions": code.instructions,
    "math-instructions": math.instructions,
    "chat-instructions": chat.instructions,
    "humaneval": code.humaneval,
    "gsm8k": math.gsm8k,
    "hellaswag": everyday.hellaswag,
    "arc-challenge": everyday.arc,
    "winogrande": everyday.winogrande,
    "mmlu": everyday.mmlu,
    "lambada": everyday.lambada,
    "winograd": everyday.winograd,
    "mt-bench": chat.mt_bench,
}
