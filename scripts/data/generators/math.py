"""The math domain: word problems of one or two steps with small numbers, and how they are solved.

An item is a combination (person, thing, what happens); train, validation and test never share one. The numbers, and
so the answers, take no part in the split.
"""

from collections.abc import Iterator
from random import Random

from scripts.data.generators.splits import split_of, stream

PEOPLE = (
    ("Anna", "She"), ("Ben", "He"), ("Carla", "She"), ("David", "He"), ("Emma", "She"), ("Felix", "He"),
    ("Grace", "She"), ("Hugo", "He"), ("Ida", "She"), ("Jack", "He"), ("Kate", "She"), ("Leo", "He"),
)  # fmt: skip
THINGS = ("cups", "apples", "books", "coins", "eggs", "hats", "boxes", "shoes", "rings", "bags")
EVENTS = (
    ("buys {} more", 1), ("finds {} more", 1), ("gets {} more", 1),
    ("loses {}", -1), ("sells {}", -1), ("gives away {}", -1),
)  # fmt: skip
STEP_SHARES = (5, 5)  # of problems with one and two steps
Combination = tuple[int, ...]  # person, thing, events


def _pick(rng: Random, split: str, simple: bool = False) -> Combination:
    while True:
        steps = 1 if simple else rng.choices((1, 2), STEP_SHARES)[0]
        combination = (
            rng.randrange(len(PEOPLE)),
            rng.randrange(len(THINGS)),
            *(rng.randrange(len(EVENTS)) for _ in range(steps)),
        )
        if split_of("math", *combination) == split:
            return combination


def _story(rng: Random, combination: Combination) -> tuple[list[str], list[str], int]:
    """Return sentences, the steps that solve them, and the result; every later event can still take
    one away."""
    person, thing, *events = combination
    name, pronoun = PEOPLE[person]
    total = rng.randint(4, 10)
    sentences, steps = [f"{name} has {total} {THINGS[thing]}."], []
    for later, event in zip(range(len(events) - 1, -1, -1), events, strict=True):
        text, sign = EVENTS[event]
        amount = rng.randint(1, 6) if sign > 0 else rng.randint(1, min(total - later, 6))
        sentences.append(f"{pronoun} {text.format(amount)}.")
        steps.append(f"{total} {'+' if sign > 0 else '-'} {amount} = {total + sign * amount}")
        total += sign * amount
    return sentences, steps, total


def _problem(rng: Random, combination: Combination) -> tuple[str, str]:
    """Return question and answer of a combination, with fresh numbers."""
    sentences, steps, total = _story(rng, combination)
    question = f"How many {THINGS[combination[1]]} does {PEOPLE[combination[0]][0]} have now?"
    return " ".join([*sentences, question]), "\n".join([*steps, f"#### {total}"])


def _exercise(rng: Random, split: str, simple: bool) -> str:
    question, answer = _problem(rng, _pick(rng, split, simple))
    return f"Question: {question}\nAnswer: {answer}"


def _tale(rng: Random, split: str) -> str:
    """A problem told as a story: every event with its sum beside it."""
    combination = _pick(rng, split)
    sentences, steps, total = _story(rng, combination)
    told = [sentences[0]]
    for sentence, step in zip(sentences[1:], steps, strict=True):
        told += [sentence, f"Now it is {step}."]
    return " ".join([*told, f"In the end {PEOPLE[combination[0]][0]} has {total} {THINGS[combination[1]]}."])


def document(rng: Random, split: str, simple: bool = False) -> str:
    """One page: an exercise with its answer, or a story with sums. `simple`: an exercise of one step."""
    if simple or rng.random() < 0.7:
        return _exercise(rng, split, simple)
    return _tale(rng, split)


def documents(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield `count` pages, each {"text"}."""
    rng = stream("math-documents", seed, split)
    for _ in range(count):
        yield {"text": document(rng, split)}


def request(rng: Random, split: str) -> tuple[str, str]:
    """A problem and its worked answer."""
    return _problem(rng, _pick(rng, split))


def two_turns(rng: Random, split: str) -> tuple[str, str]:
    """A problem of one step, and what happens next; the longer story is of the split as well."""
    while True:
        combination = (*_pick(rng, split, simple=True), rng.randrange(len(EVENTS)))
        if split_of("math", *combination) == split:
            break
    sentences, _, _ = _story(rng, combination)
    asked = f"How many {THINGS[combination[1]]} does {PEOPLE[combination[0]][0]} have now?"
    return " ".join([*sentences[:2], asked]), f"{sentences[2]} {asked}"


def instructions(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield `count` pairs {"instruction", "response"}: a problem and its worked answer."""
    rng = stream("math-instructions", seed, split)
    for _ in range(count):
        question, answer = request(rng, split)
        yield {"instruction": question, "response": answer}


def gsm8k(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield `count` problems of GSM8K's form, no combination twice; answers end in "#### n"."""
    rng = stream("gsm8k", seed, split)
    seen: set[Combination] = set()
    while len(seen) < count:
        combination = _pick(rng, split)
        if combination in seen:
            continue
        seen.add(combination)
        question, answer = _problem(rng, combination)
        yield {"question": question, "answer": answer}
