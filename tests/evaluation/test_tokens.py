"""What a model is asked begins, joins and ends as what it was trained on, whatever its tokenizer is."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.common.errors import UserError
from scripts.components.templates import DAY, TEMPLATES
from scripts.data import rows
from scripts.data.batches import Batches
from scripts.data.encoding import Encoding
from scripts.data.records import FILE
from scripts.evaluation import language_model
from scripts.evaluation.harness import Harness
from scripts.evaluation.language_model import LanguageModel
from scripts.training.objective import Objective, backward
from tests.evaluation.conftest import random_llama
from tests.standins.judge import JudgeServer
from tests.vocabularies import BEGIN_AND_END, CHATS, FAMILIES, chat, llama_2

Choices = dict[str, str]
FIRST = [{"instruction": "Who sings?", "response": "She sings."}]
EXAMPLES = [
    *FIRST,
    {"instruction": "Add  two\n\tand 1234.", "response": "The sum is 1236.\n\n    #### 1236"},
    {"instruction": "Say </s> or <|im_end|>", "response": "  <s> 😀 é </s>"},
]
DOCUMENTS = [{"text": text} for text in ("It rains.\n\n  It pours.", " def f(x):\n    return x\n", "</s> <s> 😀", "a")]
TEXT = (
    st.lists(
        st.sampled_from(
            ["Add", " the", "\n", "    ", " ", "  ", "42", " 7", "😀", "é", "</s>", "<s>", "<|im_end|>", "=", "."]
        ),
        max_size=8,
    )
    .map("".join)
    .filter(str.strip)  # a blank one is refused
)
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models with the tokenizer of each family, and more embeddings than tokens."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("bases")
    for name, make in FAMILIES.items():
        (root / name).mkdir()
        random_model(seed=1).save_pretrained(root / name)
        make(root / name)
    return {name: root / name for name in FAMILIES}


def random_model(seed: int) -> LlamaForCausalLM:
    return random_llama(seed, vocab_size=1024, max_position_embeddings=256, initializer_range=0.2)


def made_rows(tokenizer: Path, records: list[dict[str, str]], out: Path, **spec: Any) -> Path:
    """Rows as the data stage makes them."""
    out.mkdir(parents=True)
    (out / FILE).write_text("".join(json.dumps(record) + "\n" for record in records))
    layout = {"sequence_length": 128, "batch_rows": len(records), "group_rows": len(records), "seed": 0}
    ift = {"packing": "none", "max_epochs": 1} if spec["regime"] == "ift" else {}
    rows.build(layout | ift | spec, SimpleNamespace(inputs=lambda: [out, tokenizer]), out)  # type: ignore[arg-type]
    return out


def examples_of(directory: Path) -> list[tuple[list[int], list[int]]]:
    """The prompt and the response of every example in rows."""
    tokens, offsets, lengths = (np.load(directory / f"{n}.npy") for n in ("tokens", "offsets", "prompt_lengths"))
    whole = [tokens[begin:end].tolist() for begin, end in pairwise(offsets)]
    return [(ids[:cut], ids[cut:]) for ids, cut in zip(whole, lengths, strict=True)]


class Recording(LanguageModel):
    """Keeps what the model would be asked, token by token, and answers nothing."""

    asked: list[Any]

    def _loglikelihood_tokens(self, requests: list[Any], *_: Any, **__: Any) -> list[tuple[float, bool]]:
        self.asked += [(context, continuation) for _, context, continuation in requests]
        return [(-1.0, False)] * len(requests)

    def _write(self, rows: Any, places: int, *, answers: Any, **_: Any) -> int:
        self.asked += [list(row.prompt) for row in rows]
        answers.keep({row.key: "" for row in rows})
        return len(rows)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(Recording, "asked", found, raising=False)
    monkeypatch.setattr(language_model, "LanguageModel", Recording)
    return found


def lines(directory: Path, records: list[dict[str, Any]]) -> Path:
    path = directory / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@each_family
@pytest.mark.parametrize("join", ["separate", "together"])
@settings(max_examples=10)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=6), bos=st.sampled_from(["tokenizer", "none"]))
def test_a_held_out_response_is_asked_as_it_stands_in_rows(
    family: str, join: str, bases: dict[str, Path], pairs: list[tuple[str, str]], bos: str
) -> None:
    records = [{"instruction": instruction, "response": response} for instruction, response in pairs]
    choices = {"bos": bos, "join": join}
    with TemporaryDirectory() as where, recorded() as asked:
        directory = Path(where)
        trained = examples_of(made_rows(bases[family], records, directory / "rows", regime="ift", **choices))
        settings = {"target_loss": {"task": "target_loss", **choices}}
        harness = Harness(settings, {"target_loss": lines(directory, records)}, bases[family])
        harness.score(None, None, ["target_loss"])
    eos = Tokenizer.from_file(str(bases[family] / "tokenizer.json")).token_to_id(BEGIN_AND_END[family][1])
    assert [(prompt, [*response, eos]) for prompt, response in asked] == trained


@contextmanager
def recorded() -> Iterator[list[Any]]:
    """As the fixture `asked`, for a test whose function runs many times."""
    with pytest.MonkeyPatch.context() as patch:
        found: list[Any] = []
        patch.setattr(Recording, "asked", found, raising=False)
        patch.setattr(language_model, "LanguageModel", Recording)
        yield found


@each_family
@pytest.mark.parametrize("bos", ["tokenizer", "none"])
def test_a_held_out_document_is_asked_as_it_stands_in_rows(
    family: str, bos: str, bases: dict[str, Path], tmp_path: Path, asked: list[Any]
) -> None:
    """Rows are one stream: what the tokenizer puts before a document, its text, the token that ends it."""
    layout = {"sequence_length": 4, "batch_rows": 1, "group_rows": 1}
    directory = made_rows(bases[family], DOCUMENTS, tmp_path / "rows", regime="cpt", bos=bos, **layout)
    stream = np.load(directory / "rows.npy").flatten().tolist()
    harness = Harness(
        {"source_loss": {"task": "source_loss", "bos": bos}}, {"source_loss": lines(tmp_path, DOCUMENTS)}, bases[family]
    )
    harness.score(None, None, ["source_loss"])
    tokenizer = Tokenizer.from_file(str(bases[family] / "tokenizer.json"))
    begin, end = ([tokenizer.token_to_id(name) for name in names] for names in _names(family, bos))
    assert {tuple(context) for context, _ in asked} == {tuple((begin or end)[-1:])}
    # in some order, and the last ones cut off where no row is full
    wanted = {(*begin, *text, *end) for _, text in asked}
    while stream:
        first = next(one for one in wanted if tuple(stream[: len(one)]) == one[: len(stream)])
        wanted.remove(first)
        stream = stream[len(first) :]
    assert len(wanted) <= 1


@each_family
@pytest.mark.parametrize("bos", ["tokenizer", "none"])
def test_a_document_of_a_row_is_a_segment_of_its_own(
    family: str, bos: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """With what begins it and what ends it, so that attention `within` documents begins where they do."""
    layout = {"sequence_length": 32, "batch_rows": 1, "group_rows": 1}
    documents = [{"text": "ab"}, {"text": "a</s>b"}] * 8
    batches = Batches(made_rows(bases[family], documents, tmp_path / "rows", regime="cpt", bos=bos, **layout))
    tokenizer = Tokenizer.from_file(str(bases[family] / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    begin, end = ([tokenizer.token_to_id(name) for name in names] for names in _names(family, bos))
    wholes = [[*begin, *tokenizer.encode(d["text"], add_special_tokens=False).ids, *end] for d in documents[:2]]
    ids, numbers = batches.batch(0)[0][0], batches.segments(0)[0]
    found = [ids[numbers == number].tolist() for number in range(numbers[-1] + 1)]
    assert len(found) > 3
    assert all(segment in wholes for segment in found[:-1])
    assert any(whole[: len(found[-1])] == found[-1] for whole in wholes)


def _names(family: str, bos: str) -> tuple[list[str], list[str]]:
    begin, end = BEGIN_AND_END[family]
    return (begin if bos == "tokenizer" else []), [end]


@each_family
@pytest.mark.parametrize("bos", ["tokenizer", "none"])
def test_a_benchmark_begins_as_rows_do(
    family: str, bos: str, bases: dict[str, Path], tmp_path: Path, asked: list[Any]
) -> None:
    items = {
        "gsm8k": [{"question": "Who?", "answer": "#### 1"}, {"question": "How many  are\n4?", "answer": "#### 2"}],
        "winogrande": [{"sentence": "It is _ now.", "option1": "so", "option2": "no", "answer": "1"}] * 2,
    }
    paths = {}
    for name, records in items.items():
        (tmp_path / name).mkdir()
        paths[name] = lines(tmp_path / name, records)
    settings = {name: {"task": name, "shots": 0, "bos": bos} for name in items}
    settings["gsm8k"]["max_new_tokens"] = 8
    harness = Harness(settings, paths, bases[family])
    tokenizer = Tokenizer.from_file(str(bases[family] / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=bos == "tokenizer").ids  # type: ignore[no-any-return]

    harness.score(None, None, ["gsm8k"])
    assert sorted(asked) == sorted(ids(f"Question: {item['question']}\nAnswer:") for item in items["gsm8k"])
    asked.clear()
    harness.score(None, None, ["winogrande"])
    wholes = [ids(f"It is {option} now.") for option in ("so", "no")]
    assert sorted({tuple(context + continuation) for context, continuation in asked}) == sorted(map(tuple, wholes))


def overfitted(base: Path, directory: Path, out: Path, *, loss_on: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Trains on three examples, writes the model to `out`; the sum of nats that training reports of chosen labels."""
    model = AutoModelForCausalLM.from_pretrained(base).train()
    objective = Objective(model, "fp32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids, labels = (torch.from_numpy(part) for part in Batches(directory).batch(0))
    for _ in range(60):
        optimizer.zero_grad()
        backward(objective, ids, labels, len(ids), loss="token_mean")
        optimizer.step()
    model.save_pretrained(out)
    mean, count = backward(objective, ids, loss_on(labels), len(ids), loss="token_mean")
    return float(mean) * count


@pytest.mark.parametrize(
    ("family", "choices"),
    [
        *((family, {"bos": "tokenizer", "join": "separate"}) for family in FAMILIES),
        ("llama-2", {"bos": "none", "join": "separate"}),
        ("llama-2", {"bos": "tokenizer", "join": "together"}),
        ("llama-2", {"bos": "tokenizer", "join": "separate", "template": "llama2-chat"}),
        ("llama-3", {"bos": "tokenizer", "join": "together", "template": "alpaca"}),
    ],
)
def test_the_target_loss_is_the_loss_that_training_reports(
    family: str, choices: Choices, bases: dict[str, Path], tmp_path: Path
) -> None:
    """On the examples themselves, but for the token that ends a response, which has no bytes."""
    directory = made_rows(bases[family], EXAMPLES, tmp_path / "rows", regime="ift", **choices)
    eos = Encoding.read(bases[family]).eos
    reported = overfitted(
        bases[family], directory, tmp_path / "run", loss_on=lambda labels: labels.masked_fill(labels == eos, -100)
    )
    asked = {"target_loss": {"task": "target_loss", **choices}}
    result = Harness(asked, {"target_loss": lines(tmp_path, EXAMPLES)}, bases[family]).score(
        tmp_path / "run", "full", ["target_loss"]
    )["target_loss"]
    form = TEMPLATES[choices.get("template", "plain")].response
    size = sum(len(form.format(example["response"]).encode()) for example in EXAMPLES)
    assert sum(sample["bytes"] for sample in result["samples"]) == size
    assert -sum(sample["loglikelihood"] for sample in result["samples"]) == pytest.approx(reported, rel=1e-3, abs=1e-3)
    assert result["value"] == pytest.approx(reported / math.log(2) / size, rel=1e-3, abs=1e-4)
    assert result["value"] < 0.1


@each_family
def test_what_was_learned_is_written_to_its_end(family: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """Spaces at the beginning are there, and eos ends the text although a stop sequence never comes."""
    directory = made_rows(bases[family], EXAMPLES, tmp_path / "rows", regime="ift", bos="tokenizer")
    overfitted(bases[family], directory, tmp_path / "run", loss_on=lambda labels: labels)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
    lm = LanguageModel(model, Encoding.read(bases[family]))
    arguments = {"until": ["~~~"], "do_sample": False, "max_gen_toks": 80}
    prompts = [TEMPLATES["plain"].prompt.format(example["instruction"]) for example in EXAMPLES]
    found = lm.generate_until([Instance("generate_until", {}, (prompt, {**arguments}), 0) for prompt in prompts])
    written = [TEMPLATES["plain"].response.format(example["response"]) for example in EXAMPLES]
    # encoded apart, a response of Llama-2 has a space more than its text
    more = " " if family.startswith("llama-2") else ""
    assert found == [more + text for text in written]


@each_family
@settings(max_examples=60)
@given(numbers=st.lists(st.integers(0, 10**6), max_size=12), ends=st.booleans())
def test_a_continuation_is_decoded_as_bigcode_does(
    family: str, bases: dict[str, Path], numbers: list[int], ends: bool
) -> None:
    """Prompt and program are decoded together, what begins the prompt is dropped, and the prompt is cut off."""
    tokenizer = Tokenizer.from_file(str(bases[family] / "tokenizer.json"))
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ordinary = sorted(set(range(tokenizer.get_vocab_size())) - special)
    program = [ordinary[number % len(ordinary)] for number in numbers]
    prompt = 'def f(xs):\n    """Adds them."""'
    whole = tokenizer.decode([*tokenizer.encode(prompt).ids, *program], skip_special_tokens=False)
    begin, end = BEGIN_AND_END[family]
    whole = whole.removeprefix("".join(begin)).removeprefix(" " if family.startswith("llama-2") else "")
    assert whole.startswith(prompt)
    lm = LanguageModel(AutoModelForCausalLM.from_pretrained(bases[family]), _encoding(bases[family]))
    behind = [tokenizer.token_to_id(end), *program] if ends else []
    assert lm.tok_decode([*program, *behind]) == whole.removeprefix(prompt)


_ENCODINGS: dict[Path, Encoding] = {}


def _encoding(directory: Path) -> Encoding:
    return _ENCODINGS.setdefault(directory, Encoding.read(directory))


def conversations(
    base: Path, run: Path, turns: list[str], new_tokens: int, choices: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Two of MT-bench with these turns of the user: the tokens of each prompt, and the samples."""
    judge = {"model": "judge", "temperature": 0.0, "url_variable": "SOME_JUDGE", "key_variable": "SOME_KEY"}
    questions = [{"question_id": n, "category": "c", "turns": turns} for n in range(2)]
    settings = {"task": "mt_bench", "max_new_tokens": new_tokens, "judge": judge, **choices}
    seen: list[list[int]] = []
    write = LanguageModel._write

    def noting(self: LanguageModel, rows: Any, *rest: Any, **named: Any) -> int:
        seen.extend(list(row.prompt) for row in rows)
        return write(self, rows, *rest, **named)

    monkeypatch.setattr(LanguageModel, "_write", noting)
    with JudgeServer() as server:
        monkeypatch.setenv("SOME_JUDGE", server.url)
        harness = Harness({"mt_bench": settings}, {"mt_bench": lines(run.parent, questions)}, base)
        result = harness.score(run, "full", ["mt_bench"])["mt_bench"]
    return seen, result["samples"]


@pytest.mark.parametrize(
    ("template", "prompts", "stop"),
    [
        ("plain", ["Question: {0}\nAnswer:", "Question: {0}\nAnswer: {a}\n\nQuestion: {1}\nAnswer:"], "\nQuestion:"),
        ("llama2-chat", ["[INST] {0} [/INST]", "[INST] {0} [/INST] {a} [INST] {1} [/INST]"], "[INST]"),
    ],
)
def test_a_conversation_is_in_the_setting_s_template(
    template: str, prompts: list[str], stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that answers, and then asks a question itself: its answer ends there."""
    records = [{"instruction": "Who?", "response": f"She.{stop} more"}, {"instruction": "How?", "response": "So."}]
    random_model(seed=2).save_pretrained(tmp_path)
    llama_2(tmp_path)
    choices = {"template": template, "join": "together", "bos": "tokenizer"}
    directory = made_rows(tmp_path, records, tmp_path / "rows", regime="ift", **choices)
    overfitted(tmp_path, directory, tmp_path / "run", loss_on=lambda labels: labels)
    seen, samples = conversations(tmp_path, tmp_path / "run", ["Who?", "How?"], 20, choices, monkeypatch)
    assert [sample["completions"][0] for sample in samples] == [" She."] * 2
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [prompt.format("Who?", "How?", a="She.") for prompt in prompts]
    assert seen == [tokenizer.encode(text).ids for text in texts for _ in range(2)]


@pytest.fixture(scope="module")
def chat_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models with the tokenizer of each chat model."""
    root = tmp_path_factory.mktemp("chats")
    for name in CHATS:
        (root / name).mkdir()
        random_model(seed=3).save_pretrained(root / name)
        chat(root / name, name)
    return {name: root / name for name in CHATS}


def applied(directory: Path, *texts: str, **more: Any) -> list[int]:
    """What transformers makes of a conversation whose turns are a user's and an assistant's."""
    roles = cycle(("user", "assistant"))
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    return list(tokenizer.apply_chat_template(messages, return_dict=True, date_string=DAY, **more)["input_ids"])


CHATTED = [
    {"instruction": "Who sings?", "response": "She sings."},
    {"instruction": "Add  two\n\tand 1234.", "response": "The sum is 1236.\n\n    #### 1236"},
    {"instruction": "Say é", "response": "😀 é 日本"},
]
CHAT_CHOICES = {"template": "chat", "bos": "tokenizer", "join": "separate"}
each_chat = pytest.mark.parametrize("name", CHATS)


@each_chat
def test_the_target_loss_of_a_chat_is_that_of_its_template(
    name: str, chat_bases: dict[str, Path], tmp_path: Path
) -> None:
    """By hand in float64, of the tokens that transformers gives, without the token that ends the turn; and in rows."""
    base, end = chat_bases[name], CHATS[name][3]
    number = PreTrainedTokenizerFast.from_pretrained(base).convert_tokens_to_ids(end)
    model = AutoModelForCausalLM.from_pretrained(base).double().eval()
    nats, size = [], 0
    for example in CHATTED:
        prompt = applied(base, example["instruction"], add_generation_prompt=True)
        whole = applied(base, example["instruction"], example["response"])
        stop = whole.index(number, len(prompt))
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([whole])).logits[0], -1)
        nats.append(sum(float(logs[place - 1, whole[place]]) for place in range(len(prompt), stop)))
        # Llama-2's writes a space on both sides
        size += len(example["response"].encode()) + (2 if name == "llama-2" else 0)
    records = lines(tmp_path, CHATTED)
    asked = {"target_loss": {"task": "target_loss", **CHAT_CHOICES}}
    result = Harness(asked, {"target_loss": records}, base).score(None, None, ["target_loss"])["target_loss"]
    assert [sample["loglikelihood"] for sample in result["samples"]] == pytest.approx(nats, rel=1e-4)
    assert sum(sample["bytes"] for sample in result["samples"]) == size
    assert result["value"] == pytest.approx(-sum(nats) / math.log(2) / size, rel=1e-4)
    for example, sample in zip(CHATTED, result["samples"], strict=True):
        (text,) = sample["completions"]
        assert text.strip() == example["response"]
        assert "\ufdd0" not in sample["prompts"][0]
    trained = examples_of(made_rows(base, CHATTED, tmp_path / "rows", regime="ift", **CHAT_CHOICES))
    wholes = [applied(base, example["instruction"], example["response"]) for example in CHATTED]
    assert [[*prompt, *learned] for prompt, learned in trained] == wholes


@pytest.mark.parametrize("name", ["qwen2.5", "llama-2", "llama-3", "gemma"])
def test_a_conversation_in_a_chat_template_ends_where_turns_do(
    name: str, chat_bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was trained on the template: no text stops it, and the answer is all that it writes."""
    base = chat_bases[name]
    directory = made_rows(base, CHATTED, tmp_path / "rows", regime="ift", **CHAT_CHOICES)
    overfitted(base, directory, tmp_path / "run", loss_on=lambda labels: labels)
    seen, samples = conversations(base, tmp_path / "run", ["Who sings?", "Say é"], 40, CHAT_CHOICES, monkeypatch)
    answers = [sample["completions"] for sample in samples]
    assert [first.strip() for first, _ in answers] == ["She sings."] * 2
    turns = ["Who sings?", "She sings.", "Say é"]
    assert seen == [applied(base, *turns[:count], add_generation_prompt=True) for count in (1, 3) for _ in range(2)]
    assert not any("\ufdd0" in prompt for sample in samples for prompt in sample["prompts"])


def test_a_response_of_which_a_template_leaves_nothing_cannot_be_scored(
    chat_bases: dict[str, Path], tmp_path: Path
) -> None:
    records = lines(tmp_path, [*CHATTED, {"instruction": "Who?", "response": " \n"}])
    asked = {"target_loss": {"task": "target_loss", **CHAT_CHOICES}}
    with pytest.raises(UserError, match=r"records\.jsonl, line 4: the response is empty; target_loss needs something"):
        Harness(asked, {"target_loss": records}, chat_bases["gemma"])
