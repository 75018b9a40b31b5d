"""A base model of the hub: the locked commit, safetensors alone, the shape that the study says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.launch.launch import launch_by_hand
from scripts.models.products import builder
from tests.conftest import House, copy_checkout
from tests.standins.hub import Hub, use
from tests.vocabularies import small_files

ROOT = Path(__file__).resolve().parents[2]
NAME = "owner/Net-Hf"
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "context": 512, "vocabulary": 400}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 400,
}
WEIGHTS = [save({f"layer{i}": np.full((8, 32), i, np.float32)}) for i in range(2)]
INDEX = {"weight_map": {f"layer{i}": f"model-{i}.safetensors" for i in range(2)}}
SMALL = {"config.json": json.dumps(CONFIG).encode(), **small_files()}
SHARDS = {f"model-{i}.safetensors": WEIGHTS[i] for i in range(2)}
SHARDED = {**SMALL, **SHARDS, "model.safetensors.index.json": json.dumps(INDEX).encode()}
PICKLED = {"pytorch_model-1.bin": b"pickle" * 100, "README.md": b"text", "original/consolidated.pth": b"pickle" * 100}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as hub:
        use(hub, monkeypatch, tmp_path / "home")
        yield hub


def take(tmp_path: Path, revision: str | None, **changes: int) -> Path:
    context = BuildContext("models/hub/net-0123456789ab", "paper", tmp_path / "scratch", {}, lambda: [])
    architecture = {**SHAPE, **changes}
    spec = {"kind": "model", "source": "hub", "repository": NAME, "revision": revision, "architecture": architecture}
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    builder(spec)(spec, context, out)
    return out


def test_config_tokenizer_and_safetensors_are_taken_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    out = take(tmp_path, hub.commit("model", NAME, {**SHARDED, **PICKLED, "stray.safetensors": WEIGHTS[0]}))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == SHARDED
    assert set(hub.downloads()) <= set(SHARDED)


def test_a_model_in_one_file(hub: Hub, tmp_path: Path) -> None:
    out = take(tmp_path, hub.commit("model", NAME, {**SMALL, "model.safetensors": WEIGHTS[0]}))
    assert (out / "model.safetensors").read_bytes() == WEIGHTS[0]


@pytest.mark.parametrize(
    ("files", "changes", "said"),
    [
        ({**SMALL, **PICKLED}, {}, "pickled weights alone (original/consolidated.pth), which are never loaded"),
        (SMALL, {}, "has no weights"),
        (SHARDED, {"layers": 32, "heads": 4}, "layers is 1, not 32, heads is 2, not 4"),
        ({**SHARDED, "config.json": b"{"}, {}, "config.json is not valid JSON"),
        ({name: data for name, data in SHARDED.items() if name != "model-1.safetensors"}, {}, "names model-1."),
        ({name: data for name, data in SHARDED.items() if name != "tokenizer.json"}, {}, "no tokenizer.json"),
        ({**SHARDED, "tokenizer_config.json": b"{}"}, {}, "does not say which token ends a text"),
        (SHARDED, {"vocabulary": 4}, "its tokenizer has 5 tokens, but the model of the study"),
        (PICKLED, {}, "has no"),
    ],
)
def test_another_model_is_refused_before_its_weights_come(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], changes: dict[str, int], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        take(tmp_path, hub.commit("model", NAME, files), **changes)
    assert str(caught.value).startswith(f"model {NAME}: ")
    assert said in str(caught.value)
    assert not [path for path in hub.downloads() if path.endswith((".safetensors", ".bin", ".pth"))]


def test_unlocked_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"model:{NAME} is not locked; run `.*lock --study paper`"):
        take(tmp_path, None)
    assert not hub.requests


def test_by_command(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of a model of the hub: locked with its architecture, which nobody types; taken with its tokenizer."""
    revision = hub.commit("model", NAME, SHARDED)
    house = House(copy_checkout(ROOT, tmp_path / "house"))

    def of_the_hub(study: dict[str, Any]) -> None:
        study["model"] = {"label": "Net", "source": "hub", "repository": NAME, "gated": True}

    house.edit(of_the_hub)
    house.python("-m", "scripts.data.lock", "--study", "smoke")
    monkeypatch.chdir(house.root)
    launch = launch_by_hand("smoke", None)
    entry = launch.data_lock[f"model:{NAME}"]
    # nothing is tied: 2 embeddings; a layer of 4 matrices of attention, 3 of the MLP, 2 norms; a norm
    parameters = 2 * 400 * 32 + 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32 + 32
    more = {"kv_heads": 2, "head_dim": 16, "tied": False, "parameters": parameters, "dtype": "float32"}
    assert entry == {"revision": revision, "architecture": {**SHAPE, **more}}
    key = launch.grid.model.key
    house.python("-m", "scripts.models.products", key, "--study", "smoke")
    (manifest,) = house.manifests("models").values()
    assert manifest["spec"]["revision"] == revision
    assert manifest["files"].keys() == SHARDED.keys()
    assert not list(house.store.rglob("*.unfinished"))  # where a second name of the weights would be left
    assert len(list(house.store.rglob("model-1.safetensors"))) == 1
