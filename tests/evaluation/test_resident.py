"""Models that take each other's place in memory, against models that are loaded afresh."""

import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from scripts.components.methods import METHODS, method_of
from scripts.evaluation import resident
from scripts.evaluation.harness import Harness
from scripts.evaluation.placement import Place, Precision
from scripts.evaluation.resident import Adapter, Resident
from scripts.loading.models import load_model
from tests.evaluation.conftest import write_records
from tests.evaluation.test_memory import Peak
from tests.training.architectures import ARCHITECTURES, make

TOKENS = torch.arange(3, 35).view(2, 16)
CPU = torch.device("cpu")
LORA = {"kind": "lora", "rank": 4, "alpha": 8}
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "of another rank": LORA | {"rank": 8, "modules": ["down_proj", "q_proj"]},
    "rslora": LORA | {"scaling": "rank_stabilized", "modules": "mlp"},
    "dora": LORA | {"decomposed": True},
    "pissa": LORA | {"initialization": "pissa", "modules": "attention"},
}
EMBEDDINGS = {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "of embeddings": (EMBEDDINGS, {"save_embedding_layers": False}),
    "with embeddings": (EMBEDDINGS, {"save_embedding_layers": True}),
    "with a whole module": ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, {}),
    "with biases": ({"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}, {}),
    "with biases of its own": ({"target_modules": ["q_proj"], "lora_bias": True}, {}),
    "of layers twice": ({"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 2]]}, {}),
}
"""Adapters of peft, and how it is told to save them."""


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With biases, as some models have them, in numbers that bf16 does not hold."""
    directory = tmp_path_factory.mktemp("network")
    shape = LlamaConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_bias=True,
        initializer_range=0.2,
        tie_word_embeddings=request.param,
    )
    torch.manual_seed(3)
    model = LlamaForCausalLM(shape)
    for name, weight in model.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def runs(network: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """What methods and peft's own users would have written after a training, and its kind."""
    found = {}
    for number, (name, method) in enumerate(ADAPTERS.items()):
        model = method_of(method).build(network, number, None, "fp32")
        found[name] = (written(model, tmp_path_factory.mktemp("run"), METHODS["lora"].save, number), "lora")
    for number, (name, (settings, saved)) in enumerate(PUBLISHED.items()):
        config = LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **settings)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(network), config)
        out = tmp_path_factory.mktemp("run")
        found[name] = (written(model, out, partial(save_peft, **saved), 10 + number), "lora")
    model = AutoModelForCausalLM.from_pretrained(network)
    found["full"] = (written(model, tmp_path_factory.mktemp("run"), METHODS["full"].save, 20), "full")
    return found


def save_peft(model: Any, out: Path, **saved: Any) -> None:
    model.save_pretrained(out, **saved)


def written(model: Any, out: Path, save: Callable[[Any, Path], object], seed: int) -> Path:
    """After every weight that is trained has gone somewhere."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    save(model, out)
    return out


def state(model: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        logits = model(TOKENS).logits
    return {"logits": logits, **model.state_dict(), **dict(model.named_buffers())}


def require_same(found: Any, expected: Any) -> None:
    one, other = state(found), state(expected)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert {value.dtype for value in found.parameters()} == {value.dtype for value in expected.parameters()}
    assert not found.training


def fresh(network: Path, place: Place, run: Path | None, kind: str | None) -> Any:
    return place.put(load_model(network, run, kind))


ORDER = (
    *(None, "lora", "full", "of another rank", None, "dora", "lora", "pissa", "rslora", "of embeddings", "dora"),
    *("with a whole module", "with embeddings", "of another rank", "with biases", "of embeddings", None),
    *("with biases of its own", "of layers twice", "lora"),
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_model_is_bit_for_bit_what_is_loaded_afresh(
    network: Path, runs: dict[str, tuple[Path, str]], precision: Precision
) -> None:
    place = Place(CPU, precision)
    models = Resident(network, place.put)
    seen = []
    for name in ORDER:
        run, kind = runs[name] if name else (None, None)
        model = models.model(run, kind)
        require_same(model, fresh(network, place, run, kind))
        assert models.model(run, kind) is model
        seen.append(state(model)["logits"])
    assert len({tuple(logits.flatten().tolist()) for logits in seen}) == len(set(ORDER)), "models differ"


def test_what_is_no_adapter_alone_is_loaded_whole(network: Path, runs: dict[str, tuple[Path, str]]) -> None:
    simple = {name for name, (run, kind) in runs.items() if kind == "lora" and Adapter.read(network, run)}
    assert simple == {*ADAPTERS, "of embeddings"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_base_model_is_read_once_for_all_adapters(
    network: Path, runs: dict[str, tuple[Path, str]], tmp_path: Path, precision: Precision
) -> None:
    """Its file is gone from the first adapter on, which adapts all that the others do."""
    place = Place(CPU, precision)
    expected = {name: fresh(network, place, *runs[name]) for name in ADAPTERS}
    alone = fresh(network, place, None, None)
    shutil.copytree(network, tmp_path / "base")
    models = Resident(tmp_path / "base", place.put)
    for name in ADAPTERS:
        require_same(models.model(*runs[name]), expected[name])
        (tmp_path / "base/model.safetensors").unlink(missing_ok=True)
    require_same(models.model(None, None), alone)
    with pytest.raises(OSError, match="safetensors"):
        models.model(*runs["of embeddings"])


def test_an_adapter_that_breaks_off_leaves_nothing(
    network: Path, runs: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(CPU, "fp32")
    models = Resident(network, place.put)
    models.model(*runs["of another rank"])
    merge, merged = lora.Linear.merge, []

    def some(layer: Any, *rest: Any) -> None:
        merged.append(layer)
        if len(merged) == 5:
            raise MemoryError
        merge(layer, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(lora.Linear, "merge", some)
        with pytest.raises(MemoryError):
            models.model(*runs["lora"])
    require_same(models.model(*runs["of another rank"]), fresh(network, place, *runs["of another rank"]))
    require_same(models.model(None, None), fresh(network, place, None, None))


def test_two_models_are_never_there_at_once(
    network: Path, runs: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[weakref.ref[Any]] = []

    def load(*named: Any) -> Any:
        assert not any(one() for one in there)
        model = load_model(*named)
        there.append(weakref.ref(model.get_input_embeddings().weight))
        return model

    monkeypatch.setattr(resident, "load_model", load)
    models = Resident(network, Place(CPU, "bf16").put)
    for name in ("full", "lora", "full", "of embeddings", "full"):
        models.model(*runs[name])
    assert len(there) == 5


def test_an_adapter_takes_the_memory_of_what_it_adapts(tmp_path: Path) -> None:
    """In a network that is mostly embeddings: what is made while one follows another, and what is there after it."""
    shape = LlamaConfig(
        vocab_size=10000, hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=2
    )
    (base := tmp_path / "base").mkdir()
    LlamaForCausalLM(shape).save_pretrained(base)
    out = [tmp_path / "one", tmp_path / "other"]
    for number, run in enumerate(out):
        run.mkdir()
        written(method_of(LORA).build(base, number, None, "fp32"), run, METHODS["lora"].save, number)
    adapted = 4 * 6 * (4 * 64 * 64 + 3 * 64 * 128)
    models = Resident(base, Place(CPU, "fp32").put)
    models.model(out[0], "lora")
    with Peak() as peak:
        model = models.model(out[1], "lora")
    adapter = (out[1] / "adapter_model.safetensors").stat().st_size
    assert adapted < peak.most < adapted + 2 * adapter + 4 * 4 * 64 * 128
    assert peak.most < 4 * 2 * 10000 * 64 / 3, "that of a model is told apart"
    assert sum(weight.nbytes for weight in models._own.values()) == adapted
    assert sum(weight.untyped_storage().nbytes() for weight in model.parameters()) == 4 * model.num_parameters()


def test_a_harness_finds_of_each_model_what_one_of_its_own_finds(base: Path, tmp_path: Path) -> None:
    items = [{"question": f"{'the cat ' * n}?", "answer": f"#### {n}"} for n in range(1, 4)]
    records = write_records(tmp_path, {"gsm8k": items})
    tasks = {"gsm8k": {"task": "gsm8k", "shots": 0, "max_new_tokens": 8}}
    runs: list[tuple[Path | None, str | None]] = [(None, None)]
    for number, method in enumerate((LORA, LORA | {"rank": 8, "decomposed": True})):
        (out := tmp_path / str(number)).mkdir()
        runs.append(
            (written(method_of(method).build(base, number, None, "fp32"), out, METHODS["lora"].save, 1), "lora")
        )
    one = Harness(tasks, records, base)
    texts = []
    for run, kind in [*runs, *reversed(runs)]:
        samples, _ = one.write(run, kind, "gsm8k")
        assert samples == Harness(tasks, records, base).write(run, kind, "gsm8k")[0]
        texts.append(str(samples))
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "GPT-2" else pytest.mark.slow)
        for name in ARCHITECTURES
        if name != "Gemma2"  # is not trained here
    ],
)
def test_every_architecture(name: str, tmp_path: Path) -> None:
    """Others call their modules otherwise, keep weights the other way round (GPT-2), or several in one."""
    place = Place(CPU, "fp32")
    base = make(name, tmp_path / "base")
    models = Resident(base, place.put)
    for number, change in enumerate([{}, {"decomposed": True}, {"initialization": "pissa"}]):
        (out := tmp_path / str(number)).mkdir()
        method = method_of(LORA | {"modules": "attention"} | change)
        written(method.build(base, number, None, "fp32"), out, METHODS["lora"].save, number)
        assert Adapter.read(base, out)
        require_same(models.model(out, "lora"), fresh(base, place, out, "lora"))
    require_same(models.model(None, None), fresh(base, place, None, None))
