"""The code domain: short Python functions that filter, transform and sum up numbers or words.

An item is a combination (source, filter, transformation, summary); train, validation and test never share one, so a
model that solves a test problem has put together what it saw apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from random import Random

from scripts.data.generators.splits import split_of, stream

Rule = tuple[str, str, str]  # words in the docstring, source, words in the name


@dataclass(frozen=True)
class Family:
    """Functions over one kind of elements; the rules that simple code uses stand first."""

    element: str
    sources: tuple[tuple[str, str, tuple[str, ...], tuple[object, ...]], ...]  # words, loop, argument names, inputs
    filters: tuple[Rule, ...]
    maps: tuple[Rule, ...]
    summaries: tuple[Rule, ...]


NUMBERS = Family(
    element="x",
    sources=(
        (
            "numbers in {}",
            "{}",
            ("xs", "nums", "values"),
            ([4, -7, 0, 13, 12, -2, 9], [25, 1, -36, 8, 3, -5, 10], [6, -11, 17, 0, -4, 2, 31]),
        ),
        ("numbers below {}", "range({})", ("n", "k", "limit"), (14, 23, 31)),
    ),
    filters=(
        ("even", "x % 2 == 0", "even"),
        ("odd", "x % 2 == 1", "odd"),
        ("positive", "x > 0", "positive"),
        ("large", "x > 9", "large"),
        ("small", "x < 9", "small"),
        ("nonzero", "x != 0", "nonzero"),
        ("round", "x % 5 == 0", "round"),
        ("far", "abs(x) > 5", "far"),
    ),
    maps=(
        ("", "x", ""),
        ("squares", "x * x", "squares"),
        ("doubles", "2 * x", "doubles"),
        ("halves", "x // 2", "halves"),
        ("opposites", "-x", "opposites"),
        ("successors", "x + 1", "successors"),
        ("last digits", "x % 10", "digits"),
        ("cubes", "x ** 3", "cubes"),
    ),
    summaries=(
        ("list", "{}", "list"),
        ("sum", "sum({})", "sum"),
        ("largest", "max({})", "max"),
        ("smallest", "min({})", "min"),
        ("sorted list", "sorted({})", "sorted"),
        ("first", "{}[0]", "first"),
        ("last", "{}[-1]", "last"),
        ("number", "len({})", "number"),
    ),
)
WORDS = Family(
    element="w",
    sources=(
        (
            "words in {}",
            "{}.split()",
            ("text", "line", "s"),
            ("Blue apple tree under a small Sky", "every Red fox eats nine Old eggs", "An open door lets Warm air in"),
        ),
    ),
    filters=(
        ("long", "len(w) > 3", "long"),
        ("short", "len(w) < 4", "short"),
        ("capital", "w[0].isupper()", "capital"),
        ("lower", "w.islower()", "lower"),
        ("vowel", "w[0] in 'aeiouAEIOU'", "vowel"),
    ),
    maps=(
        ("", "w", ""),
        ("lengths", "len(w)", "lengths"),
        ("initials", "w[0]", "initials"),
        ("endings", "w[-1]", "endings"),
        ("reverses", "w[::-1]", "reverses"),
        ("shouts", "w.upper()", "shouts"),
    ),
    summaries=(
        ("list", "{}", "list"),
        ("sorted list", "sorted({})", "sorted"),
        ("first", "{}[0]", "first"),
        ("last", "{}[-1]", "last"),
        ("number", "len({})", "number"),
        ("set", "set({})", "set"),
    ),
)
FAMILIES = (NUMBERS, WORDS)
FAMILY_SHARES = (3, 1)
SIMPLE = 4  # simple code knows the first rules of each kind, of the first source of the first family
Combination = tuple[int, int, int, int, int]  # family, source, filter, map, summary


def _describe(combination: Combination, argument: str) -> str:
    number, source, chosen, mapped, summary = combination
    family = FAMILIES[number]
    of_map = f"{family.maps[mapped][0]} of the " if mapped else ""
    collection = family.sources[source][0].format(argument)
    return f"the {family.summaries[summary][0]} of the {of_map}{family.filters[chosen][0]} {collection}"


def _name(combination: Combination) -> str:
    number, _, chosen, mapped, summary = combination
    family = FAMILIES[number]
    parts = (family.summaries[summary][2], family.filters[chosen][2], family.maps[mapped][2])
    return "_".join(part for part in parts if part)


def _expression(combination: Combination, argument: str) -> str:
    number, source, chosen, mapped, summary = combination
    family = FAMILIES[number]
    loop = family.sources[source][1].format(argument)
    items = f"[{family.maps[mapped][1]} for {family.element} in {loop} if {family.filters[chosen][1]}]"
    return family.summaries[summary][1].format(items)


def _prompt(combination: Combination, argument: str) -> str:
    return f'def {_name(combination)}({argument}):\n    """Return {_describe(combination, argument)}."""\n'


def _body(combination: Combination, argument: str) -> str:
    return f"    return {_expression(combination, argument)}\n"


def combinations(split: str) -> list[Combination]:
    """All combinations of a split."""
    return [
        combination
        for number, family in enumerate(FAMILIES)
        for combination in product(
            [number],
            range(len(family.sources)),
            range(len(family.filters)),
            range(len(family.maps)),
            range(len(family.summaries)),
        )
        if split_of("code", *combination) == split
    ]


def _pick(rng: Random, split: str, simple: bool = False) -> Combination:
    while True:
        number = 0 if simple else rng.choices(range(len(FAMILIES)), FAMILY_SHARES)[0]
        family = FAMILIES[number]
        combination = (
            number,
            0 if simple else rng.randrange(len(family.sources)),
            rng.randrange(SIMPLE if simple else len(family.filters)),
            rng.randrange(SIMPLE if simple else len(family.maps)),
            rng.randrange(SIMPLE if simple else len(family.summaries)),
        )
        if split_of("code", *combination) == split:
            return combination


def _argument(rng: Random, combination: Combination) -> str:
    return rng.choice(FAMILIES[combination[0]].sources[combination[1]][2])


def _function(rng: Random, split: str, simple: bool = False) -> str:
    combination = _pick(rng, split, simple)
    argument = _argument(rng, combination)
    if rng.random() < 0.75:
        return _prompt(combination, argument) + _body(combination, argument)
    head = f"def {_name(combination)}({argument}):\n"
    return f"# Return {_describe(combination, argument)}.\n{head}{_body(combination, argument)}"


def _undocumented(rng: Random, split: str) -> str:
    combination = _pick(rng, split)
    argument = _argument(rng, combination)
    return f"def {rng.choice('fgh')}({argument}):\n{_body(combination, argument)}"


def _note(rng: Random, split: str) -> str:
    combination = _pick(rng, split)
    return f"# TODO {_name(combination)}: {_describe(combination, _argument(rng, combination))}.\n"


def document(rng: Random, split: str) -> str:
    """One source file of the code domain: one or two functions."""
    return "\n\n".join(_function(rng, split) for _ in range(rng.randrange(1, 3))).rstrip("\n")


def sprinkle(rng: Random, split: str) -> str:
    """A piece of code as it stands between everyday pages: mostly simple functions. All words of the code domain occur,
    but in functions without a description and in descriptions without a function.

    Without these a word would be new to finetuning, and of all methods only full finetuning trains embeddings: LoRA
    would fail for that reason alone.
    """
    kind = rng.random()
    if kind < 0.7:
        return _function(rng, split, simple=True).rstrip("\n")
    write = _undocumented if kind < 0.85 else _note
    return "\n\n".join(write(rng, split).rstrip("\n") for _ in range(2))


def documents(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield `count` source files, each {"text"}."""
    rng = stream("code-documents", seed, split)
    for _ in range(count):
        yield {"text": document(rng, split)}


def request(rng: Random, split: str) -> tuple[str, str]:
    """What a function shall return, and the function."""
    combination = _pick(rng, split)
    argument = _argument(rng, combination)
    return (
        f"Write a function that returns {_describe(combination, argument)}.",
        (_prompt(combination, argument) + _body(combination, argument)).rstrip("\n"),
    )


def two_turns(rng: Random, split: str) -> tuple[str, str]:
    """Two requests, the second for another function."""
    first = second = request(rng, split)[0]
    while second == first:
        second = request(rng, split)[0]
    return first, f"Now write{second.removeprefix('Write')}"


def instructions(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield `count` pairs {"instruction", "response"}: what a function shall return, and the function."""
    rng = stream("code-instructions", seed, split)
    for _ in range(count):
        instruction, response = request(rng, split)
        yield {"instruction": instruction, "response": response}


def _literal(value: object) -> str:
    """Source text of a value; of a set in one order, where that of `repr` is another in every process."""
    if isinstance(value, set) and value:
        return "{" + ", ".join(sorted(map(repr, value))) + "}"
    return repr(value)


def humaneval(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield up to `count` problems of HumanEval's form; `test` defines check(candidate) with literal expectations."""
    rng = stream("humaneval", seed, split)
    chosen = combinations(split)
    rng.shuffle(chosen)
    for number, combination in enumerate(chosen[:count]):
        argument = _argument(rng, combination)
        lines = []
        for value in FAMILIES[combination[0]].sources[combination[1]][3]:
            # Own source text on own literals: the expected value, as HumanEval's authors would have typed it.
            expected = eval(_expression(combination, argument), {argument: value})
            lines.append(f"    assert candidate({value!r}) == {_literal(expected)}\n")
        yield {
            "task_id": f"Generated/{number}",
            "prompt": _prompt(combination, argument),
            "entry_point": _name(combination),
            "canonical_solution": _body(combination, argument),
            "test": "def check(candidate):\n" + "".join(lines),
        }
