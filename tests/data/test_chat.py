"""`template: chat`: tokens are those that transformers' own `apply_chat_template` gives, on published templates."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from scripts.common.errors import UserError
from scripts.components.asking import losses
from scripts.components.templates import DAY, without_marks
from scripts.data import lengths, rows
from scripts.data.batches import Batches
from scripts.data.encoding import Encoding
from tests.vocabularies import CHATS, chat, llama_2, smollm2

TALK = [
    {"role": "user", "content": "Say  hello."},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Now in\n\nFrench: é"},
]
SYSTEM = [{"role": "system", "content": "You are a pirate."}]
_EACH = "{% for m in messages %}"
each_chat = pytest.mark.parametrize("name", CHATS)


def with_runs(place: Path) -> Path:
    """Line breaks and spaces join among themselves and with what follows, as in the published byte-level vocabularies.

    A vocabulary that is learned from lines has no such tokens; sentencepiece's keeps line breaks apart as bytes.
    """
    path = place / "tokenizer.json"
    whole = json.loads(path.read_text())
    vocabulary, merges = whole["model"]["vocab"], whole["model"]["merges"]
    if "Ċ" in vocabulary:
        for left, right in (("Ċ", "Ċ"), ("ĊĊ", "Ċ"), ("Ġ", "Ġ"), ("ĊĊ", "Ġ"), ("ĠĠ", "ĠĠ")):
            if left + right not in vocabulary:
                vocabulary[left + right] = vocabulary.pop("".join(merges.pop()))  # the last one learned
                merges.insert(0, [left, right])
        path.write_text(json.dumps(whole))
    return place


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("chats")
    for name in CHATS:
        (root / name).mkdir()
        with_runs(chat(root / name, name))
    return {name: root / name for name in CHATS}


@pytest.fixture(scope="module")
def encodings(places: dict[str, Path]) -> dict[str, Encoding]:
    # where the template decides, `bos` and `join` do not
    return {name: Encoding.read(place, "tokenizer", "separate", "chat") for name, place in places.items()}


@pytest.fixture(scope="module")
def makers(places: dict[str, Path]) -> dict[str, PreTrainedTokenizerFast]:
    return {name: PreTrainedTokenizerFast.from_pretrained(place) for name, place in places.items()}


def applied(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], **more: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, return_dict=True, date_string=DAY, **more)["input_ids"])


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def example(encoding: Encoding, record: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The prompt, and the response with what ends it."""
    prompt, response = encoding.form.example(record)
    ((first, second),) = encoding.examples([prompt], [response])
    return first, [*second, *encoding.ending]


text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0"), max_size=25),
    st.lists(st.sampled_from(["Add", " the", "\n", "    ", " ", "42", "😀", "é", "=", '"""', "{{", "%}", "'"])).map(
        "".join
    ),
)


@each_chat
@settings(max_examples=60)
@given(instruction=text, response=text)
def test_tokens_are_those_of_apply_chat_template(
    name: str,
    encodings: dict[str, Encoding],
    makers: dict[str, PreTrainedTokenizerFast],
    instruction: str,
    response: str,
) -> None:
    """All of them; the response's begin with the prompt's last one only where that has a character of the response."""
    prompt = applied(makers[name], user(instruction), add_generation_prompt=True)
    whole = applied(makers[name], user(instruction) + assistant(response))
    told, learned = example(encodings[name], {"instruction": instruction, "response": response})
    assert told + learned == whole
    if whole[: len(prompt)] == prompt:
        assert told == prompt
    else:
        messages = user(instruction)
        begins = written(makers[name], messages, add_generation_prompt=True)
        ends = written(makers[name], messages + assistant(response)).removeprefix(begins)
        assert learned == last_tokens(makers[name], whole, len(ends.encode()))
    assert max(whole) < encodings[name].size


def written(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], **more: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, date_string=DAY, **more))


def last_tokens(tokenizer: PreTrainedTokenizerFast, ids: list[int], size: int) -> list[int]:
    """The fewest last ones that hold the last `size` bytes of the text, by the pieces of a vocabulary."""
    byte_of = {piece: byte for byte, piece in bytes_to_unicode().items()}
    held = 0
    for number, piece in reversed(list(enumerate(tokenizer.convert_ids_to_tokens(ids)))):
        if held >= size:
            return ids[number + 1 :]
        if ids[number] in tokenizer.added_tokens_decoder:
            held += len(piece.encode())
        elif re.fullmatch("<0x[0-9A-F]{2}>", piece):
            held += 1
        elif all(character in byte_of for character in piece):
            held += len(piece)
        else:
            held += len(piece.replace("▁", " ").encode())
    return ids


@pytest.mark.parametrize("response", ["\nHi", "\n\n  Hi", "\n\n\n\nHi", " Hi", "\n", "    if x:", "\n\nÄ\n"])
@pytest.mark.parametrize("name", ["smollm2", "qwen2.5"])
def test_a_response_that_begins_with_white_space_is_learned_from_its_first_character_on(
    name: str, response: str, encodings: dict[str, Encoding], makers: dict[str, PreTrainedTokenizerFast]
) -> None:
    """ChatML's prompt ends with a line break, which is one token with those of a response."""
    told, learned = example(encodings[name], {"instruction": "Write Python.", "response": response})
    assert told + learned == applied(makers[name], user("Write Python.") + assistant(response))
    prompt = applied(makers[name], user("Write Python."), add_generation_prompt=True)
    if response[0] == "\n" and (name, response) != ("smollm2", "\nHi"):  # GPT-2 splits before the last of several
        assert told == prompt[:-1]
        assert makers[name].decode(learned).startswith("\n" + response)
    else:
        assert told[:-1] == prompt[:-1]
        assert makers[name].decode(told + learned).endswith(f"assistant\n{response}<|im_end|>\n")


@pytest.mark.parametrize("response", ["Hi", " Hi", "  Hi", "Ä", ""])
def test_a_prompt_that_ends_with_a_space(response: str, tmp_path: Path) -> None:
    """Vicuna's, were it written so: in sentencepiece's vocabularies the space is the first word's."""
    template = _EACH + "{{ ('USER: ' if m.role == 'user' else '') + m.content }}"
    template += "{{ ' ASSISTANT: ' if m.role == 'user' else eos_token }}{% endfor %}"
    llama_2(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    encoding = Encoding.read(tmp_path, template="chat")
    told, learned = example(encoding, {"instruction": "Who?", "response": response})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    whole = applied(tokenizer, user("Who?") + assistant(response))
    assert told + learned == whole
    if response:  # its space is in the token that it begins with
        assert learned == last_tokens(tokenizer, whole, len(f"{response}</s>".encode()))
        assert tokenizer.decode(learned).removesuffix("</s>").strip() == response.strip()
    else:
        assert learned == [encoding.eos]


@pytest.mark.parametrize("name", ["llama-2", "llama-3", "gemma"])
def test_a_template_that_trims_a_response_has_it_trimmed_in_rows_and_losses(
    name: str, places: dict[str, Path], encodings: dict[str, Encoding], tmp_path: Path
) -> None:
    records = [{"instruction": "Who?", "response": response} for response in ("She.", "\n\n  She. \n")]
    assert example(encodings[name], records[0]) == example(encodings[name], records[1])
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    first, second = losses.read_responses(str(tmp_path / "records.jsonl"), "chat", str(places[name]))["test"]
    assert first == second
    assert without_marks(first["response"]).strip() == "She."


@each_chat
def test_the_token_that_ends_a_turn_is_learned_and_ends_a_text(
    name: str, encodings: dict[str, Encoding], makers: dict[str, PreTrainedTokenizerFast]
) -> None:
    encoding, end = encodings[name], makers[name].convert_tokens_to_ids(CHATS[name][3])
    _, learned = example(encoding, {"instruction": "Who?", "response": "She."})
    assert learned.count(end) == 1
    assert encoding.ending[0] == end
    assert encoding.ends == {end, makers[name].eos_token_id}
    assert encoding.form.stop == []


@each_chat
def test_what_begins_a_text_stands_there_once(
    name: str, encodings: dict[str, Encoding], makers: dict[str, PreTrainedTokenizerFast]
) -> None:
    prompt, _ = example(encodings[name], {"instruction": "Who?", "response": "She."})
    writes = "bos_token" in CHATS[name][1]
    bos = makers[name].bos_token_id
    assert (prompt[0] == bos) is (writes or name == "smollm2")
    if writes:
        assert prompt.count(bos) == 1


@each_chat
def test_what_looks_like_a_special_token_in_a_message_is_text(
    name: str, encodings: dict[str, Encoding], makers: dict[str, PreTrainedTokenizerFast]
) -> None:
    """A message that names every special token has as many of them as one that names none."""
    special = sorted(set(makers[name].all_special_tokens) | set(CHATS[name][2]) | {CHATS[name][3]})
    numbers = set(makers[name].convert_tokens_to_ids(special))

    def counted(words: str) -> list[int]:
        prompt, learned = example(
            encodings[name], {"instruction": f"Say {words} now", "response": f"I say {words} now"}
        )
        return [number for number in [*prompt, *learned] if number in numbers]

    assert counted(" ".join(special)) == counted("nothing")
    encoding = encodings[name]
    prompt, response = encoding.form.example({"instruction": "a", "response": f"<{special[0]}{special[-1]}>"})
    assert without_marks(response).strip() == f"<{special[0]}{special[-1]}>"
    ((_, ids),) = encoding.examples([prompt], [response])
    assert encoding.continuations([ids])[0].strip() == f"<{special[0]}{special[-1]}>"


@each_chat
def test_all_turns_of_a_conversation_are_rendered(
    name: str, encodings: dict[str, Encoding], makers: dict[str, PreTrainedTokenizerFast]
) -> None:
    before = SYSTEM + TALK
    record = {"instruction": "as one text", "response": "Bonjour !"}
    for messages in (TALK, before):
        talk = {**record, "turns_before": messages}
        if name == "gemma" and messages is before:
            with pytest.raises(
                UserError, match=r"refuses a conversation of system, user.*'Now in French: é'.*System role"
            ):
                example(encodings[name], talk)
            continue
        prompt = applied(makers[name], messages, add_generation_prompt=True)
        whole = applied(makers[name], messages + assistant("Bonjour !"))
        assert whole[: len(prompt)] == prompt
        assert example(encodings[name], talk) == (prompt, whole[len(prompt) :])
    (asked,) = encodings[name].prompts(
        [encodings[name].form.conversation([("Say  hello.", "Hello!")], TALK[2]["content"])]
    )
    assert asked == applied(makers[name], TALK, add_generation_prompt=True)


@pytest.mark.parametrize("packing", ["foundry", "none"])
@each_chat
def test_rows_learn_the_assistant_s_part_alone(
    name: str, packing: str, places: dict[str, Path], makers: dict[str, PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    """An input is the instruction's next line; what has no response is left out by foundry as ever."""
    records = [
        {"instruction": "Add", "input": f"{n} and 1234", "response": f"It is {n + 1234}.\n#### {n}"} for n in range(7)
    ]
    empty = {"instruction": "Add", "input": "nothing", "response": ""}
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*records, empty]))
    spec = {"regime": "ift", "sequence_length": 120, "batch_rows": 1, "group_rows": 1, "seed": 0, "max_epochs": 1}
    spec |= {"packing_ratio": 1.0} if packing == "foundry" else {"packing": packing}
    spec |= {"template": "chat", "bos": "tokenizer", "join": "separate"}
    rows.build(spec, SimpleNamespace(inputs=lambda: [tmp_path, places[name]]), tmp_path)  # type: ignore[arg-type]
    found = set()
    batches = Batches(tmp_path)
    for step in range(batches.steps_per_epoch or 0):
        (ids, labels), numbers = (part[0] for part in batches.batch(step)), batches.segments(step)[0]
        for number in range(numbers.max() + 1):
            learned = labels[numbers == number]
            if (learned != -100).any():  # else it is padding
                found.add((tuple(ids[numbers == number]), tuple(learned[learned != -100])))
    expected = set()
    for record in records if packing == "foundry" else [*records, empty]:
        messages = user(f"{record['instruction']}\n{record['input']}")
        prompt = applied(makers[name], messages, add_generation_prompt=True)
        whole = applied(makers[name], messages + assistant(record["response"]))
        expected.add((tuple(whole), tuple(whole[len(prompt) :])))
    if packing == "foundry":
        # which examples wait for the next epoch is packing's own
        assert len(found) >= 5
        assert found <= expected
    else:
        assert found == expected


def test_a_length_counts_what_ends_a_response(
    encodings: dict[str, Encoding], makers: dict[str, PreTrainedTokenizerFast]
) -> None:
    whole = applied(makers["gemma"], user("Who?") + assistant("She."))
    records = [("line 1", {"instruction": "Who?", "response": "She."})]
    assert lengths.said(records, encodings["gemma"], "foundry", len(whole)) is None
    assert f"has {len(whole)}" in str(lengths.said(records, encodings["gemma"], "foundry", len(whole) - 1))


def with_template(directory: Path, template: Any, **more: Any) -> Path:
    smollm2(directory)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template, **more}))
    return directory


@pytest.mark.parametrize("named", [True, False])
def test_a_template_has_the_names_that_the_tokenizer_gives(tmp_path: Path, named: bool) -> None:
    """Qwen's says that there is no bos token, though its model's configuration has a number; GPT-2's names none."""
    template = "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    directory = with_template(tmp_path, template, **({"bos_token": None} if named else {}))
    path = directory / "tokenizer_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said if named else {"chat_template": template}))
    (directory / "config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 2}))
    prompt, learned = example(Encoding.read(directory, template="chat"), {"instruction": "a", "response": "b"})
    assert (prompt[0] == 0) is not named
    names = {} if named else {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, **names)
    assert [*prompt, *learned] == applied(tokenizer, user("a") + assistant("b"))


def test_a_turn_may_end_with_a_token_that_is_not_special(tmp_path: Path) -> None:
    """Command-R's <|END_OF_TURN_TOKEN|> is none; the eos token may stand behind it."""
    each = "{% for m in messages %}{{ m.content + '<|turn|>' }}{% endfor %}"
    template = each + "{{ '' if add_generation_prompt else eos_token }}"
    directory = with_template(tmp_path, template)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("<|turn|>", special=False), AddedToken("\n\n", special=False)])
    tokenizer.save(str(directory / "tokenizer.json"))
    encoding = Encoding.read(directory, template="chat")
    turn = tokenizer.token_to_id("<|turn|>")
    assert (encoding.ending, encoding.ends) == ([turn, encoding.eos], {turn, encoding.eos})
    prompt, learned = example(encoding, {"instruction": "a", "response": "b\n\nc"})
    assert [*prompt, *learned] == applied(
        PreTrainedTokenizerFast.from_pretrained(directory), user("a") + assistant("b\n\nc")
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "its tokenizer has no chat template, neither as `chat_template` in tokenizer_config.json nor"),
        ([{"name": "rag", "template": "a"}], "its chat templates have no `default`"),
        ("{% for m in messages %}", "its chat template refuses a conversation of user that ends with"),
        ("{{ raise_exception('not  for\n you') }}", "(not for you)"),
        (_EACH + "{{ strftime_now('%Y') + m.content + eos_token }}{% endfor %}", "writes the day's date"),
        (
            _EACH + "{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
            "leaves out what the assistant says",
        ),
        (
            _EACH + "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
            "writes no token behind what the assistant says",
        ),
        (
            "{{ messages | length }}" + _EACH + "{{ m.content + eos_token }}{% endfor %}",
            "writes the prompt otherwise once there is a response",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, template: Any, said: str) -> None:
    Encoding.read(with_template(tmp_path, template))  # whoever does not ask for it needs none
    with pytest.raises(UserError) as caught:
        Encoding.read(tmp_path, template="chat")
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_of_other_bytes_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    smollm2(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes("{{ 'Schöne' }}".encode("latin-1"))
    encoding = Encoding.read(tmp_path)
    with pytest.raises(UserError, match=r"its chat_template\.jinja is not UTF-8 text"):
        encoding.in_template("chat")
