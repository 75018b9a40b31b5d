"""The one reader of tokenizers: text to tokens and back, for rows, held-out losses and benchmarks alike.

It reads ``tokenizer.json`` by the library `tokenizers`, which gives the tokens that the tokenizer's makers meant:
transformers builds some tokenizers anew by the name of their class, and its Llama then differs from sentencepiece.
Which tokens end a text, begin one and fill rows stands in the files beside it.

A study decides three things (`scripts.components.templates`): whether what the tokenizer puts before a text stands
before documents, prompts and questions (`Bos`); whether a response is encoded apart from its prompt (`Join`); and the
text around both (`Form`). A chat template decides the first two by itself: the tokens are those that it writes.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError
from scripts.common.files import read_object
from scripts.components.templates import BOS, CHAT, JOIN, MARK, PLAIN, Bos, Chat, Fixed, Form, Join, without_marks

if TYPE_CHECKING:
    from tokenizers import Encoding as Tokens
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
_NAMES = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that name special tokens; the first that names one counts."""
_NUMBERS = ("config.json", "generation_config.json")
"""Files that give their ids, for tokenizers that name none (GPT-2)."""
_CHAT_TEMPLATE = "chat_template.jinja"
FILES = (TOKENIZER, *_NAMES, *_NUMBERS, _CHAT_TEMPLATE)
"""Of a repository what is read here."""
_ANY_TEXT = "a"
"""What a tokenizer does to a text is seen on it."""


class Encoding:
    """A tokenizer, with what a study decides about it.

    What looks like a special token in a text is text: special tokens are put by id, by whoever makes rows of what this
    returns.

    Args:
        files: those of `FILES` that there are.
        where: what an error names.
        bos: whether what the tokenizer puts before a text by itself stands there.
        join: how prompt and response become tokens; see `examples`.
        template: the text around both.

    Attributes:
        form: writes those texts.
        eos: id of the token that ends a document.
        ending: ids that end a response in rows: eos; in a chat what ends an assistant's turn.
        ends: ids of the tokens with which a text that a model writes is done.
        pad: id of the token that fills rows; the tokenizer's own, else eos.
        prefix: ids that stand before a document, a prompt or a question.
        size: the least number of embeddings that has one for every id that can stand in rows.

    Raises:
        UserError: no tokenizer can be read, or none of the files says which token ends a text; or its chat template is
            asked for and cannot be used.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        where: object,
        bos: Bos = BOS,
        join: Join = JOIN,
        template: str = PLAIN,
    ) -> None:
        self._tokenizer = _tokenizer(files, where)
        self._where = where
        self._join = join
        self._configured = {name: read_object(files[name], where) for name in (*_NAMES, *_NUMBERS) if name in files}
        self._jinja = files[_CHAT_TEMPLATE].read_bytes() if _CHAT_TEMPLATE in files else b""
        eos = self._special("eos")
        if eos is None:
            raise UserError(
                f"{where}: does not say which token ends a text: neither `eos_token` in {' or '.join(_NAMES)} nor "
                f"`eos_token_id` in {' or '.join(_NUMBERS)} is a token of its {TOKENIZER}"
            )
        pad = self._special("pad")
        self.eos, self.pad = eos, eos if pad is None else pad
        self.prefix = self._own_prefix() if bos == "tokenizer" else ()
        # An offset is where a token's text ends, with the spaces that some post-processors leave out.
        self._tokenizer.post_processor = None
        self._anchor: list[int] = self._tokenizer.encode(_ANY_TEXT, add_special_tokens=False).ids
        self._anchor_text = self._tokenizer.decode(self._anchor)
        self._use(template)

    def _use(self, template: str) -> None:
        self.form: Form = Fixed(template)
        self.size = 1 + max(self._can_stand_in_rows())
        self.ending, self.ends = [self.eos], frozenset([self.eos])
        self._chat: Chat | None = None
        if template == CHAT:
            self._chat = self.form = self._chat_form()
            self._marking, self._unmarked = self._marking_tokenizer()
            self._try_chat(self._chat)

    @classmethod
    def read(cls, directory: Path, bos: Bos = BOS, join: Join = JOIN, template: str = PLAIN) -> "Encoding":
        """The tokenizer in a directory."""
        files = {name: directory / name for name in FILES if (directory / name).is_file()}
        return cls(files, directory, bos, join, template)

    def in_template(self, template: str) -> "Encoding":
        """The same with another text around instructions and responses."""
        other = copy.copy(self)
        other._use(template)
        return other

    @property
    def before(self) -> int:
        """The token that stands right before the text of a document in rows: of its prefix, else the former's eos."""
        return self.prefix[-1] if self.prefix else self.eos

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, and nothing before or behind them."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each document, with the prefix before them, as they stand in rows between two of eos.

        Where the prefix is eos itself (OPT's), the one behind the former document is it: else one of the two would be
        a document of its own.
        """
        return self.texts(texts) if self.prefix == (self.eos,) else self._behind_prefix(texts)

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each prompt, with the prefix before them; in a chat those that its template writes."""
        return self._chat_ids(texts) if self._chat else self._behind_prefix(texts)

    def examples(self, prompts: Sequence[str], responses: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
        """The ids of each prompt, as `prompts` has them, and of the response behind it, without what ends it.

        `separate` encodes them apart. `together` encodes them as one text; the first token with a character of the
        response is the response's first. A chat is one text too, and what stands behind the prompt's tokens is the
        response; where the two share a token, as a line break at the response's beginning may be one with the
        template's own, it is cut as `together` is.
        """
        if self._chat:
            yield from self._chat_examples(prompts, responses, self._chat.tail)
            return
        if self._join == "separate":
            yield from zip(self.prompts(prompts), self.texts(responses), strict=True)
            return
        both = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        encodings = self._tokenizer.encode_batch(both, add_special_tokens=False)
        for prompt, encoding in zip(prompts, encodings, strict=True):
            cut = _cut(encoding, len(prompt))
            yield [*self.prefix, *encoding.ids[:cut]], encoding.ids[cut:]

    def _behind_prefix(self, texts: Sequence[str]) -> list[list[int]]:
        return [[*self.prefix, *ids] for ids in self.texts(texts)]

    def _chat_form(self) -> Chat:
        source: Any = self._configured.get("tokenizer_config.json", {}).get("chat_template")
        try:
            source = self._jinja.decode() or source
        except UnicodeDecodeError as error:
            raise UserError(f"{self._where}: its {_CHAT_TEMPLATE} is not UTF-8 text") from error
        if not source:
            raise UserError(
                f"{self._where}: its tokenizer has no chat template, neither as `chat_template` in "
                f"tokenizer_config.json nor as {_CHAT_TEMPLATE}"
            )
        both = [self._configured.get(file, {}) for file in _NAMES]
        # of two files the first that names a token counts, as for `eos`
        said = {key: next((file[key] for file in both if file.get(key)), None) for file in both for key in file}
        contents = {key: named.get("content") if isinstance(named, dict) else named for key, named in said.items()}
        names = {key: name for key, name in contents.items() if key.endswith("_token") and isinstance(name, str)}
        for kind, number in (("eos", self.eos), ("bos", self._special("bos"))):
            # where it says null, the template has none, whatever number a model's configuration gives (Qwen's)
            if number is not None and f"{kind}_token" not in said:
                names[f"{kind}_token"] = self.token(number)
        tokens = self._tokenizer.get_added_tokens_decoder().values()
        special = [token.content for token in tokens if token.special]
        added = [token.content for token in tokens if not token.special]
        return Chat(source, names, special, added, self._where)

    def _marking_tokenizer(self) -> "tuple[Tokenizer, dict[int, int]]":
        """The tokenizer that reads a special token behind a mark; and its ids of those to the real ones.

        Others than special tokens are found in texts that split special ones, and whatever else decides a text's tokens
        (spaces around a token, what is first in a text) stays as it is.
        """
        from tokenizers import AddedToken

        tokenizer = copy.deepcopy(self._tokenizer)
        tokenizer.encode_special_tokens = True
        special = {n: token for n, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        for token in special.values():
            flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
            tokenizer.add_tokens([AddedToken(MARK + token.content, special=False, **flags)])
        numbers = tokenizer.get_vocab()
        return tokenizer, {numbers[MARK + token.content]: number for number, token in special.items()}

    def _try_chat(self, chat: Chat) -> None:
        """Finds what ends a response, and which tokens the template writes."""
        (self.ending,) = self._chat_ids([chat.tail])
        self.ends = frozenset([self.ending[0], self.eos])
        prompt, response = chat.example({"instruction": _ANY_TEXT, "response": _ANY_TEXT})
        next(self._chat_examples([prompt], [response], chat.tail))
        written = self._chat_ids([prompt + response + chat.tail])
        self.size = max(self.size, 1 + max(written[0]))

    def _chat_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that a chat template wrote."""
        return [self._unmark(encoding.ids) for encoding in self._marked(texts)]

    def _marked(self, texts: Sequence[str]) -> "list[Tokens]":
        return self._marking.encode_batch(list(texts), add_special_tokens=False)

    def _unmark(self, ids: Sequence[int]) -> list[int]:
        return [self._unmarked.get(number, number) for number in ids]

    def _chat_examples(
        self, prompts: Sequence[str], responses: Sequence[str], tail: str
    ) -> Iterator[tuple[list[int], list[int]]]:
        pairs = zip(prompts, responses, strict=True)
        wholes = self._marked([prompt + response + tail for prompt, response in pairs])
        end = len(self.ending)
        for prompt, first, encoding in zip(prompts, self._chat_ids(prompts), wholes, strict=True):
            whole = self._unmark(encoding.ids)
            # by its tokens and not by characters: one that takes the spaces behind it (Phi-3's) is the prompt's
            begin = len(first) if whole[: len(first)] == first else _cut(encoding, len(prompt))
            if whole[-end:] != self.ending or len(whole) < begin + end:
                raise UserError(
                    f"{self._where}: what its chat template writes behind a response, {without_marks(tail)!r}, has "
                    f"other tokens behind {without_marks(prompt)[-60:]!r} than elsewhere, so that nothing says where "
                    "the response ends"
                )
            yield whole[:begin], whole[begin:-end]

    def continuations(self, written: Sequence[Sequence[int]]) -> list[str]:
        """What each list of ids adds to a text that they stand behind, special tokens left out.

        Decoded behind a text, because some tokenizers leave out the space that a text of its own would begin with.
        """
        texts = self._tokenizer.decode_batch([[*self._anchor, *ids] for ids in written], skip_special_tokens=True)
        return [text[len(self._anchor_text) :] for text in texts]

    def token(self, number: int) -> str:
        """A special token as it is called."""
        return str(self._tokenizer.id_to_token(number))

    def backend(self) -> "Tokenizer":
        """The tokenizer itself, for libraries that must have one."""
        return self._tokenizer

    def _can_stand_in_rows(self) -> set[int]:
        """All ids but special ones that nobody puts anywhere; some tokenizers have such that their model has not."""
        added = self._tokenizer.get_added_tokens_decoder()
        ordinary = {number for number, token in added.items() if not token.special}
        known = set(self._tokenizer.get_vocab(with_added_tokens=False).values())
        return {*known, *ordinary, self.eos, self.pad, *self.prefix}

    def _special(self, kind: str) -> int | None:
        """The id of the eos, bos or pad token; None where no file says it."""
        for file in _NAMES:
            named = self._configured.get(file, {}).get(f"{kind}_token")
            name = named.get("content") if isinstance(named, dict) else named
            if isinstance(name, str) and name:
                number = self._tokenizer.token_to_id(name)
                if number is None and kind != "pad":  # any token can fill rows
                    raise UserError(
                        f"{self._where}: its {file} names the {kind} token {name!r}, which is not among the tokens of "
                        f"its {TOKENIZER}"
                    )
                return number
        for file in _NUMBERS:
            number = self._configured.get(file, {}).get(f"{kind}_token_id")
            number = number[0] if isinstance(number, list) and number else number
            if isinstance(number, int) and number >= 0 and self._tokenizer.id_to_token(number) is not None:
                return number
        return None

    def _own_prefix(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text by itself; what its configuration says of it goes first."""
        adds = self._configured.get("tokenizer_config.json", {}).get("add_bos_token")
        if adds is not None:
            bos = self._special("bos") if adds else None
            return () if bos is None else (bos,)
        whole = self._tokenizer.encode(_ANY_TEXT)
        return tuple(
            number for number, _ in takewhile(itemgetter(1), zip(whole.ids, whole.special_tokens_mask, strict=True))
        )


def _cut(encoding: "Tokens", prompt: int) -> int:
    """How many tokens have no character behind the first `prompt` of the text."""
    return sum(end <= prompt for _, end in encoding.offsets)


def _tokenizer(files: Mapping[str, Path], where: object) -> "Tokenizer":
    from tokenizers import Tokenizer

    if TOKENIZER not in files:
        raise UserError(f"{where}: has no {TOKENIZER}")
    try:
        tokenizer = Tokenizer.from_file(str(files[TOKENIZER]))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{where}: its {TOKENIZER} cannot be read ({error})") from error
    tokenizer.encode_special_tokens = True
    # Some files keep how their tokenizer was last used.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
