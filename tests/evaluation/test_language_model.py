"""Likelihoods are lm-eval's, samples depend on no batch, and a batch that does not fit becomes smaller."""

import hashlib
import os
import random
import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from scipy.stats import kstest
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from scripts.common.errors import UserError
from scripts.common.progress import Progress
from scripts.components.memory import LOGITS_AT_ONCE, SCORE_BYTES
from scripts.data.encoding import Encoding
from scripts.evaluation import memory
from scripts.evaluation.journal import Journal
from scripts.evaluation.language_model import LanguageModel, _Answers, _ending, _Row, _silent
from scripts.evaluation.noise import uniform
from tests.evaluation.conftest import sentence
from tests.training import architectures

pytestmark = pytest.mark.arithmetic

Request = tuple[None, list[int], list[int]]


def requests(vocabulary: int, longest: int) -> list[Request]:
    """Choices behind contexts of their own and in common, of one token and of many, too long ones, and documents."""
    rng = random.Random(5)

    def ids(count: int) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(count)]

    found: list[tuple[list[int], list[int]]] = []
    for length in (1, 3, longest // 2, longest // 2):
        context = ids(length)
        found += [(context, ids(1)) for _ in range(4)]
        found += [(context, ids(rng.randint(2, 9))) for _ in range(4)]
        begun = ids(5)
        found += [(context, begun[:4]), (context, begun), (context + begun[:2], begun[2:])]
    found += [(ids(rng.randint(2, 20)), ids(rng.randint(1, 9))) for _ in range(6)]
    context = ids(longest + 3)  # loses its beginning
    found += [(context, ids(4)), (context, ids(4)), (context, ids(2))]
    found += [([1], ids(rng.randint(2, longest))) for _ in range(5)]  # as the windows of documents
    found += found[:3]
    return [(None, context, continuation) for context, continuation in found]


@pytest.fixture(scope="module")
def encoding(base: Path) -> Encoding:
    return Encoding.read(base)


ENOUGH = 2**31
FREE_OF_FOUR = LOGITS_AT_ONCE * SCORE_BYTES / (1 - memory.RESERVE) + 400_000
"""For about four sequences of these tiny models."""


@pytest.mark.parametrize("free", [0, FREE_OF_FOUR, ENOUGH])
@pytest.mark.parametrize("name", ["Llama, grouped queries", "Gemma2", "Mistral", "Granite", "GPT-2", "OPT", "GPT-NeoX"])
def test_likelihoods_are_lm_eval_s(
    name: str, free: int, encoding: Encoding, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Windows of 6 tokens, capped and scaled logits, learned positions."""
    model = AutoModelForCausalLM.from_pretrained(architectures.make(name, tmp_path)).eval()
    asked = requests(64, 64)
    # its cache takes the wrong positions where one text is cut at two places
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, logits_cache=False)
    ours = LanguageModel(model, encoding, free=lambda: free)
    assert ours.max_length == theirs.max_length == 64
    expected = theirs._loglikelihood_tokens(asked, disable_tqdm=True)
    found = ours._loglikelihood_tokens(asked)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-5, abs=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_the_greedy_continuation_is_known_as_such(encoding: Encoding, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    context = [5, 9, 40, 7]
    ids = list(context)
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    right = ids[4:]
    wrong = [*right[:2], right[2] + 1]
    found = LanguageModel(model, encoding)._loglikelihood_tokens([(None, context, right), (None, context, wrong)])
    assert [greedy for _, greedy in found] == [True, False]
    assert found[0][0] > found[1][0]


class Counted:
    """Notes the shape of every batch of tokens that a model reads."""

    def __init__(self, model: Any) -> None:
        self.shapes: list[tuple[int, ...]] = []
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_pre_hook(lambda _, given: self.shapes.append(tuple(given[0].shape)))


def test_a_context_is_read_once_for_all_its_choices(encoding: Encoding, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    counted = Counted(model)
    contexts = [list(range(3, 53)), list(range(60, 110))]
    asked: list[Request] = [(None, context, [7, 8 + choice, 9]) for context in contexts for choice in range(4)]
    lm = LanguageModel(model, encoding)
    lm._loglikelihood_tokens(asked)
    assert counted.shapes == [(2, 49), (8, 3)]
    counted.shapes.clear()
    lm._loglikelihood_tokens([(None, context, [8 + choice]) for context in contexts for choice in range(4)])
    assert counted.shapes == [(2, 50)], "choices of one token need nothing but their context"


def test_logits_are_computed_where_they_are_scored(
    encoding: Encoding, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    asked: list[Request] = [(None, list(range(3, 43 + n)), [7, 8, 9]) for n in range(6)]
    expected = LanguageModel(model, encoding)._loglikelihood_tokens(asked)
    sizes: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[:-1].numel()))
    monkeypatch.setattr(memory, "CPU_LOGITS", 4 * model.config.vocab_size + 1)
    found = LanguageModel(model, encoding)._loglikelihood_tokens(asked)
    assert sizes == [4, 4, 4, 4, 2], "3 positions of each of 6"
    assert found == [(pytest.approx(value, rel=1e-6), greedy) for value, greedy in expected]


def test_contexts_that_are_cut_are_told_of(encoding: Encoding, base: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    lm = LanguageModel(model, encoding)
    caplog.clear()
    lm._loglikelihood_tokens([(None, [5] * n, [7, 8]) for n in (10, 159, 160, 170)])
    assert [record.message for record in caplog.records] == [
        "2 of 4 contexts lost their beginning: with what follows they have more than the 160 tokens that the model can "
        "hold"
    ]


SAMPLED = {"until": ["~~~"], "do_sample": True, "temperature": 1.2, "top_p": 0.95, "max_gen_toks": 10}


def items(prompts: Sequence[str], samples: int = 1, **settings: Any) -> list[Instance]:
    """As lm-eval asks for several samples: each item several times, the very object."""
    asked = [Instance("generate_until", {}, (text, {**SAMPLED, **settings}), 0) for text in prompts]
    return [one for one in asked for _ in range(samples)]


def written(lm: LanguageModel, prompts: Sequence[str], samples: int = 1, **settings: Any) -> list[str]:
    return lm.generate_until(items(prompts, samples, **settings))


def test_a_sample_depends_on_seed_prompt_and_number_alone(encoding: Encoding, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    prompts = [sentence(random.Random(number), 3 + number) for number in range(5)]
    lm = LanguageModel(model, encoding, seed=3)
    first = written(lm, prompts, 6)
    groups = [first[start : start + 6] for start in range(0, 30, 6)]
    assert all(len(set(group)) > 3 for group in groups)
    torch.manual_seed(random.randrange(99))
    assert written(LanguageModel(model, encoding, seed=3, free=lambda: 0), prompts, 6) == first, "row by row"
    assert written(lm, prompts[::-1], 6) == [text for group in groups[::-1] for text in group], "in another order"
    assert written(lm, prompts[2:3], 4) == groups[2][:4], "fewer of one prompt, alone"
    longer = written(lm, prompts, 6, max_gen_toks=20)
    assert all(more.startswith(text) for more, text in zip(longer, first, strict=True)), "with more new tokens"
    assert written(LanguageModel(model, encoding, seed=4), prompts, 6) != first


def test_fewer_samples_are_the_first_of_more_although_items_have_the_same_prompt(
    encoding: Encoding, base: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    prompts = ["the cat", "a mat", "the cat", "the cat"]
    lm = LanguageModel(model, encoding)
    two, five = (written(lm, prompts, samples) for samples in (2, 5))
    groups = [five[start : start + 5] for start in range(0, 20, 5)]
    assert two == [text for group in groups for text in group[:2]]
    assert len({text for group in groups for text in group}) > 15, "items with one prompt are not asked the same"
    assert written(lm, prompts[:2], 5) == five[:10], "an item knows nothing of those behind it"


def test_a_prompt_is_encoded_once_for_all_its_samples(
    encoding: Encoding, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    real = encoding.prompts
    monkeypatch.setattr(encoding, "prompts", lambda texts: real(encoded.extend(texts) or texts))
    lm = LanguageModel(AutoModelForCausalLM.from_pretrained(base).eval(), encoding)
    written(lm, ["the cat", "a mat", "the cat"], 4)
    assert encoded == ["the cat", "a mat"]


@torch.no_grad()
def likeliest(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """Token by token without a cache."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_texts_that_come_and_go_are_those_written_alone(name: str, encoding: Encoding, tmp_path: Path) -> None:
    come_and_go(AutoModelForCausalLM.from_pretrained(architectures.make(name, tmp_path)).eval(), encoding)


@pytest.mark.parametrize(
    ("kind", "settings", "attention"),
    [
        ("llama", {}, "eager"),
        ("falcon", {"alibi": True, "new_decoder_architecture": False, "multi_query": True}, "sdpa"),
    ],
)
def test_texts_come_and_go_where_a_mask_must_be_added_or_makes_biases(
    kind: str, settings: dict[str, Any], attention: str, encoding: Encoding
) -> None:
    shape = {**architectures.config("Llama"), **settings, "model_type": kind}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = AutoConfig.for_model(**shape)
        come_and_go(AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval(), encoding)


def come_and_go(model: Any, encoding: Encoding) -> None:
    """Prompts longer and shorter than windows of 6 tokens, in 5 places; columns are moved to the front on the way."""
    rng, new = random.Random(4), 24
    prompts = [tuple(rng.randrange(3, 64) for _ in range(1 + 30 * n // 16)) for n in range(16, 0, -1)]
    lm = LanguageModel(model, encoding)
    free = [likeliest(model, prompt, new) for prompt in prompts]
    whole = [lm.tok_decode(ids) for ids in free]
    stops = [text[len(text) // 3] for text in whole[::4] if text] + ["~~~"]
    expected = [text[: min([text.find(stop) for stop in stops if stop in text], default=None)] for text in whole]
    assert len({len(text) for text in expected}) > 1
    kept = _Answers({str(number): (number,) for number in range(16)}, "answers", None, _silent)
    rows = [_Row(prompt, 0, 0, new, str(number)) for number, prompt in enumerate(prompts)]
    settings: dict[str, Any] = {"until": stops, "do_sample": False, "temperature": 0.0}
    assert lm._write(rows, 5, kept, **settings) == 16
    assert [kept.found[str(number)] for number in range(16)] == expected


def test_a_free_place_is_given_to_a_text_that_waits(encoding: Encoding, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    counted = Counted(model)
    lm = LanguageModel(model, encoding)
    samples = 5 * memory.CPU_ROWS // 4
    texts = written(lm, ["the cat sat", "a mat"], samples, until=["e", "a", "1"], max_gen_toks=60)
    lengths = sorted(len(text) for text in texts)
    assert lengths[samples // 2] < lengths[-1] / 3
    prompts = [shape for shape in counted.shapes if shape[1] > 1]
    steps = [shape[0] for shape in counted.shapes if shape[1] == 1]
    assert len(prompts) == 2, "what was read of a prompt is kept for its samples that wait"
    assert max(steps) <= memory.CPU_ROWS
    assert all(rows > memory.CPU_ROWS // 2 for rows in steps[: len(steps) // 3])


def test_only_tokens_that_can_end_a_stop_sequence_are_looked_at(encoding: Encoding) -> None:
    stops = ("\ndef", "~~~", "é")
    ending = _ending(encoding, stops)
    assert 0 < len(ending) < encoding.size / 2
    rng = random.Random(1)
    for _ in range(2000):
        (ids,) = encoding.texts([rng.choice(("xs", "", "a ")) + rng.choice(stops) + rng.choice(("", "ine", "~"))])
        before = ["", *(encoding.continuations([ids[:count]])[0] for count in range(1, len(ids)))]
        behind = [*before[1:], encoding.continuations([ids])[0]]
        for number, text, more in zip(ids, before, behind, strict=True):
            if any(more.count(stop) > text.count(stop) for stop in stops):
                assert number in ending


class DiedError(Exception):
    pass


class Mortal:
    """A model that dies as it is called for the `calls`th time; counts its calls."""

    def __init__(self, base: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(base).eval()
        self.calls, self.last = 0, -1
        self.die: Callable[[], None] = self._raise
        self.model.get_decoder().register_forward_pre_hook(self._enter, with_kwargs=True)

    def _enter(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if named["input_ids"] is None:
            return  # it is asked for logits of hidden states that it has
        if self.calls == self.last:
            self.die()
        self.calls += 1

    def _raise(self) -> None:
        raise DiedError

    def asked(self, encoding: Encoding, journal: Journal | None = None) -> tuple[list[str], list[tuple[Any, bool]]]:
        """Likelihoods and texts, one after another: of a text no more than the 11 calls that it takes are lost."""
        lm = LanguageModel(self.model, encoding, free=lambda: 0, journal=journal)
        prompts = [sentence(random.Random(number), 3 + number) for number in range(4)]
        texts = lm.generate_until(items(prompts, 4, until=["e", "~~~"], temperature=0.6))
        found = lm._loglikelihood_tokens(requests(encoding.size, 100))
        return texts, [(pytest.approx(value, rel=1e-5, abs=1e-5), greedy) for value, greedy in found]


def test_what_an_evaluation_found_before_it_died_is_not_computed_again(
    encoding: Encoding, base: Path, tmp_path: Path
) -> None:
    mortal, rng = Mortal(base), random.Random(6)
    expected = mortal.asked(encoding)
    undisturbed, mortal.calls = mortal.calls, 0
    deaths = 0
    while True:
        mortal.last = mortal.calls + rng.randrange(1, 40)
        journal = Journal(tmp_path / "journal")
        try:
            found = mortal.asked(encoding, journal)
            break
        except DiedError:
            deaths += 1
        finally:
            journal.close()
    assert found == expected
    assert deaths > 5
    assert mortal.calls <= undisturbed + 11 * deaths
    mortal.last = mortal.calls
    assert mortal.asked(encoding, Journal(tmp_path / "journal")) == expected, "all of it is there"


def test_what_an_evaluation_found_survives_sigkill(encoding: Encoding, base: Path, tmp_path: Path) -> None:
    mortal = Mortal(base)
    expected = mortal.asked(encoding)
    undisturbed, mortal.calls = mortal.calls, 0
    mortal.die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    mortal.last = undisturbed * 2 // 3
    process = get_context("fork").Process(target=lambda: mortal.asked(encoding, Journal(tmp_path / "journal")))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    mortal.last = -1
    assert mortal.asked(encoding, Journal(tmp_path / "journal")) == expected
    assert undisturbed / 3 <= mortal.calls <= undisturbed / 3 + 12


def test_progress_counts_answers_and_those_that_were_there(encoding: Encoding, base: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    clock = iter(range(0, 10**6, 100))

    def progress(unit: str, total: int, done: int) -> Progress:
        return Progress("hellaswag", unit, total, done, say=lines.append, clock=lambda: float(next(clock)))

    model = AutoModelForCausalLM.from_pretrained(base).eval()
    journal = Journal(tmp_path / "journal")
    lm = LanguageModel(model, encoding, journal=journal, progress=progress, free=lambda: 0)
    asked: list[Request] = [(None, [5, 6 + n], [7, 8]) for n in range(4)]
    lm._loglikelihood_tokens(asked[:3])
    assert [line.partition(", ")[0] for line in lines] == [f"hellaswag: {n} of 3 likelihoods" for n in (1, 2, 3)]
    lines.clear()
    lm._loglikelihood_tokens(asked)
    assert lines == ["hellaswag: 4 of 4 likelihoods, 0.01/s, 0:00:00 left"]
    lines.clear()
    written(lm, ["the cat"], 2)
    assert [line.partition(", ")[0] for line in lines] == [f"hellaswag: {n} of 2 answers" for n in (1, 2)]


def test_noise_is_uniform_and_independent() -> None:
    rows = np.array([uniform(0, [3, 1, 4], sample, 64) for sample in range(64)])
    assert rows.dtype == np.float32
    assert 0 <= rows.min() <= rows.max() < 1
    assert kstest(rows.flatten(), "uniform").pvalue > 0.01
    correlations = np.corrcoef(rows) - np.eye(64)
    assert np.abs(correlations).max() < 0.6
    assert np.array_equal(uniform(0, [3, 1, 4], 5, 7), rows[5, :7])
    others = [(0, [3, 1, 4], 1), (1, [3, 1, 4], 0), (0, [31, 4], 0), (0, [3, 14], 0), (0, [3, 1], 4), (0, [1, 3, 4], 0)]
    first = [uniform(*one, 1) for one in [(0, [3, 1, 4], 0), *others]]  # type: ignore[arg-type]
    first += [uniform(0, [3, 1, 4], 0, 1, occurrence) for occurrence in (1, 2)]
    found = sorted(float(number) for (number,) in first)
    assert all(one != other for one, other in pairwise(found))


def philox(key: int, counter: int) -> list[int]:
    """Four numbers of 64 bits: Philox 4x64-10 as its authors write it (Salmon et al. 2011, section 4.3)."""
    c, k = [counter, 0, 0, 0], [key % 2**64, key >> 64]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [second >> 64 ^ c[1] ^ k[0], second % 2**64, first >> 64 ^ c[3] ^ k[1], first % 2**64]
        k = [(k[0] + 0x9E3779B97F4A7C15) % 2**64, (k[1] + 0xBB67AE8584CAA73B) % 2**64]
    return c


def test_noise_is_a_function_of_key_and_position() -> None:
    assert philox(0, 0)[:2] == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC], "Random123's known answer"
    key = int.from_bytes(hashlib.sha256(b"7 2 3 1 4").digest()[:16], "little")
    raw = [number for block in range(1, 4) for number in philox(key, block)]  # numpy counts from 1
    assert uniform(7, [3, 1, 4], 2, 12).tolist() == [(number >> 40) / 2**24 for number in raw]


class Short:
    """A device whose memory holds `tokens` tokens of a pass, with what a cache keeps of the rows; then it raises."""

    def __init__(self, model: Any, tokens: int) -> None:
        self.most = 0

        def enter(_: Any, given: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
            ids, mask = named["input_ids"], named.get("attention_mask")
            if ids is None:
                return  # it is asked for logits of hidden states that it has
            size = ids.shape[0] * (ids.shape[1] if mask is None else mask.shape[-1])
            if size > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.most = max(self.most, size)

        model.get_decoder().register_forward_pre_hook(enter, with_kwargs=True)


@pytest.mark.parametrize("tokens", [160, 600])
def test_less_memory_than_planned_changes_no_answer(tokens: int, encoding: Encoding, base: Path) -> None:
    load: Callable[[], Any] = lambda: AutoModelForCausalLM.from_pretrained(base).eval()  # noqa: E731
    asked = requests(encoding.size, 100)
    prompts = [sentence(random.Random(number), 2 + number) for number in range(4)]
    lm = LanguageModel(load(), encoding)
    scores, texts = lm._loglikelihood_tokens(asked), written(lm, prompts, 5)
    model = load()
    short = Short(model, tokens)
    lm = LanguageModel(model, encoding)
    found = lm._loglikelihood_tokens(asked)
    assert found == [(pytest.approx(value, rel=1e-5, abs=1e-5), greedy) for value, greedy in scores]
    assert written(lm, prompts, 5) == texts
    assert tokens / 4 < short.most <= tokens


def test_less_memory_than_one_sequence_takes_is_one_sentence(encoding: Encoding, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    Short(model, 20)
    lm = LanguageModel(model, encoding)
    with pytest.raises(UserError, match=r"^one sequence takes more memory than is free on "):
        lm._loglikelihood_tokens([(None, [5] * 30, [7, 8])])
    with pytest.raises(UserError, match=r"^one sequence takes more memory than is free on "):
        written(lm, [sentence(random.Random(0), 25)])


def test_max_length_counts_the_prompt(encoding: Encoding, base: Path) -> None:
    """A text has the tokens that its own prompt leaves of the length, and begins as with more of them."""
    lm = LanguageModel(AutoModelForCausalLM.from_pretrained(base).eval(), encoding)
    prompts = [sentence(random.Random(number), 2 + 9 * number) for number in range(3)]
    greedy = {"do_sample": False, "until": ["~~~"]}
    whole = 1 + max(len(ids) for ids in encoding.prompts(prompts))
    limited, free = (
        lm.generate_until([Instance("generate_until", {}, (text, {**greedy, **most}), 0) for text in prompts])
        for most in ({"max_length": whole}, {"max_gen_toks": whole})
    )
    for prompt, short, long in zip(encoding.prompts(prompts), limited, free, strict=True):
        alone = likeliest(lm.model, tuple(prompt), whole - len(prompt))
        assert short == lm.tok_decode(alone)
        assert long.startswith(short)
