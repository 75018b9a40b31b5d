"""Evaluation on a GPU against the CPU's, and within its memory: `make test-all ARGS='-m gpu'`."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from scripts.components.memory import written_bytes
from scripts.data.encoding import Encoding
from scripts.data.tokenizer import train_tokenizer
from scripts.evaluation.harness import Harness
from scripts.evaluation.language_model import LanguageModel
from scripts.evaluation.placement import Place, Precision, device_name
from tests.evaluation.conftest import WORDS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
NUMBER = random.Random(1)
TEXTS = [" ".join(NUMBER.choice(WORDS) for _ in range(20 + number)) for number in range(24)]
PAIRS = [(TEXTS[number % 6] * 4, f" {text}") for number, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.cuda.empty_cache()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that is sure of itself, with grouped queries."""
    directory = tmp_path_factory.mktemp("base")
    train_tokenizer(TEXTS, 300, directory)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.1,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(directory)
    return directory


def language_model(base: Path, device: str, precision: Precision = "fp32", **chosen: Any) -> LanguageModel:
    model = Place(torch.device(device), precision).put(LlamaForCausalLM.from_pretrained(base).eval())
    return LanguageModel(model, Encoding.read(base), **chosen)


def written(lm: LanguageModel, count: int = 1, **settings: Any) -> list[str]:
    arguments = {"until": ["~~~"], "do_sample": False, "max_gen_toks": 24, **settings}
    return lm.generate_until([Instance("generate_until", {}, (text, arguments), 0) for text in TEXTS * count])


def scored(lm: LanguageModel) -> torch.Tensor:
    """Nats of a token, of each pair."""
    found = lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in PAIRS])
    counts = [len(lm.tok_encode(text)) for _, text in PAIRS]
    return torch.tensor([value / count for (value, _), count in zip(found, counts, strict=True)])


def test_in_fp32_texts_and_likelihoods_are_the_cpu_s(base: Path) -> None:
    here, there = language_model(base, "cpu"), language_model(base, "cuda")
    assert there.model.device.type == "cuda"
    assert written(there) == written(here)
    assert (scored(there) - scored(here)).abs().max() < 1e-4


def test_in_fp32_samples_are_the_cpu_s(base: Path) -> None:
    """The same numbers decide them; a token on the edge between two may fall on either side."""
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
    pairs = zip(*(written(language_model(base, device), 4, **sampling) for device in ("cpu", "cuda")), strict=True)
    assert sum(one != other for one, other in pairs) <= 2


def test_in_bf16_likelihoods_are_near(base: Path) -> None:
    differences = (scored(language_model(base, "cuda", "bf16")) - scored(language_model(base, "cpu"))).abs()
    assert 0 < differences.mean() < 0.03


def test_a_study_s_evaluation_is_on_the_gpu(base: Path, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text('{"sentence": "the cat sat on _ mat.", "option1": "a", "option2": "one", "answer": "1"}\n' * 2)
    asked = {"winogrande": {"task": "winogrande", "shots": 0}}
    harness = Harness(asked, {"winogrande": records}, base, precision="bf16")
    result = harness.score(None, None, ["winogrande"])["winogrande"]
    where = {"device": device_name(torch.device("cuda")), "devices": 1, "precision": "bf16"}
    assert result["provenance"] == {"evaluation": where}
    assert torch.cuda.memory_allocated() > 0


def test_no_more_memory_is_taken_than_planned(base: Path) -> None:
    lm = language_model(base, "cuda", "bf16")
    written(lm)  # what the libraries keep for themselves is there afterwards
    before = torch.cuda.memory_allocated()
    for count in (4, 32):
        torch.cuda.reset_peak_memory_stats()
        written(lm, count)
        longest = max(len(lm.tok_encode(text)) for text in TEXTS)
        planned = count * len(TEXTS) * written_bytes(lm._shape, longest, longest + 24)
        assert torch.cuda.max_memory_allocated() - before < planned


def test_a_gpu_with_less_memory_than_planned_is_asked_for_less(base: Path) -> None:
    expected = written(language_model(base, "cuda"), 40)
    lm = language_model(base, "cuda", free=lambda: 10**15)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 60_000_000) / total)
    assert written(lm, 40) == expected
