"""The text around an instruction and its response, and how both become tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from scripts.common.errors import UserError

PLAIN = "plain"

Bos: TypeAlias = Literal["tokenizer", "none"]
"""What stands before a document, a prompt or a question: what the tokenizer puts there by itself, or nothing."""
Join: TypeAlias = Literal["separate", "together"]
"""Whether prompt and response are encoded apart, or as one text that is cut where the response begins."""
BOS: Bos = "tokenizer"
JOIN: Join = "separate"


class _Template(NamedTuple):
    prompt: str
    """What stands before a response; {} is the instruction."""
    response: str
    """The response as the model learns to write it. A space in front belongs to its first token."""
    between: str
    """What stands between a response and the next instruction of a conversation."""
    stop: str
    """What a model that does not end its response by itself writes next."""


TEMPLATES = {
    # The text of lm-eval's GSM8K and ARC prompts.
    PLAIN: _Template("Question: {}\nAnswer:", " {}", "\n\n", "\nQuestion:"),
    # Stanford Alpaca's, for an instruction without an input.
    "alpaca": _Template(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{}\n\n### Response:\n",
        "{}",
        "\n\n",
        "\n### Instruction:",
    ),
    # Llama 2's for the first turn, without a system prompt. Its bos and eos are ids and no text.
    "llama2-chat": _Template("[INST] {} [/INST]", " {} ", "", "[INST]"),
}
"""Name to the text around instructions and responses.

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
    return _template(template).prompt.format(instruction)


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
    return _template(template).response.format(response)


def conversation_text(turns: Sequence[tuple[str, str]], instruction: str, template: str = PLAIN) -> str:
    """Earlier instructions with their responses, and what stands before the response to the next instruction.

    Raises UserError for an unknown template.
    """
    between = _template(template).between
    told = (f"{prompt_text(asked, template)}{response_text(said, template)}{between}" for asked, said in turns)
    return "".join(told) + prompt_text(instruction, template)


def stop_text(template: str = PLAIN) -> str:
    """What a model that does not end its response by itself writes next. Raises UserError for an unknown template."""
    return _template(template).stop


def _template(name: str) -> _Template:
    if name not in TEMPLATES:
        raise UserError(f"the template {name!r} is unknown; allowed are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
