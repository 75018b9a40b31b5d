"""The chat domain: a small mix of the other three, as instructions for finetuning and as questions of two turns.

Splits are those of the domains that it mixes: an item of one split is in no other split of any of them.
"""

from collections.abc import Callable, Iterator
from random import Random

from scripts.data.generators import code, everyday, math
from scripts.data.generators.splits import stream

REQUESTS = (everyday.request, code.request, math.request)
SHARES = (4, 3, 3)

CONVERSATIONS: tuple[tuple[str, Callable[[Random, str], tuple[str, str]]], ...] = (
    ("coding", code.two_turns),
    ("math", math.two_turns),
    ("knowledge", everyday.two_questions),
    ("writing", everyday.two_tellings),
)
TRIES = 1000
"""So many draws in a row that bring nothing new mean that a category is exhausted."""


def instructions(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield `count` pairs {"instruction", "response"}: everyday questions, code and math, mixed."""
    rng = stream("chat-instructions", seed, split)
    for _ in range(count):
        instruction, response = rng.choices(REQUESTS, SHARES)[0](rng, split)
        yield {"instruction": instruction, "response": response}


def mt_bench(count: int, seed: int, split: str) -> Iterator[dict[str, object]]:
    """Yield up to `count` questions of MT-bench's form, the categories in turn."""
    rng = stream("mt-bench", seed, split)
    seen: set[tuple[str, str]] = set()
    for number in range(count):
        category, converse = CONVERSATIONS[number % len(CONVERSATIONS)]
        turns = next((turns for _ in range(TRIES) if (turns := converse(rng, split)) not in seen), None)
        if turns is None:
            return
        seen.add(turns)
        yield {"question_id": number + 1, "category": category, "turns": list(turns)}
