"""The text around an instruction and its response, and how both become tokens."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from scripts.common.errors import UserError

PLAIN = "plain"
CHAT = "chat"
"""The tokenizer's own chat template."""

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
    Template = Literal[(*TEMPLATES, CHAT)]

TURNS_BEFORE = "turns_before"
"""The field of a record with the messages (role, content) that its response replies to, where a chat template is to
write them: `instruction` has them as one text."""
MARK = "\ufdd0"
"""Stands before a special token that a chat template writes, so that what looks like one in a message stays text.
Unicode keeps this code for such use inside of a program: no text has it."""
DAY = "26 Jul 2024"
"""The date in prompts whose template writes one (Llama-3.1's own default): rows must not depend on the day."""
_ASKED, _SAID = "QUESTION-5d41", "ANSWER-7c02"
"""Messages that a template is tried with."""


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


class Form(Protocol):
    """What texts look like in a template."""

    @property
    def stop(self) -> list[str]:
        """What a model that does not end its response by itself writes next."""

    def example(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """What stands before the response of a record, and the response as the model learns to write it."""

    def conversation(self, turns: Sequence[tuple[str, str]], instruction: str) -> str:
        """Earlier instructions with their responses, and what stands before the response to the next instruction."""


@dataclass(frozen=True)
class Fixed:
    """A template of `TEMPLATES`. Its methods raise UserError where there is none of the name."""

    name: str = PLAIN

    @property
    def stop(self) -> list[str]:
        return [_template(self.name).stop]

    def example(self, record: Mapping[str, Any]) -> tuple[str, str]:
        return record_prompt(record, self.name), response_text(record["response"], self.name)

    def conversation(self, turns: Sequence[tuple[str, str]], instruction: str) -> str:
        told = (
            f"{prompt_text(asked, self.name)}{response_text(said, self.name)}{_template(self.name).between}"
            for asked, said in turns
        )
        return "".join(told) + prompt_text(instruction, self.name)


class Chat:
    """A tokenizer's own chat template, written by transformers' `apply_chat_template`.

    Special tokens that the template writes have `MARK` before them, so that they become their ids; what looks like one
    in a message has not, and stays text, as everywhere else.

    Args:
        source: the template in Jinja, or several of them as a tokenizer's configuration lists them.
        names: what the template may call special tokens: `bos_token`, ...
        special: the special tokens.
        added: the other tokens that are never split.
        where: what an error names.

    Attributes:
        tail: what ends a response: from the token that ends an assistant's turn on, as the template writes it.

    Raises:
        UserError: the template cannot be used: it is broken, writes the day's date, leaves out what an assistant says,
            ends it with no token, or writes a prompt otherwise once there is a response.
    """

    def __init__(
        self, source: Any, names: Mapping[str, str], special: Iterable[str], added: Iterable[str], where: object
    ) -> None:
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        self._where = where
        self._names: dict[str, Any] = {**names, "date_string": DAY}
        # a tokenizer without tokens: it only writes texts
        self._writer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=source)  # type: ignore[no-untyped-call]
        self._special = re.compile(_any_of(special))
        self._marked = re.compile(f"{MARK}?(?:{self._special.pattern})")
        self.tail = ""
        self._check()
        prompt, whole = self._written([{"role": "user", "content": _ASKED}], _SAID)
        _, said, behind = whole[len(prompt) :].rpartition(_SAID)
        if not said:
            raise UserError(f"{where}: its chat template leaves out what the assistant says")
        whole_words = _any_of(text for text in added if text.strip())
        end = re.search(f"{MARK}(?:{self._special.pattern})|{whole_words}", behind)
        if end is None:
            raise UserError(
                f"{where}: its chat template writes no token behind what the assistant says, so that no model would "
                "learn to end a response"
            )
        self.tail = behind[end.start() :]

    @property
    def stop(self) -> list[str]:
        return []  # a token ends a response, no text

    def example(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """See `Form`; raises UserError where the template refuses the record, or writes its prompt in two ways."""
        before = record.get(TURNS_BEFORE)
        if before is None:
            given = record.get("input") or ""
            asked = f"{record['instruction']}\n{given}" if given.strip() else record["instruction"]
            before = [{"role": "user", "content": asked}]
        prompt, whole = self._written(before, record["response"])
        return prompt, whole[len(prompt) : len(whole) - len(self.tail)]

    def conversation(self, turns: Sequence[tuple[str, str]], instruction: str) -> str:
        """See `Form`; raises UserError where the template refuses it."""
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return self._text([*messages, {"role": "user", "content": instruction}], asks=True)

    def _written(self, before: Sequence[Mapping[str, str]], response: str) -> tuple[str, str]:
        """What stands before a response, and the same with the response and what ends it."""
        prompt = self._text(before, asks=True)
        whole = self._text([*before, {"role": "assistant", "content": response}], asks=False)
        if not (whole.startswith(prompt) and whole.endswith(self.tail) and len(whole) >= len(prompt) + len(self.tail)):
            raise UserError(
                f"{self._where}: its chat template writes the prompt otherwise once there is a response, so that "
                f"nothing says where the response begins; the last message before it is {_short(before)}"
            )
        return prompt, whole

    def _text(self, messages: Sequence[Mapping[str, str]], *, asks: bool) -> str:
        told = [
            {"role": message["role"], "content": self._special.sub(rf"{MARK}\g<0>", message["content"])}
            for message in messages
        ]
        try:
            text = self._writer.apply_chat_template(told, tokenize=False, add_generation_prompt=asks, **self._names)
        except Exception as error:  # a template may do anything
            said = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self._where}: its chat template refuses a conversation of "
                f"{', '.join(message['role'] for message in messages)} that ends with {_short(messages)} ({said})"
            ) from error
        # until here the mark was before what only looks like a special token
        return self._marked.sub(lambda m: m[0].removeprefix(MARK) if m[0].startswith(MARK) else MARK + m[0], str(text))

    def _check(self) -> None:
        try:
            source = self._writer.get_chat_template()
        except ValueError as error:  # several, and none for what is done here
            raise UserError(f"{self._where}: its chat templates have no `default`") from error
        if "strftime_now" in source and "date_string" not in source:
            raise UserError(
                f"{self._where}: its chat template writes the day's date, so that what models are trained on would "
                "depend on the day; a copy of the tokenizer whose template takes it from `date_string` can be used"
            )


def without_marks(text: str) -> str:
    """A text in any template as people read it, and as its bytes count."""
    return text.replace(MARK, "")


def _any_of(texts: Iterable[str]) -> str:
    """A pattern for the longest of several texts; where there are none, for nothing."""
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)"


def _short(messages: Sequence[Mapping[str, str]]) -> str:
    return repr(" ".join(messages[-1]["content"].split())[:60])


def _template(name: str) -> _Template:
    if name not in TEMPLATES:
        raise UserError(f"the template {name!r} is unknown; allowed are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
