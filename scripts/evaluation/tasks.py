"""What the task files in ``config/evaluations`` name: how items are read, and the texts made of them.

The texts of a benchmark are those of lm-eval's task of the same name; the texts of a held-out loss, those that the
data stage makes rows of. They are functions where lm-eval would compile a template for each item anew, which costs
more than scoring a small model.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.data.tokenizer import prompt_text, response_text

Item = Mapping[str, Any]
"""One record of a benchmark, in the format of the real set, or of a dataset to train on."""

LOSS_FIELDS = {"document_loss": ("text",), "response_loss": ("instruction", "response")}
"""The task files of held-out losses, and the text fields of the records that each of them reads."""

LETTERS = ("A", "B", "C", "D")


def read_items(test: str, train: str | None = None, **_metadata: Any) -> dict[str, Any]:
    """The splits of a task: `test` to be scored, `train` to draw shots from (both JSON lines).

    They stay in memory: `datasets` would put a copy of every file into its cache in the home directory.
    lm-eval hands over the metadata of the task file as well; nothing here depends on it.
    """
    from datasets import Dataset

    return {"test": Dataset.from_list(read(test)), "train": read(train) if train else []}


def read_letters(test: str, train: str | None = None, shots: int = 0, **_metadata: Any) -> dict[str, Any]:
    """The items of MMLU whose answer is a letter; see `_read_subjects`. A sentence names the subject first."""

    def heading(subject: str) -> str:
        named = subject.replace("_", " ")
        return f"The following are multiple choice questions (with answers) about {named}.\n\n"

    return _read_subjects(test, train, shots, heading, lambda item: f" {LETTERS[item['answer']]}", letters_question)


def read_texts(test: str, train: str | None = None, shots: int = 0, **_metadata: Any) -> dict[str, Any]:
    """The items of MMLU whose answer is the text of a choice; see `_read_subjects`. Nothing but shots stands first."""
    return _read_subjects(
        test, train, shots, lambda _: "", lambda item: f" {item['choices'][item['answer']]}", texts_question
    )


def _read_subjects(
    test: str,
    train: str | None,
    shots: int,
    heading: Callable[[str], str],
    answer: Callable[[Item], str],
    question: Callable[[Item], str],
) -> dict[str, Any]:
    """The test items, each with what stands before its question, as `before`: a heading, and the first `shots` training
    records of its subject with their answers.

    lm-eval has a task for each subject instead, each with the same first shots.
    """
    from datasets import Dataset

    items = read(test)
    before: dict[str, list[str]] = {item["subject"]: [] for item in items}
    for item in read(train) if train else []:
        solved = before.get(item["subject"], [])
        if len(solved) < shots:
            solved.append(f"{question(item)}{answer(item)}\n\n")
    rows = [{**item, "before": heading(item["subject"]) + "".join(before[item["subject"]])} for item in items]
    return {"test": Dataset.from_list(rows), "train": []}


def read(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    with Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def programs(completions: Iterable[Sequence[str]], items: Iterable[Item]) -> list[list[str]]:
    """The programs of each problem: its prompt, stripped as the model saw it, and each completion.

    How many newlines end a program makes no difference to it; with one, a third fewer have to be judged.
    """
    return [
        [item["prompt"].strip() + completion.rstrip("\n") + "\n" for completion in row]
        for row, item in zip(completions, items, strict=True)
    ]


def hellaswag_context(item: Item) -> str:
    return _without_wikihow_marks(item["activity_label"] + ": " + item["ctx_a"] + " " + item["ctx_b"].capitalize())


def hellaswag_endings(item: Item) -> list[str]:
    return [_without_wikihow_marks(ending) for ending in item["endings"]]


def hellaswag_label(item: Item) -> int:
    return int(item["label"])


def _without_wikihow_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def arc_choices(item: Item) -> list[str]:
    return list(item["choices"]["text"])


def arc_answer(item: Item) -> int:
    return list(item["choices"]["label"]).index(item["answerKey"])


def winogrande_answer(item: Item) -> int:
    return {"1": 0, "2": 1}[item["answer"]]


def winogrande_contexts(item: Item) -> list[str]:
    before = item["sentence"][: item["sentence"].index("_")]
    return [before + item["option1"], before + item["option2"]]


def winogrande_continuation(item: Item) -> str:
    sentence: str = item["sentence"]
    return sentence[sentence.index("_") + 1 :].strip()


def winograd_contexts(item: Item) -> list[str]:
    """The text before the pronoun with each of the options in the pronoun's place."""
    before = _single_spaced(item["text"])[: item["pronoun_loc"]]
    return [before + _in_place(item, before, option) for option in item["options"]]


def winograd_continuation(item: Item) -> str:
    """The text after the pronoun; the space or sign that it begins with belongs to it."""
    return _single_spaced(item["text"])[item["pronoun_loc"] + len(item["pronoun"]) :]


def winograd_answer(item: Item) -> int:
    return int(item["label"])


def _single_spaced(text: str) -> str:
    return text.replace("  ", " ")


_CAPITALIZED = {"A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their"}
_POSSESSIVE = {"my", "his", "her", "our", "their"}


def _in_place(item: Item, before: str, option: str) -> str:
    """An option as it stands within a sentence, in the possessive where the pronoun is."""
    if item["pronoun"].lower() in _POSSESSIVE:
        option += "'s"
    first, space, rest = option.partition(" ")
    starts_sentence = not before.strip() or before.rstrip().endswith(".")
    return option if starts_sentence or first not in _CAPITALIZED else first.lower() + space + rest


def lambada_context(item: Item) -> str:
    return str(item["text"].rpartition(" ")[0])


def lambada_word(item: Item) -> str:
    """The last word, with the space before it, which belongs to its first token."""
    return " " + str(item["text"].rpartition(" ")[2])


def letters_question(item: Item) -> str:
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, item["choices"], strict=True))
    return f"{item['question'].strip()}\n{choices}\nAnswer:"


def letters_context(item: Item) -> str:
    return str(item["before"]) + letters_question(item)


def texts_question(item: Item) -> str:
    return f"Question: {item['question'].strip()}\nAnswer:"


def texts_context(item: Item) -> str:
    return str(item["before"]) + texts_question(item)


def subject_choices(item: Item) -> list[str]:
    return list(item["choices"])


def subject_answer(item: Item) -> int:
    return int(item["answer"])


def document_text(item: Item) -> str:
    return str(item["text"])


def response_context(item: Item) -> str:
    return prompt_text(item["instruction"])


def response_continuation(item: Item) -> str:
    return response_text(item["response"])


def response_score(item: Item, results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Log-likelihood in nats and bytes of a response: what lm-eval by itself records of a document."""
    ((loglikelihood, _),) = results
    return {"bits_per_byte": (loglikelihood, len(response_continuation(item).encode()))}
