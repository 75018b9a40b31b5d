"""Losses on records that are held out from what models are trained on: documents, or instructions with responses.

The texts are those that the data stage makes rows of, in the template of the setting.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError
from scripts.components.asking.items import Item, read
from scripts.components.asking.shown import Shown
from scripts.components.forms import Document, Instruction
from scripts.components.templates import PLAIN, record_prompt, response_text

if TYPE_CHECKING:
    from scripts.components.tasks import Given

FORMS = (Document, Instruction)
DOCUMENTS, RESPONSES = "document_loss", "response_loss"
"""The task files."""
_FIELDS = {DOCUMENTS: ("text",), RESPONSES: ("instruction", "response")}
"""The text fields of the records that each of them reads."""


def file(settings: Mapping[str, Any], records: Path) -> str:
    """The task file that reads the records.

    Raises:
        UserError: a record lacks a field, so that none does.
    """
    items = read(records)
    for name, fields in _FIELDS.items():
        if all(isinstance(item.get(field), str) for item in items for field in fields):
            return name
    allowed = ", or all ".join(" and ".join(repr(field) for field in fields) for fields in _FIELDS.values())
    raise UserError(f"{records}: the records of {settings['task']} must all have the text field {allowed}")


def check(given: "Given") -> None:
    """A prompt can lose its beginning where the model has no room for it, a response cannot.

    Raises:
        UserError: a response is longer than what the model can hold.
    """
    if file(given.settings, given.records) != RESPONSES:
        return
    items = read_responses(str(given.records), given.settings.get("template", PLAIN))["test"]
    longest = given.longest([(item["prompt"], item["response"]) for item in items])
    if longest > given.positions:
        raise UserError(
            f"{given.records}: {given.settings['task']} needs responses of at most the {given.positions} tokens that "
            f"the model can hold; the longest has {longest}"
        )


def shown(label: str) -> Shown:
    """Bits per byte, called `label`."""
    return Shown(
        label=label,
        axis=f"{label[0].upper()}{label[1:]}, bits per byte",
        scored="",
        averaged="",
        least=0.0,
        most=math.inf,
        lower_is_better=True,
        note="",
    )


def document_text(item: Item) -> str:
    return str(item["text"])


def read_responses(test: str, template: str = PLAIN, **_rest: Any) -> dict[str, Any]:
    """The split of a task whose items are what stands before a response (`prompt`), and the `response`."""
    from datasets import Dataset

    texts = [
        {"prompt": record_prompt(item, template), "response": response_text(item["response"], template)}
        for item in read(test)
    ]
    return {"test": Dataset.from_list(texts)}


def response_context(item: Item) -> str:
    return str(item["prompt"])


def response_continuation(item: Item) -> str:
    return str(item["response"])


def response_score(item: Item, results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Log-likelihood in nats and bytes of a response: what lm-eval by itself records of a document."""
    ((loglikelihood, _),) = results
    return {"bits_per_byte": (loglikelihood, len(response_continuation(item).encode()))}
