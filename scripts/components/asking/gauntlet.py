"""How the Mosaic evaluation gauntlet asks items of several choices: the paper's harness (section 3.3).

Read in composer 0.17.2, `composer/datasets/in_context_learning_evaluation.py` and `composer/metrics/nlp.py`: shots are
drawn from the set itself, without the item, by one generator of random numbers with the seed 1234; items stand in lines
below each other; the answer is the choice with the lowest mean cross-entropy of a token. Read in llm-foundry 0.6.0,
`llmfoundry/utils/builders.py`: nothing stands before the shots, and one space between question and answer where a task
says nothing else. Read in llm-foundry's `scripts/eval/yamls`: ARC alone says something else, and the numbers of shots
(`SHOTS`).

One thing is not as there: composer encodes shots, question and answer apart. With a tokenizer that marks the beginning
of every text (Llama-2's), one mark more then stands before the line break between shots and question. Here the whole is
one text. What an answer's tokens are does not depend on it.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError
from scripts.components.asking.answers import PER_TOKEN
from scripts.components.asking.items import Item, read

if TYPE_CHECKING:
    from scripts.components.tasks import Given

FORM = "gauntlet"
"""What a study and a spec say."""

SHOTS = {
    "v0.1": {"hellaswag": 10, "arc_challenge": 10, "winogrande": 0, "winograd": 0},
    "v0.2": {"hellaswag": 0, "arc_challenge": 3, "winogrande": 5, "winograd": 3},
    "v0.2, the most": {"hellaswag": 10, "arc_challenge": 25, "winogrande": 5, "winograd": 3},
}
"""The numbers of shots by the gauntlet's version: `tasks.yaml` and `tasks_v0.2.yaml`, which runs two of them with two
numbers each. Its composites take the lower ones."""

_SEED = 1234
_BETWEEN = "\n"


def metrics(*lm_eval: str) -> Callable[[Mapping[str, Any]], tuple[str, ...]]:
    """What is recorded of a task that has both forms; `lm_eval`: in that one."""
    return lambda settings: (PER_TOKEN, "acc") if settings.get("form") == FORM else lm_eval


def file(name: str) -> Callable[[Mapping[str, Any], Path], str]:
    """The task file of a task that has both forms."""
    return lambda settings, _: f"{name}_gauntlet" if settings.get("form") == FORM else name


def check(given: "Given") -> None:
    """Raises UserError where there are too few items to take shots from."""
    if given.settings.get("form") != FORM:
        return
    shots, items = given.settings["shots"], len(read(given.records))
    if shots >= items:
        raise UserError(
            f"evaluation.tasks.{given.settings['task']}.shots: {shots} shots in the form {FORM} need as many other "
            f"items, {given.records} has {items - 1}"
        )


def multiple_choice(
    test: str, shots: int, asked: Callable[[Item], tuple[str, list[str], int]], answer: str = " "
) -> dict[str, Any]:
    """The items of one question and several answers: `context`, `choices` and `gold`, the right one's number.

    Args:
        test: the items, JSON lines.
        shots: how many others stand before an item.
        asked: question, answers and the number of the right one.
        answer: what stands between question and answer. lm-eval puts the space that it ends in before the answer.
    """
    questions = [(question.strip(), choices, gold) for question, choices, gold in map(asked, read(test))]
    solved = [f"{question}{answer}{choices[gold]}" for question, choices, gold in questions]
    return _rows(
        {"context": f"{before}{question}{answer.rstrip()}", "choices": choices, "gold": gold}
        for before, (question, choices, gold) in zip(_before(solved, shots), questions, strict=True)
    )


def schemas(test: str, shots: int, asked: Callable[[Item], tuple[list[str], str, int]]) -> dict[str, Any]:
    """The items of several texts that go on alike: `contexts`, `continuation` and `gold`, the right one's number.

    Args:
        test: the items, JSON lines.
        shots: how many others stand before an item.
        asked: the texts, how they go on, and the number of the right one.
    """
    questions = [(contexts, continuation.strip(), gold) for contexts, continuation, gold in map(asked, read(test))]
    solved = [f"{contexts[gold]} {continuation}" for contexts, continuation, gold in questions]
    return _rows(
        {"contexts": [before + context for context in contexts], "continuation": continuation, "gold": gold}
        for before, (contexts, continuation, gold) in zip(_before(solved, shots), questions, strict=True)
    )


def _rows(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    from datasets import Dataset

    return {"test": Dataset.from_list(list(rows)), "train": []}


def _before(solved: Sequence[str], shots: int) -> Iterator[str]:
    """What stands before each item: other items with their answers."""
    for chosen in drawn(len(solved), shots):
        yield "".join(solved[number] + _BETWEEN for number in chosen)


def drawn(items: int, shots: int) -> Iterator[list[int]]:
    """Which items stand before each: `shots` others, without repetition.

    One that draws itself draws another for it. They stand as CPython walks through a set of their numbers.
    """
    rng = random.Random(_SEED)
    for item in range(items if shots else 0):
        chosen = set(rng.sample(range(items), shots))
        if item in chosen:
            chosen.remove(item)
            other = item
            while other == item or other in chosen:
                other = rng.choice(range(items))
            chosen.add(other)
        yield list(chosen)
    yield from [[] for _ in range(0 if shots else items)]
