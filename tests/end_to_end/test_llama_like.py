"""A base model of the hub that reads as Llama-2 does, from locking to what is measured of it: nothing stands in but the
hub, and rows, training and evaluation are told apart by nothing that a token could show."""

import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from scripts.launch.launch import Launch, launch_by_hand
from scripts.plan.product import Product
from tests.conftest import ROOT, House, copy_checkout
from tests.standins.hub import Hub, use
from tests.vocabularies import llama_2, llama_2_chatml

pytestmark = pytest.mark.thorough

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "context": 512, "vocabulary": 1024}
"""More embeddings than the tokens there are, as models have that were made for fast matrix products."""
COMMANDS = {
    "records": "scripts.data.products",
    "tokenizer": "scripts.data.products",
    "rows": "scripts.data.products",
    "model": "scripts.models.products",
    "trained": "scripts.training.train",
    "evaluated": "scripts.evaluation.evaluate",
}


def three_settings(study: dict[str, Any]) -> None:
    study["model"] = {"label": "Net", "source": "hub", "repository": "owner/net", "architecture": SHAPE}
    del study["sweep"]
    study["methods"] = {"full": {"kind": "full"}}
    for setting in study["settings"].values():
        del setting["sweep"]
        setting["learning_rates"] = {"full": 0.001}
        setting["durations"] = setting["durations"][:1]
    study["settings"]["chat-ift"] = study["settings"]["math-ift"] | {
        **{"label": "Chat IFT", "tokenizer": "owner/chat", "template": "llama2-chat"},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Launch]]:
    """The study with everything made that its figures need."""
    where = tmp_path_factory.mktemp("llama-like")
    net, chat = where / "net", where / "chat"
    torch.manual_seed(0)
    shape = {key: SHAPE[key] for key in ("hidden_size", "intermediate_size")}
    config = LlamaConfig(
        **shape, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=512, vocab_size=1024
    )
    LlamaForCausalLM(config).save_pretrained(net)
    llama_2(net)
    chat.mkdir()
    llama_2_chatml(chat)
    house = House(copy_checkout(ROOT, where / "house"), standins="")
    house.edit(three_settings)
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        use(hub, patch, where / "home")
        patch.chdir(house.root)
        for name, directory in (("owner/net", net), ("owner/chat", chat)):
            hub.commit("model", name, {path.name: path.read_bytes() for path in directory.iterdir()})
        house.python("-m", "scripts.data.lock", "--study", "smoke")
        launch = launch_by_hand("smoke", None)
        for product in sorted(launch.grid, key=lambda product: [*COMMANDS, product.kind].index(product.kind)):
            if product.kind in COMMANDS:
                house.python("-m", COMMANDS[product.kind], product.key, "--study", "smoke")
        yield house, launch


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def of(launch: Launch, kind: str, **spec: Any) -> list[Product]:
    return [p for p in launch.grid if p.kind == kind and all(p.spec.get(key) == spec[key] for key in spec)]


def test_everything_is_measured(made: tuple[House, Launch]) -> None:
    house, _ = made
    trained = {"code-cpt", "math-ift", "chat-ift"}
    found: dict[str, set[str]] = {}
    for key, manifest in house.manifests("evaluations").items():
        assert manifest["results"]["value"] is not None
        place, task = re.sub("-[0-9a-f]{12}", "", key).removeprefix("evaluations/").rsplit("/", 1)
        found.setdefault(place.split("/")[0], set()).add(task)
    forgetting = {"hellaswag", "arc_challenge", "winogrande", "source_loss", "target_loss"}
    assert found == {
        "base": forgetting | {"humaneval", "gsm8k"},
        "code-cpt": forgetting | {"humaneval"},
        "math-ift": forgetting | {"gsm8k"},
        "chat-ift": forgetting | {"gsm8k"},
    }
    assert {name.split("/")[1] for name in house.manifests("runs")} == trained


@pytest.mark.parametrize(
    ("setting", "begin", "end"),
    [
        ("math-ift", "<s> Question: ", "</s>"),
        ("chat-ift", "<s> [INST] ", "<|im_end|>"),
    ],
)
def test_every_example_begins_and_ends_as_its_tokenizer_says(
    made: tuple[House, Launch], setting: str, begin: str, end: str
) -> None:
    _, launch = made
    rows = launch.store.bytes_of(launch.grid.rows(setting, 0).key)
    tokenizer = tokenizer_of(launch, setting)
    tokens, offsets = np.load(rows / "tokens.npy"), np.load(rows / "offsets.npy")
    for first, last in pairwise(offsets):
        text = "".join(tokenizer.id_to_token(number) for number in tokens[first:last].tolist()).replace("▁", " ")
        assert text.startswith(begin)
        assert text.endswith(end)


def tokenizer_of(launch: Launch, setting: str) -> Tokenizer:
    repository = launch.grid.study.settings[setting].tokenizer or "owner/net"
    (product,) = of(launch, "tokenizer", repository=repository)
    return Tokenizer.from_file(str(launch.store.bytes_of(product.key) / "tokenizer.json"))


def test_documents_of_a_row_begin_with_bos(made: tuple[House, Launch]) -> None:
    _, launch = made
    stream = np.load(launch.store.bytes_of(launch.grid.rows("code-cpt", 0).key) / "rows.npy").flatten()
    bos, eos = 1, 2
    ends = np.flatnonzero(stream == eos)
    assert stream[0] == bos
    assert len(ends) > 10
    assert (stream[ends[ends + 1 < stream.size] + 1] == bos).all()


@pytest.mark.parametrize(
    ("setting", "prompt", "response"),
    [
        ("math-ift", "Question: {}\nAnswer:", " {}"),
        ("chat-ift", "[INST] {} [/INST]", " {} "),
    ],
)
def test_the_target_loss_is_that_of_the_model_on_the_records(
    made: tuple[House, Launch], setting: str, prompt: str, response: str
) -> None:
    """Computed by transformers in float64 from what the makers' tokenizer makes of the texts."""
    _, launch = made
    (run,) = (p for p in launch.grid if p.kind == "run" and p.name.startswith(f"runs/{setting}/"))
    (evaluation,) = of(launch, "evaluation", subject=run.fingerprint, task="target_loss")
    model = AutoModelForCausalLM.from_pretrained(launch.store.bytes_of(run.key), dtype=torch.float64)
    tokenizer = tokenizer_of(launch, setting)
    records = launch.store.bytes_of(evaluation.inputs_of("records")[0]) / "records.jsonl"
    bits = size = 0.0
    for record in lines(records):
        asked = tokenizer.encode(prompt.format(record["instruction"])).ids
        said = tokenizer.encode(response.format(record["response"]), add_special_tokens=False).ids
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([[*asked, *said]])).logits[0, len(asked) - 1 : -1], dim=-1)
        bits -= float(logs[torch.arange(len(said)), said].sum()) / math.log(2)
        size += len(response.format(record["response"]).encode())
    assert launch.store.require(evaluation.key)["results"]["value"] == pytest.approx(bits / size, rel=1e-4)
