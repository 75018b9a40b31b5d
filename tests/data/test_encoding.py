"""The one reader of tokenizers, on rebuilds of published ones."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors

from scripts.common.errors import UserError
from scripts.data.encoding import Encoding
from tests.vocabularies import BEGIN_AND_END, FAMILIES, directories, llama_2, small, special, written

PARTS = ["Question:", " the", "\n", "\n\n", "    ", " ", "  ", "42", " 1234", "=", '"""', "</s>", "<s>", "<|im_end|>"]
LOOK_ALIKES = [
    "<|endoftext|>",
    "<bos>",
    "<eos>",
    "<|end_of_text|>",
    "<0x41>",
    "<unk>",
    "<pad>",
    "é",
    "e\u0301",
    "😀",
    "日本",
    "\t",
]
# The space sign of sentencepiece is no text that it could give back, here or in its own library.
anything = st.one_of(
    st.lists(st.sampled_from([*PARTS, *LOOK_ALIKES]), max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=25),
)
ascii_text = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(directories(tmp_path_factory.mktemp("tokenizers")))


def own(directory: Path) -> Tokenizer:
    """The makers' tokenizer, which splits no special token off a text."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


@each_family
def test_what_begins_and_ends_a_text_is_what_the_makers_say(family: str, places: dict[str, Path]) -> None:
    encoding = Encoding.read(places[family])
    begin, end = BEGIN_AND_END[family]
    assert [encoding.token(number) for number in encoding.prefix] == begin
    assert encoding.token(encoding.eos) == end
    assert encoding.before == (encoding.prefix[-1] if begin else encoding.eos)
    assert Encoding.read(places[family], bos="none").prefix == ()
    assert Encoding.read(places[family], bos="none").before == encoding.eos


@each_family
@settings(max_examples=60)
@given(prompt=anything, response=anything)
def test_separate_is_what_the_tokenizer_makes_of_each(
    family: str, places: dict[str, Path], prompt: str, response: str
) -> None:
    """As llm-foundry does: the prompt with what the tokenizer puts before it, the response without."""
    tokenizer = own(places[family])
    (example,) = Encoding.read(places[family]).examples([prompt], [response])
    assert example == (tokenizer.encode(prompt).ids, tokenizer.encode(response, add_special_tokens=False).ids)
    (alone,) = Encoding.read(places[family], bos="none").examples([prompt], [response])
    assert alone[0] == tokenizer.encode(prompt, add_special_tokens=False).ids


@each_family
@settings(max_examples=60)
@given(prompt=ascii_text.filter(bool), response=ascii_text)
def test_together_is_the_whole_text_cut_where_the_response_begins(
    family: str, places: dict[str, Path], prompt: str, response: str
) -> None:
    tokenizer = own(places[family])
    ((first, second),) = Encoding.read(places[family], join="together").examples([prompt], [response])
    assert [*first, *second] == tokenizer.encode(prompt + response).ids
    assert prompt.startswith(tokenizer.decode(first))
    assert response.endswith(tokenizer.decode(second[1:]))
    if response:
        assert len(tokenizer.decode([*first, second[0]])) > len(prompt)


@each_family
@settings(max_examples=100)
@given(text=anything)
def test_nothing_of_a_text_is_lost(family: str, places: dict[str, Path], text: str) -> None:
    """Qwen's makers normalize texts, and mean another one by them then."""
    encoding = Encoding.read(places[family])
    expected = unicodedata.normalize("NFC", text) if family == "qwen2" else text
    (ids,) = encoding.texts([text])
    assert own(places[family]).decode(ids, skip_special_tokens=False) == expected
    added = encoding.continuations([ids])[0]
    # behind another text, a text of Llama-2 has the space that sentencepiece puts before it
    assert added == (f" {expected}" if family.startswith("llama-2") and text else expected)


@each_family
def test_what_looks_like_a_special_token_is_text(family: str, places: dict[str, Path]) -> None:
    encoding = Encoding.read(places[family])
    begin, end = BEGIN_AND_END[family]
    names = {token.content for token in own(places[family]).get_added_tokens_decoder().values() if token.special}
    assert {*begin, end} <= names
    (ids,) = encoding.texts([" and ".join(sorted(names))])
    assert not names & {encoding.token(number) for number in ids}


def pieces(encoding: Encoding, prompt: str, response: str) -> tuple[list[str], list[str]]:
    ((first, second),) = encoding.examples([prompt], [response])
    return [encoding.token(number) for number in first], [encoding.token(number) for number in second]


def test_a_space_before_a_response(tmp_path: Path) -> None:
    """Sentencepiece puts a space before " is", which together with the prompt has its own one alone."""
    for spaces, apart in (("last", ["▁", "▁is"]), ("first", ["▁▁", "is"])):
        llama_2(tmp_path, spaces=spaces)
        first = ["<s>", "▁it", ":"]
        assert pieces(Encoding.read(tmp_path), "it:", " is") == (first, apart)
        assert pieces(Encoding.read(tmp_path, join="together"), "it:", " is") == (first, ["▁is"])


def test_a_token_on_both_sides_belongs_to_the_response(places: dict[str, Path]) -> None:
    """Llama-3 has ":\\n" in one piece where the text has both."""
    tokenizer = Tokenizer(models.BPE({"a": 0, ":": 1, "b": 2, ":b": 3, "</s>": 4}, [(":", "b")]))
    directory = places["llama-3"].parent / "both"
    directory.mkdir()
    tokenizer.add_special_tokens(special("</s>"))
    written(directory, tokenizer, tokenizer_config={"eos_token": "</s>"})
    assert pieces(Encoding.read(directory, join="together"), "a:", "ba") == (["a"], [":b", "a"])
    assert pieces(Encoding.read(directory), "a:", "ba") == (["a", ":"], ["b", "a"])


@pytest.mark.parametrize(
    ("files", "eos", "pad"),
    [
        ({"tokenizer_config": {"eos_token": "<|im_end|>", "pad_token": "</s>"}}, 2, 1),
        ({"tokenizer_config": {"eos_token": {"content": "<|im_end|>"}}}, 2, 2),
        ({"tokenizer_config": {"eos_token": None}, "special_tokens_map": {"eos_token": "</s>"}}, 1, 1),
        ({"special_tokens_map": {"eos_token": {"content": "</s>"}}, "config": {"eos_token_id": 2}}, 1, 1),
        ({"config": {"eos_token_id": 2, "pad_token_id": 0}}, 2, 0),
        ({"config": {"eos_token_id": None}, "generation_config": {"eos_token_id": [2, 1]}}, 2, 2),
        ({"tokenizer_config": {"eos_token": "</s>"}, "generation_config": {"eos_token_id": 2}}, 1, 1),
        ({"tokenizer_config": {"eos_token": "</s>"}, "config": {"pad_token_id": -1}}, 1, 1),
        ({"tokenizer_config": {"eos_token": "</s>", "pad_token": "[PAD]"}}, 1, 1),
    ],
)
def test_where_the_end_of_a_text_is_said(tmp_path: Path, files: dict[str, Any], eos: int, pad: int) -> None:
    encoding = Encoding.read(small(tmp_path, **files))
    assert (encoding.eos, encoding.pad) == (eos, pad)


@pytest.mark.parametrize(
    ("configuration", "template", "prefix"),
    [
        ({}, None, ()),
        ({}, "<s> $A", (0,)),
        ({}, "<s> $A </s>", (0,)),  # what ends a text is put there by whoever makes rows
        ({}, "$A </s>", ()),
        ({"add_bos_token": True, "bos_token": "<s>"}, None, (0,)),
        ({"add_bos_token": False, "bos_token": "<s>"}, "<s> $A", ()),
        ({"add_bos_token": True, "bos_token": None}, None, ()),
        ({"add_bos_token": True, "bos_token": "</s>"}, None, (1,)),  # OPT's
    ],
)
def test_what_a_tokenizer_puts_before_a_text(
    tmp_path: Path, configuration: dict[str, Any], template: str | None, prefix: tuple[int, ...]
) -> None:
    small(tmp_path, tokenizer_config={"eos_token": "</s>", **configuration})
    if template:
        tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        both = [("<s>", 0), ("</s>", 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=both)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoding = Encoding.read(tmp_path)
    assert encoding.prefix == prefix
    assert encoding.prompts(["ab"]) == [[*prefix, 3, 4]]
    # one token that ends a document and begins the next stands between the two
    assert encoding.documents(["ab"]) == [[3, 4] if prefix == (encoding.eos,) else [*prefix, 3, 4]]


def test_how_a_tokenizer_was_used_last_does_not_count(tmp_path: Path) -> None:
    """Finetunes are published with the lengths that they were trained with."""
    small(tmp_path, tokenizer_config={"eos_token": "</s>"})
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert Encoding.read(tmp_path).texts(["abab", "a"]) == [[3, 4, 3, 4], [3]]


def test_every_id_has_an_embedding(tmp_path: Path) -> None:
    """Some vocabularies leave ids out."""
    small(tmp_path, tokenizer_config={"eos_token": "</s>"})
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["b"] = 40
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Encoding.read(tmp_path).size == 41


def test_a_special_token_that_nobody_puts_needs_no_embedding(tmp_path: Path) -> None:
    """Finetunes of Llama-2 have a pad token that its embeddings do not."""
    small(tmp_path, tokenizer_config={"eos_token": "</s>"})
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_special_tokens(special("<pad>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert Encoding.read(tmp_path).size == 5
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>", "pad_token": "<pad>"}')
    assert Encoding.read(tmp_path).size == 6


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "does not say which token ends a text: neither `eos_token` in tokenizer_config.json or"),
        (
            {"tokenizer_config": {"eos_token": None}, "config": {"eos_token_id": 99}},
            "does not say which token ends a text",
        ),
        ({"tokenizer_config": {"eos_token": "<end>"}}, "names the eos token '<end>', which is not among the tokens"),
        ({"tokenizer_config": []}, "its tokenizer_config.json holds no object"),
    ],
)
def test_a_tokenizer_that_cannot_end_a_text_is_refused(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    small(tmp_path, **files)
    with pytest.raises(UserError) as caught:
        Encoding.read(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"model": {"type": "Unheard"}}'])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
        Encoding.read(tmp_path)
    assert "\n" not in str(caught.value)
