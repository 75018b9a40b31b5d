"""A base model in a directory of one's own: locked by its files, planned by what they say, taken as they were."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.components.methods import method_of
from scripts.components.models.path import DirectoryEntry, PathModel
from scripts.data.products import builder as data_builder
from scripts.launch.launch import launch_by_hand
from scripts.models.products import builder
from scripts.study.load import load_study
from tests.conftest import House, copy_checkout
from tests.vocabularies import small, smollm2

ROOT = Path(__file__).resolve().parents[2]
SIZES = {
    "vocab_size": 1000, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "mistral": {"head_dim": 16, "sliding_window": 32},
}
SHAPE = {
    "hidden_size": 48, "intermediate_size": 80, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 12,
    "vocabulary": 1000, "context": 512,
}  # fmt: skip


def make(directory: Path, kind: str = "llama", dtype: str = "float32", **saved: Any) -> Path:
    """A tiny random model as plain transformers saves it, with a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **KINDS[kind]))
    model.to(getattr(torch, dtype)).save_pretrained(directory, **saved)
    return smollm2(directory)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made") / "mine")


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A tiny Llama, for one test alone."""
    return Path(shutil.copytree(made, tmp_path / "mine"))


def model(path: Path) -> PathModel:
    return PathModel.model_validate({"source": "path", "label": "mine", "path": str(path)})


def take(entry: dict[str, Any], place: Path, out: Path, make: str = "model") -> dict[str, bytes]:
    """What a job writes, of a model or of its tokenizer."""
    chosen, key = model(place), DirectoryEntry.key(str(place))
    context = BuildContext("models/path/directory-0123456789ab", "mine", out, {key: entry}, lambda: [])
    out.mkdir()
    if make == "model":
        spec = {"kind": "model", **chosen.spec(entry)}
        builder(spec)(spec, context, out)
    else:
        spec = {"kind": "tokenizer", **chosen.tokenizer_spec(entry)}
        data_builder(spec)(spec, context, out)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    ("kind", "dtype", "said"),
    [
        ("llama", "float32", {"tied": False}),
        ("qwen2", "bfloat16", {"tied": True}),
        ("mistral", "float16", {"tied": False, "head_dim": 16}),
    ],
)
def test_the_architecture_is_read_and_never_typed(tmp_path: Path, kind: str, dtype: str, said: dict[str, Any]) -> None:
    place = make(tmp_path / "mine", kind, dtype)
    entry = model(place).lock({})
    assert DirectoryEntry.has_form(entry)
    # as many as the shapes say: embedding and output layer, per layer four of attention, three of the MLP, two norms
    head = said.get("head_dim", 12)
    biases = (4 + 2 + 2) * head if kind == "qwen2" else 0
    layer = 2 * 48 * 4 * head + 2 * 48 * 2 * head + 3 * 48 * 80 + 2 * 48 + biases
    parameters = 1000 * 48 * (1 if said["tied"] else 2) + 2 * layer + 48
    assert entry["architecture"] == {**SHAPE, "parameters": parameters, "dtype": dtype, **said}
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}
    assert "generation_config.json" in sums
    assert entry["files"] == {name: sums[name] for name in sums.keys() - {"generation_config.json"}}

    known = PathModel.model_validate(model(place).model_dump(), context={f"directory:{place}": entry})
    assert (known.parameters, known.stored_bytes) == (parameters, parameters * (4 if dtype == "float32" else 2))
    lora = method_of({"kind": "lora", "rank": 3, "alpha": 1.0})
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    adapted: Any = get_peft_model(network, LoraConfig(r=3, target_modules="all-linear"))
    assert lora.trained_parameters(known) == adapted.get_nb_trainable_parameters()[0]


def test_what_was_locked_is_taken_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several files with weights; as a snapshot of the hub's cache, whose files are links."""
    monkeypatch.setenv("HOME", str(tmp_path))
    place = make(tmp_path / "blobs", max_shard_size="100KB")
    assert (place / "model.safetensors.index.json").is_file()
    for name in ("README.md", "training_args.bin", "stray.safetensors"):
        (place / name).write_bytes(b"other")
    snapshot = tmp_path / "models--owner--net/snapshots/0123"
    snapshot.mkdir(parents=True)
    for path in place.iterdir():
        (snapshot / path.name).symlink_to(path)
    snapshot = Path("~/models--owner--net/snapshots/0123")
    entry = model(snapshot).lock({})
    assert entry == model(place).lock({})
    left_out = {"README.md", "training_args.bin", "stray.safetensors", "generation_config.json"}
    expected = {path.name: path.read_bytes() for path in place.iterdir() if path.name not in left_out}
    assert take(entry, snapshot, tmp_path / "out") == expected
    assert not any((tmp_path / "out" / name).is_symlink() for name in expected)
    # a copy: what a person does to the file afterwards does not reach the store
    (place / "config.json").write_text("{}")
    assert (tmp_path / "out/config.json").read_bytes() == expected["config.json"]


def test_a_tokenizer_is_another_only_where_its_own_files_are(place: Path, tmp_path: Path) -> None:
    entry = model(place).lock({})
    before = model(place).tokenizer_spec(entry)
    assert take(entry, place, tmp_path / "out", "tokenizer").keys() == before["files"].keys()
    assert before["files"].keys() >= {"tokenizer.json", "config.json"}
    weights = load_file(place / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, place / "model.safetensors", {"format": "pt"})
    after = model(place).lock({})
    assert model(place).tokenizer_spec(after) == before
    assert model(place).spec(after) != model(place).spec(entry)


@pytest.mark.parametrize(("name", "gone"), [("model.safetensors", False), ("tokenizer.json", True)])
def test_files_that_changed_are_refused_with_the_command(place: Path, tmp_path: Path, name: str, gone: bool) -> None:
    entry = model(place).lock({})
    (place / name).unlink() if gone else (place / name).write_bytes(b"else")
    with pytest.raises(UserError) as refused:
        take(entry, place, tmp_path / "out")
    assert str(refused.value).startswith(f"{place}: its {name} is {'gone' if gone else 'not the one'}")
    assert "or lock what is there now with `" in str(refused.value)
    assert "scripts.data.lock --study mine`" in str(refused.value)


def test_a_model_is_taken_from_wherever_it_lies_here(place: Path, tmp_path: Path) -> None:
    """People who share a lock have it in directories of their own; it is one product."""
    entry = model(place).lock({})
    lock = {"directory:/home/another/mine": entry, f"directory:{place}": entry}
    spec = {"kind": "model", **model(place).spec(entry)}
    out = tmp_path / "out"
    out.mkdir()
    builder(spec)(spec, BuildContext("models/path/directory-0123456789ab", "mine", out, lock, lambda: []), out)
    assert {path.name for path in out.iterdir()} == entry["files"].keys()
    assert model(Path("/home/another/mine")).spec(entry) == model(place).spec(entry)


def rewritten(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        found = json.loads((place / name).read_text()) | changes
        (place / name).write_text(json.dumps({key: value for key, value in found.items() if value is not None}))

    return change


def pickled(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def of_no_end(place: Path) -> None:
    small(place, tokenizer_config={}, config={"eos_token_id": None})


def gone(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).unlink()


def halved(place: Path) -> None:
    weights = load_file(place / "model.safetensors")
    save_file(dict(list(weights.items())[::2]), place / "model.safetensors")


def below(place: Path) -> None:
    (place / "snapshots").mkdir()
    inner = place / "snapshots" / "0123"
    inner.mkdir()
    (place / "config.json").rename(inner / "config.json")


def as_gguf(place: Path) -> None:
    shutil.rmtree(place)
    place.write_bytes(b"GGUF" + bytes(20))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (pickled, "has pickled weights alone (pytorch_model.bin), which are never loaded; safetensors are needed"),
        (gone("model.safetensors"), "has no weights; safetensors are needed"),
        (gone("tokenizer.json"), "has no tokenizer.json; save the model's tokenizer beside its weights"),
        (of_no_end, "does not say which token ends a text"),
        (gone("config.json"), "has no config.json, so it is no model of transformers"),
        (below, "has no config.json, so it is no model of transformers; there is one in snapshots/0123"),
        (lambda place: (place / "adapter_config.json").write_text("{}"), "holds an adapter (adapter_config.json)"),
        (shutil.rmtree, "is not there; a directory that"),
        (as_gguf, "is a GGUF file; a directory that"),
        (rewritten("config.json", quantization_config={"quant_method": "gptq"}), "its weights are quantized (gptq"),
        (rewritten("config.json", model_type="t5", is_encoder_decoder=True), "is an encoder with a decoder"),
        (rewritten("config.json", model_type="nobody-has-it"), "no causal language model of its config.json"),
        (rewritten("config.json", vocab_size=10), "tokens, and its embedding 10 rows (vocab_size)"),
        (rewritten("config.json", num_hidden_layers=3), "they are not whole, or of another model"),
        (halved, "they are not whole, or of another model"),
        (lambda place: (place / "model.safetensors").write_bytes(b"version https://git-lfs"), "cannot be read as safe"),
        (lambda place: (place / "config.json").write_text("{"), "config.json is not valid JSON"),
    ],
)  # fmt: skip
def test_what_is_no_such_model_is_refused_when_it_is_locked(
    place: Path, change: Callable[[Path], Any], said: str
) -> None:
    change(place)
    with pytest.raises(UserError) as refused:
        model(place).lock({})
    assert str(refused.value).startswith(f"{place}: ")
    assert said in str(refused.value)


def test_weights_in_whole_numbers_are_refused(place: Path) -> None:
    weights = load_file(place / "model.safetensors")
    save_file({name: value.astype(np.int8) for name, value in weights.items()}, place / "model.safetensors")
    with pytest.raises(UserError, match="its weights are in I8; allowed are F64, F32, F16, BF16"):
        model(place).lock({})


def test_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of it is planned before it is locked, checked when it is, and made."""
    house = House(copy_checkout(ROOT, tmp_path / "house"))

    def of_ones_own(study: dict[str, Any]) -> None:
        study["model"] = {"label": "mine", "source": "path", "path": "models/mine"}
        study["datasets"]["math-instructions"] = {"source": "path", "path": "mine.jsonl"}

    house.edit(of_ones_own)
    examples = [{"instruction": "Say it.", "response": word * 60} for word in ("a", "7 ")]
    (house.root / "mine.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    lock = house.root / "config/data.lock"
    before = lock.read_text()
    (planned,) = house.planned("models/path")
    assert "/directory.not-locked-" in planned
    place = house.root / "models/mine"
    said = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=False)
    assert "not locked: model.path: models/mine: is not there" in said

    make(place)
    config = place / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 80'))
    said = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=False)
    assert "math-ift.sequence_length: must not exceed the model's context (80)" in said
    assert yaml.safe_load(lock.read_text()).keys() == {*yaml.safe_load(before), "path:mine.jsonl"}

    config.write_text(config.read_text().replace('"max_position_embeddings": 80', '"max_position_embeddings": 512'))
    said = house.python("-m", "scripts.data.lock", "--study", "smoke")
    # two tokens for each "7 " alone, by the model's own tokenizer
    assert "settings.math-ift.dataset: 1 of 2 examples are longer than a row of 96 tokens" in said
    monkeypatch.chdir(house.root)
    launch = launch_by_hand("smoke", None)
    assert (
        launch.grid.study.model.shape
        == load_study("smoke", house.root / "config/studies", launch.data_lock).model.shape
    )
    assert launch.grid.study.model.shape.context == 512
    house.snakemake(f"{house.store_root}/{launch.grid.model.key}.json")
    (manifest,) = house.manifests("models").values()
    assert manifest["spec"]["files"].keys() == manifest["files"].keys()
    assert (house.store / launch.grid.model.key / "model.safetensors").is_file()
