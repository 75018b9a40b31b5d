"""The text around an instruction and its response."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from scripts.common.errors import UserError

PLAIN = "plain"

# A space in front of a response belongs to the response's first token, see `scripts.data.tokenizer`.
TEMPLATES = {
    # The text of lm-eval's GSM8K and ARC prompts.
    PLAIN: ("Question: {}\nAnswer:", " {}"),
    # Stanford Alpaca's, for an instruction without an input.
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{}\n\n### Response:\n",
        "{}",
    ),
    # Llama 2's for the first turn, without a system prompt. Its bos and eos are ids and no text.
    "llama2-chat": ("[INST] {} [/INST]", " {} "),
}
"""Name to what stands before a response, and the response as the model learns to write it.

The paper does not print its template, so it is a choice; evaluation's own prompts look like `plain`.
"""

WITH_INPUT = {
    # Stanford Alpaca's, for an instruction with an input.
    "alpaca": (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n"
    ),
}
"""Name to what stands before a response where the instruction has an input; where a template has no such text, the
input is the instruction's next line."""

if TYPE_CHECKING:
    Template: TypeAlias = str
else:
    Template = Literal[tuple(TEMPLATES)]


def prompt_text(instruction: str, template: str = PLAIN) -> str:
    """What stands before a response in instruction finetuning. Raises UserError for an unknown template."""
    return _template(template)[0].format(instruction)


def record_prompt(record: Mapping[str, Any], template: str = PLAIN) -> str:
    """`prompt_text` of a record, with the record's `input` where there is one that is not blank."""
    given = record.get("input") or ""
    if not given.strip():
        return prompt_text(record["instruction"], template)
    if template in WITH_INPUT:
        return WITH_INPUT[template].format(record["instruction"], given)
    return prompt_text(f"{record['instruction']}\n{given}", template)


def response_text(response: str, template: str = PLAIN) -> str:
    """What the model learns to write after `prompt_text`; the writer of rows puts the eos token behind it.

    Raises UserError for an unknown template.
    """
    return _template(template)[1].format(response)


def _template(name: str) -> tuple[str, str]:
    if name not in TEMPLATES:
        raise UserError(f"the template {name!r} is unknown; allowed are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
