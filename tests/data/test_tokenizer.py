import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.common.errors import UserError
from scripts.components.templates import prompt_text, response_text
from scripts.data.tokenizer import load_tokenizer, train_tokenizer

VERBS, NOUNS = ["sum", "maximum", "number"], ["even numbers", "squares", "items"]
SIZE = 330


def corpus():
    draw = random.Random(0)
    for _ in range(300):
        a, b = draw.randrange(3, 60), draw.randrange(3, 60)
        yield f"Tom has {a} apples and buys {b} more. {a} + {b} = {a + b}. #### {a + b}\n"
        yield (
            f'def solve(xs):\n    """Return the {draw.choice(VERBS)} of the {draw.choice(NOUNS)} in xs."""\n'
            f"    return sum([x * {a} for x in xs if x % {b} == 0])\n"
        )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus(), SIZE, out)
    return out


@pytest.fixture(scope="module")
def tokenizer(directory):
    return load_tokenizer(directory)


PARTS = [
    "Return",
    " the",
    " sum",
    "\n",
    "    ",
    " ",
    "return",
    " 42",
    "3",
    " +",
    "=",
    "####",
    '"""',
    ":",
    "(xs)",
    "\t",
]
generated_like = st.lists(st.sampled_from(PARTS), max_size=15).map("".join)
anything = st.one_of(generated_like, st.text(max_size=30))


@settings(max_examples=400, deadline=None)
@given(instruction=anything, response=anything, template=st.sampled_from(["plain", "alpaca", "llama2-chat"]))
def test_a_response_has_the_same_tokens_behind_its_prompt(tokenizer, instruction, response, template):
    prompt, answer = prompt_text(instruction, template), response_text(response, template)
    assert tokenizer.encode(prompt) + tokenizer.encode(answer) == tokenizer.encode(prompt + answer)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "Question: Sum {xs}.\nAnswer: sum(xs)"),
        (
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nSum {xs}.\n\n### Response:\nsum(xs)",
        ),
        ("llama2-chat", "[INST] Sum {xs}. [/INST] sum(xs) "),
    ],
)
def test_templates(template, text):
    assert prompt_text("Sum {xs}.", template) + response_text("sum(xs)", template) == text


def test_unknown_template():
    with pytest.raises(UserError, match="the template 'chatml' is unknown; allowed are plain, alpaca, llama2-chat"):
        prompt_text("Sum.", "chatml")


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ('def f(xs):\n    """Return the sum."""', "\n    return sum(xs)\n"),
        ('def f(xs):\n    """Return the sum."""\n', "    return sum(xs)\n"),
        ("Question: 3 + 4 is what?\nAnswer:", " 3 + 4 = 7. #### 7"),
        ("The ball did not fit in the box. The one that was too small was", " the box."),
        ("Tom takes the bread. Then", " he eats it."),
        ("3 + 4 =", " 7"),
    ],
)
def test_boundaries_of_the_benchmarks(tokenizer, prompt, answer):
    assert tokenizer.encode(prompt) + tokenizer.encode(answer) == tokenizer.encode(prompt + answer)


@settings(max_examples=300, deadline=None)
@given(text=anything)
def test_nothing_is_unknown_and_nothing_is_lost(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)


def test_a_text_cannot_contain_a_special_token(tokenizer):
    text = "<s>a</s> <pad>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token_id not in tokenizer.encode(text)


def test_special_tokens_and_size(tokenizer):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert len(tokenizer) == SIZE
    assert tokenizer.decode([5, 1, 2, 2], skip_special_tokens=True) == tokenizer.decode([5])


def test_words_of_the_corpus_are_single_tokens_with_their_space(tokenizer):
    assert tokenizer.tokenize("\n    return sum") == ["Ċ", "ĠĠĠĠ", "return", "Ġsum"]
    assert tokenizer.tokenize(" 4217") == ["Ġ4", "2", "1", "7"], "digits stand alone"


def test_training_does_not_depend_on_the_order_of_the_texts(directory, tmp_path):
    texts = list(corpus())
    random.Random(1).shuffle(texts)
    train_tokenizer(texts, SIZE, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_it_stays_the_same_beside_a_llama_model(directory, tokenizer, tmp_path):
    """A model directory holds both; AutoTokenizer (lm-eval uses it) must not build Llama's own from it."""
    from transformers import AutoTokenizer, LlamaConfig

    LlamaConfig(vocab_size=SIZE, hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    beside = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*list(corpus())[:4], " two  spaces\n\n</s> é"):
        assert beside.encode(text) == tokenizer.encode(text)
        assert beside.decode(beside.encode(text)) == text


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("258")):
        train_tokenizer(["a"], 258, tmp_path)
