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
from scripts.components.templates import CHAT, PLAIN, Fixed, without_marks

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
        UserError: a response is empty in its template, or longer than what the model can hold; or the template refuses
            a record.
    """
    if file(given.settings, given.records) != RESPONSES:
        return
    template = given.settings.get("template", PLAIN)
    items = read_responses(str(given.records), template, str(given.tokenizer))["test"]
    if empty := next((number for number, item in enumerate(items, start=1) if not item["response"]), None):
        raise UserError(
            f"{given.records}, line {empty}: the response is empty; {given.settings['task']} needs something to score"
        )
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


def read_responses(test: str, template: str = PLAIN, tokenizer: str = "", **_rest: Any) -> dict[str, Any]:
    """The split of a task whose items are what stands before a response (`prompt`), and the `response`.

    Args:
        test: the file of the records.
        template: the text around both.
        tokenizer: the directory of the tokenizer, whose own template `chat` is.
    """
    from datasets import Dataset

    from scripts.data.encoding import Encoding

    form = Encoding.read(Path(tokenizer), template=template).form if template == CHAT else Fixed(template)
    texts = [dict(zip(("prompt", "response"), form.example(item), strict=True)) for item in read(test)]
    return {"test": Dataset.from_list(texts)}


def response_context(item: Item) -> str:
    return str(item["prompt"])


def response_continuation(item: Item) -> str:
    return str(item["response"])


def response_score(item: Item, results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Log-likelihood in nats and bytes of a response: what lm-eval by itself records of a document."""
    ((loglikelihood, _),) = results
    return {"bits_per_byte": (loglikelihood, len(without_marks(response_continuation(item)).encode()))}
