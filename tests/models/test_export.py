"""Models that are taken out of the store load without this project, and their cards say what the store says."""

import contextlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.common.errors import UserError
from scripts.components.methods import method_of
from scripts.components.templates import DAY
from scripts.data.tokenizer import train_tokenizer
from scripts.launch.launch import Launch, launch_by_hand
from scripts.loading.models import load_model
from scripts.models import export
from scripts.models.export import Options
from scripts.plan.product import Key
from tests.standins.hub import Hub
from tests.training.architectures import ARCHITECTURES, make
from tests.vocabularies import CHATS, chat, llama_2, smollm2

NAME, OTHER = "me/tiny", "me/other"
IDS = list(range(3, 19))
METHODS_OF_STUDY: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora-r2": {"kind": "lora", "rank": 2, "alpha": 4.0},
    "rslora": {"kind": "lora", "rank": 2, "alpha": 4.0, "scaling": "rank_stabilized", "modules": "attention"},
    "dora": {"kind": "lora", "rank": 2, "alpha": 4.0, "decomposed": True, "dropout": 0.1},
    "pissa": {"kind": "lora", "rank": 2, "alpha": 4.0, "initialization": "pissa", "learning_rate_ratio_b": 4.0},
}
ADAPTERS = [name for name in METHODS_OF_STUDY if name != "full"]
ALONE = """
import json, os, re, sys
from importlib.util import find_spec
import numpy, torch
assert find_spec("scripts") is None and find_spec("tests") is None
torch.set_num_threads(1)
asked, ids, said = json.load(sys.stdin)
logits = {}
for name, code in asked.items():
    there = {}
    exec(code, there)
    with torch.no_grad():
        logits[name] = there["model"].eval()(torch.tensor([ids])).logits.float().numpy()
numpy.savez("logits.npz", **logits)
read = {}
for place in said:
    os.chdir(place)
    blocks = re.findall("```python\\n(.*?)```", open("README.md").read(), re.S)
    there = {}
    for code in blocks:
        exec(code, there)
    read[place] = there["ids"][0].tolist()
print(json.dumps(read))
"""
"""What the processes run that know nothing of this project: the lines that the command printed, and those of cards."""


@dataclass
class House:
    """A store with a tiny base model and models trained from it; the base model is of a hub, or was pretrained here."""

    launch: Launch

    def key(self, name: str) -> Key:
        return self.launch.grid.find(name).key

    def directory(self, name: str) -> Path:
        return self.launch.store.directory(self.key(name))

    def make(self, name: str, files: Callable[[Path], object], **results: Any) -> None:
        """Puts a product of the study into the store, with these files."""
        product = self.launch.grid.find(name)
        self.launch.store.make(product, lambda out: (files(out), results)[1], {})

    def train(self, method: str, where: str = "math-ift", amount: str = "1") -> None:
        """A run whose weights have moved, as if they had been trained, of the seed 0."""
        of_study = method_of(METHODS_OF_STUDY[method])

        def files(out: Path) -> None:
            model = of_study.build(self.launch.store.directory(self.launch.grid.model.key), 0, None, "fp32")
            draw = torch.Generator().manual_seed(len(method))
            with torch.no_grad():
                for value in model.parameters():
                    if value.requires_grad:
                        value += 0.1 * torch.randn(value.shape, generator=draw)
            type(of_study).save(model, out)

        self.make(f"runs/{where}/{method}/{amount}-seed0", files, steps=2, tokens=96, final_loss=1.0)

    def evaluate(self, subject: str, scores: Mapping[str, tuple[float, float, int]]) -> None:
        for task, (value, stderr, items) in scores.items():
            place = subject.removeprefix("runs/")
            found = [
                k for k in self.launch.grid.products if re.match(f"evaluations/{re.escape(place)}[^/]*/{task}-", k)
            ]
            # a sweep asks validation items too; those of the condition are asked first
            self.make(found[0], lambda out: None, value=value, stderr=stderr, items=items)

    def take(self, name: str, directory: Path, **options: Any) -> Path:
        export.main(self.launch, name, directory, Options(**options))
        return directory

    def logits(self, name: str | None, dtype: torch.dtype = torch.float32, merge: bool = True) -> Any:
        """Of our own loading, with the parameters in the type that evaluation would compute in."""
        base = self.launch.store.directory(self.launch.grid.model.key)
        method = name and name.split("/")[2]
        kind = method and METHODS_OF_STUDY[method]["kind"]
        model: Any = load_model(base, self.directory(name) if name else None, kind, merge)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        with torch.no_grad():
            return model(torch.tensor([IDS])).logits.float().numpy()


def studied(store: Path, model: dict[str, Any] | None, lock: dict[str, Any], **changes: Any) -> House:
    """The smoke study with more methods, and with this base model, which is none of the hub where there is None."""
    launch = launch_by_hand("smoke", str(store))
    study = json.loads(json.dumps(launch.study))
    study["methods"] |= METHODS_OF_STUDY
    for setting in study["settings"].values():
        setting["learning_rates"] = dict.fromkeys(METHODS_OF_STUDY, 0.002)
    study["settings"]["math-ift"] |= changes.pop("setting", {})
    study |= {"model": model or study["model"], **changes}
    return House(replace(launch, study=study, data_lock=lock))


def tokenizer_files(out: Path, **config: Any) -> None:
    """A tokenizer that puts <s> before every text."""
    train_tokenizer(["two and two make four, question and answer"], 300, out)
    path = out / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(path))
    said = out / "tokenizer_config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | config))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory as of the hub: two layers, grouped-query attention, a tokenizer; no generation_config.json."""
    out = tmp_path_factory.mktemp("base")
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=7,  # not the one that the tokenizer names, which training puts behind texts
    )
    torch.manual_seed(7)
    LlamaForCausalLM(config).save_pretrained(out)
    (out / "generation_config.json").unlink()
    tokenizer_files(out)
    return out


@pytest.fixture(scope="module")
def hub(base: Path) -> Iterator[Hub]:
    """Has the base model, and behind it on the same branch another one."""
    with Hub() as hub:
        files = {path.name: path.read_bytes() for path in base.iterdir()}
        hub.commit("model", NAME, files)
        other = load_file(base / "model.safetensors")
        path = base.parent / "other.safetensors"
        save_file({name: -value for name, value in other.items()}, path, metadata={"format": "pt"})
        hub.commit("model", NAME, files | {"model.safetensors": path.read_bytes()})
        yield hub


@pytest.fixture(scope="module")
def from_hub(base: Path, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> House:
    """A study of the base model on the hub, with a run of every method."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 4, "context": 512, "vocabulary": 320}
    model = {"label": "Tiny", "source": "hub", "repository": NAME, "architecture": shape}
    revision = next(iter(hub.repos["model", NAME].commits))
    house = studied(tmp_path_factory.mktemp("hub-store"), model, {f"model:{NAME}": {"revision": revision}})
    house.make(house.launch.grid.model.key, lambda out: shutil.copytree(base, out, dirs_exist_ok=True))
    for method in METHODS_OF_STUDY:
        house.train(method)
    return house


@pytest.fixture(scope="module")
def pretrained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    """A study whose base model was made here, with a run of LoRA."""
    house = studied(tmp_path_factory.mktemp("store"), None, {})
    house.make(house.launch.grid.model.key, lambda out: shutil.copytree(base, out, dirs_exist_ok=True))
    house.train("lora-r2")
    return house


@pytest.fixture(scope="module")
def taken(from_hub: House, pretrained: House, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Directories, what the command printed, and the logits that another process had of them."""
    where = tmp_path_factory.mktemp("taken")
    directories, printed = {}, {}

    def take(house: House, label: str, name: str, **options: Any) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            directories[label] = house.take(name, where / label, **options)
        printed[label] = said.getvalue()

    for method in METHODS_OF_STUDY:
        take(from_hub, method, f"math-ift/{method}/1-seed0")
    for method in ADAPTERS:
        take(from_hub, f"{method}-merged", f"math-ift/{method}/1-seed0", merge=True)
    take(from_hub, "full-bf16", "math-ift/full/1-seed0", dtype="bfloat16")
    take(from_hub, "merged-bf16", "math-ift/lora-r2/1-seed0", merge=True, dtype="bfloat16")
    take(from_hub, "base-of-hub", from_hub.launch.grid.model.key, dtype="float16")
    take(pretrained, "base", pretrained.launch.grid.model.name)
    take(pretrained, "beside", "math-ift/lora-r2/1-seed0", base=str(where / "base"))
    asked = {
        label: "\n".join(line[4:] for line in text.splitlines() if line.startswith("    ") and "hf upload" not in line)
        for label, text in printed.items()
    }
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))},
        **{"HF_ENDPOINT": hub.url, "HF_HOME": str(where / "home"), "OMP_NUM_THREADS": "1"},
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE],
        input=json.dumps([asked, IDS, [str(directories[label]) for label in ("full", "dora", "base")]]),
        capture_output=True,
        text=True,
        cwd=where,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(
        directories=directories,
        printed=printed,
        logits=dict(np.load(where / "logits.npz")),
        ids=json.loads(done.stdout.splitlines()[-1]),
    )


# -- what is loaded ---------------------------------------------------------------------------


def close(found: Any, wanted: Any, rounding: float = 1e-5) -> bool:
    return bool(np.abs(found - wanted).max() <= rounding * np.abs(wanted).max())


@pytest.mark.parametrize("method", METHODS_OF_STUDY)
def test_a_model_alone_says_what_ours_says(method: str, from_hub: House, taken: SimpleNamespace) -> None:
    run = f"runs/math-ift/{method}/1-seed0"
    wanted = from_hub.logits(run, merge=False)
    assert close(taken.logits[method], wanted)
    assert not close(taken.logits[method], from_hub.logits(None), 0.1)
    if method in ADAPTERS:
        assert {path.name for path in taken.directories[method].glob("*.safetensors")} == {"adapter_model.safetensors"}
        assert close(taken.logits[f"{method}-merged"], from_hub.logits(run))


@pytest.mark.parametrize(("label", "method"), [("full-bf16", "full"), ("merged-bf16", "lora-r2")])
def test_in_bf16_it_says_what_an_evaluation_in_bf16_does(
    label: str, method: str, from_hub: House, taken: SimpleNamespace
) -> None:
    exact, wanted = (from_hub.logits(f"runs/math-ift/{method}/1-seed0", t) for t in (torch.float32, torch.bfloat16))
    assert not close(wanted, exact, 1e-3)
    assert close(taken.logits[label], wanted, 1e-3)
    directory = taken.directories[label]
    assert json.loads((directory / "config.json").read_text())["dtype"] == "bfloat16"
    assert {value.dtype for value in load_file(directory / "model.safetensors").values()} == {torch.bfloat16}


def test_base_models(from_hub: House, pretrained: House, base: Path, taken: SimpleNamespace) -> None:
    files = [directory / "model.safetensors" for directory in (taken.directories["base"], base)]
    assert files[0].read_bytes() == files[1].read_bytes()
    halves = load_file(taken.directories["base-of-hub"] / "model.safetensors")
    for name, value in load_file(base / "model.safetensors").items():
        assert torch.equal(halves[name], value.half())
    assert close(taken.logits["base"], pretrained.logits(None))
    assert close(taken.logits["beside"], pretrained.logits("runs/math-ift/lora-r2/1-seed0", merge=False))


@pytest.mark.thorough
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "Gemma2"])
def test_other_architectures(architecture: str, tmp_path: Path) -> None:
    """Those of docs/architectures.md that are trained: renamed weights, tied ones, experts, transposed matrices."""
    house = studied(tmp_path / "store", None, {})
    (tmp_path / "base").mkdir()
    make(architecture, tmp_path / "base")
    tokenizer_files(tmp_path / "base")
    house.make(house.launch.grid.model.key, lambda out: shutil.copytree(tmp_path / "base", out, dirs_exist_ok=True))
    for method in ("full", "rslora"):
        run = f"runs/math-ift/{method}/1-seed0"
        house.train(method)
        for dtype in ("float32", "bfloat16"):
            directory = house.take(run, tmp_path / f"{method}-{dtype}", merge=method != "full", dtype=dtype)
            model = AutoModelForCausalLM.from_pretrained(directory).eval()
            with torch.no_grad():
                found = model(torch.tensor([IDS])).logits.float().numpy()
            assert close(found, house.logits(run, getattr(torch, dtype)))


def test_a_base_model_in_several_files(base: Path, from_hub: House, tmp_path: Path) -> None:
    LlamaForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "base", max_shard_size="20KB")
    tokenizer_files(tmp_path / "base")
    parts = {path.name: path.read_bytes() for path in (tmp_path / "base").glob("model*")}
    assert len(parts) > 2
    lock = {**from_hub.launch.data_lock, "dataset:me/data": {"revision": "3" * 40}}
    data = {"source": "hub", "repository": "me/data", "files": ["*.jsonl"]}
    datasets = {**from_hub.launch.study["datasets"], "math-instructions": data}
    house = studied(tmp_path / "store", from_hub.launch.study["model"], lock, datasets=datasets)
    key = house.launch.grid.model.key
    house.make(key, lambda out: shutil.copytree(tmp_path / "base", out, dirs_exist_ok=True))
    house.train("lora-r2")
    copied = house.take(key, tmp_path / "copied")
    assert {path.name: path.read_bytes() for path in copied.glob("model*")} == parts
    merged = house.take("math-ift/lora-r2/1-seed0", tmp_path / "merged", merge=True)
    assert [path.name for path in merged.glob("model*")] == ["model.safetensors"]
    model = AutoModelForCausalLM.from_pretrained(merged)
    with torch.no_grad():
        found = model(torch.tensor([IDS])).logits.numpy()
    assert close(found, house.logits("runs/math-ift/lora-r2/1-seed0"))
    assert card(merged).data.datasets == ["me/data"]
    assert f"at the commit `{'3' * 40}`" in card(merged).text


def test_an_adapter_names_its_base_model(from_hub: House, pretrained: House, taken: SimpleNamespace) -> None:
    entries = {
        label: json.loads((taken.directories[label] / "adapter_config.json").read_text())
        for label in ("lora-r2", "beside")
    }
    revision = from_hub.launch.grid.model.spec["revision"]
    assert (entries["lora-r2"]["base_model_name_or_path"], entries["lora-r2"]["revision"]) == (NAME, revision)
    assert entries["beside"]["base_model_name_or_path"] == str(taken.directories["base"])
    assert entries["beside"]["revision"] is None


@pytest.mark.parametrize("label", ["full", "lora-r2", "lora-r2-merged", "full-bf16", "base"])
def test_files_of_a_directory(label: str, base: Path, taken: SimpleNamespace) -> None:
    directory = taken.directories[label]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (directory / name).read_bytes() == (base / name).read_bytes()
    weights = {"adapter_config.json", "adapter_model.safetensors"} if label == "lora-r2" else {"model.safetensors"}
    beside = {"tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json", "README.md"}
    assert {path.name for path in directory.iterdir()} == beside | weights
    assert len({path.stat().st_mode for path in directory.iterdir()}) == 1
    # generation ends where texts ended in training: at the tokenizer's eos, not at that of config.json
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == 1


def test_what_is_printed(taken: SimpleNamespace) -> None:
    directory = taken.directories["lora-r2-merged"]
    said = taken.printed["lora-r2-merged"]
    assert "merged into its base model, float32, " in said
    assert f"hf upload YOUR_NAME/lora-r2-merged {directory}\n" in said


# -- the card ---------------------------------------------------------------------------------


def card(directory: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard.load(directory / "README.md")


def test_front_matter(taken: SimpleNamespace) -> None:
    adapter, merged, own = (card(taken.directories[label]).data for label in ("dora", "dora-merged", "base"))
    assert (adapter.library_name, adapter.base_model) == ("peft", NAME)
    assert (merged.library_name, merged.base_model) == ("transformers", NAME)
    assert (own.library_name, own.base_model) == ("transformers", None)
    assert {data.pipeline_tag for data in (adapter, merged, own)} == {"text-generation"}


def test_a_card_says_how_it_was_trained_and_what_it_scores(pretrained: House, tmp_path: Path) -> None:
    pretrained.train("lora-r2", "code-cpt", "5.12K")
    run = pretrained.key("runs/code-cpt/lora-r2/5.12K-seed0")
    own = {"hellaswag": (0.5, 0.03, 8), "arc_challenge": (0.25, 0.04, 8), "winogrande": (0.75, 0.12, 8)}
    base = {"hellaswag": (0.75, 0.01, 8), "arc_challenge": (0.5, 0.02, 8), "winogrande": (0.625, 0.02, 8)}
    losses = {"source_loss": (2.125, 0.25, 4), "target_loss": (1.5, 0.125, 4)}
    pretrained.evaluate("runs/code-cpt/lora-r2/5.12K-seed0", own | losses)
    pretrained.evaluate(f"base/{pretrained.launch.grid.model.key.within}", base)
    text = (pretrained.take(run, tmp_path / "out", merge=True) / "README.md").read_text()
    cells = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in text.splitlines() if line[:1] == "|"]
    assert ("Accuracy in HellaSwag", "0.500 ± 0.030", "0.750 ± 0.010", "-0.250", "8") in cells
    assert ("Accuracy in WinoGrande", "0.750 ± 0.120", "0.625 ± 0.020", "+0.125", "8") in cells
    assert any(row[1:] == ("2.125 ± 0.250", "", "", "4") and "less is better" in row[0] for row in cells)
    (average,) = [row for row in cells if "Forgetting average" in row[0]]
    # sqrt(.03^2 + .04^2 + .12^2) / 3 = .13 / 3, and sqrt(.01^2 + .02^2 + .02^2) / 3 = .03 / 3
    assert average[1:] == ("0.500 ± 0.043", "0.625 ± 0.010", "-0.125", "24")
    assert "0.125 below the base model's" in text
    said = dict(row for row in cells if len(row) == 2)
    assert said["duration"] == "5.12K tokens"
    assert said["method"] == "LoRA: rank 2, alpha 4, modules all"
    assert (said["peak learning rate"], said["seed"], said["computed in"]) == ("0.002", "0", "fp32")
    assert said["model"] == f"`{run}`"
    assert said["fingerprint of its recipe"] == f"`{run.fingerprint}`"
    assert said["scale"] == "demo"
    assert "**This is a demo.**" in text
    assert "It was trained on text, and continues one" in text


def test_prompts_of_cards_are_read_as_in_training(from_hub: House, taken: SimpleNamespace) -> None:
    for label, prompt in (("full", "Question: What is 2 + 3?\nAnswer:"), ("base", "Once upon a time")):
        directory = taken.directories[label]
        ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(prompt, add_special_tokens=False).ids
        assert taken.ids[str(directory)] == [0, *ids]
    assert "Question: {instruction}\nAnswer:" in card(taken.directories["dora"]).text


def smollm2_with_bos(out: Path) -> Path:
    """Its configuration asks for a bos token that nothing of transformers puts there."""
    path = smollm2(out) / "tokenizer_config.json"
    added = {"add_bos_token": True, "chat_template": "{{ messages[0].content }}"}
    path.write_text(json.dumps(json.loads(path.read_text()) | added))
    return out


@pytest.mark.parametrize(
    ("write", "bos", "prefix"),
    [(llama_2, "tokenizer", ["<s>"]), (llama_2, "none", []), (smollm2_with_bos, "tokenizer", ["<|im_start|>"])],
)
def test_the_tokenizer_is_that_of_the_setting(
    write: Callable[[Path], Path],
    bos: str,
    prefix: list[str],
    base: Path,
    from_hub: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = {**from_hub.launch.data_lock, f"model:{OTHER}": {"revision": "0" * 40}}
    change = {"tokenizer": OTHER, "template": "alpaca"}
    house = studied(tmp_path / "store", from_hub.launch.study["model"], lock, setting=change, bos=bos)
    house.make(house.launch.grid.model.key, lambda out: shutil.copytree(base, out, dirs_exist_ok=True))

    def other(out: Path) -> None:
        write(out)
        (out / "config.json").write_text('{"model_type": "gpt2"}')

    house.make(house.launch.grid.rows("math-ift", 0).inputs_of("tokenizer")[0], other)
    house.train("lora-r2")
    directory = house.take("math-ift/lora-r2/1-seed0", tmp_path / "out")
    assert json.loads((directory / "config.json").read_text())["model_type"] == "llama"
    text = (directory / "README.md").read_text()
    assert "### Instruction:\n{instruction}\n\n### Response:" in text
    assert "### Input:\n{input}" in text
    assert ("chat template is the base model's" in text) == (write == smollm2_with_bos)
    *lines, _, _ = re.findall("```python\n(.*?)```", text, re.DOTALL)[-1].splitlines()
    there: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(directory)}
    monkeypatch.chdir(directory)
    exec("\n".join(lines), there)
    tokenizer = Tokenizer.from_file("tokenizer.json")
    ids = tokenizer.encode(there["prompt"], add_special_tokens=False).ids
    assert there["ids"][0].tolist() == [*map(tokenizer.token_to_id, prefix), *ids]


@pytest.mark.parametrize("name", ["qwen2.5", "llama-2", "llama-3"])
def test_a_card_asks_in_the_chat_template_that_was_trained_on(
    name: str, base: Path, from_hub: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines give the prompt that rows have, and its generation ends where the assistant's turn does."""
    lock = {**from_hub.launch.data_lock, f"model:{OTHER}": {"revision": "0" * 40}}
    change = {"tokenizer": OTHER, "template": "chat"}
    house = studied(tmp_path / "store", from_hub.launch.study["model"], lock, setting=change)
    house.make(house.launch.grid.model.key, lambda out: shutil.copytree(base, out, dirs_exist_ok=True))
    house.make(house.launch.grid.rows("math-ift", 0).inputs_of("tokenizer")[0], lambda out: chat(out, name))
    house.train("lora-r2")
    directory = house.take("math-ift/lora-r2/1-seed0", tmp_path / "out")
    text = (directory / "README.md").read_text()
    assert f"the response ends with `{CHATS[name][3]}`" in text
    assert "not trained on it" not in text
    *lines, _, _ = re.findall("```python\n(.*?)```", text, re.DOTALL)[-1].splitlines()
    there: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(directory)}
    monkeypatch.chdir(directory)
    exec("\n".join(lines), there)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, date_string=DAY)
    assert there["ids"][0].tolist() == asked["input_ids"]
    ends = json.loads((directory / "generation_config.json").read_text())["eos_token_id"]
    ends = set(ends if isinstance(ends, list) else [ends])
    assert ends == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(CHATS[name][3])}


def test_a_base_model_in_4_bits_is_loaded_in_4_bits(pretrained: House, base: Path, tmp_path: Path) -> None:
    study = json.loads(json.dumps(pretrained.launch.study))
    study["methods"]["lora-r2"]["quantization"] = "nf4"
    house = House(replace(pretrained.launch, study=study, store_root=str(tmp_path / "store")))
    house.make(house.launch.grid.model.key, lambda out: shutil.copytree(base, out, dirs_exist_ok=True))
    # what is trained in 4 bits takes a GPU; the files of the adapter have the same form
    adapter = pretrained.directory("math-ift/lora-r2/1-seed0")
    house.make("math-ift/lora-r2/1-seed0", lambda out: shutil.copytree(adapter, out, dirs_exist_ok=True))
    house.take(house.launch.grid.model.key, tmp_path / "base")
    text = (
        house.take("math-ift/lora-r2/1-seed0", tmp_path / "out", base=str(tmp_path / "base")) / "README.md"
    ).read_text()
    (config,) = re.findall(r"quantization_config=BitsAndBytesConfig\((.*?)\)\)", text)
    assert dict(one.split("=") for one in config.split(", ")) == {
        "load_in_4bit": "True",
        "bnb_4bit_quant_type": '"nf4"',
        "bnb_4bit_use_double_quant": "True",
        "bnb_4bit_compute_dtype": '"float32"',
    }


def test_a_published_checkpoint(base: Path, from_hub: House, tmp_path: Path) -> None:
    revision = "1" * 40
    branches = {"epoch-1": revision, "epoch-2": "2" * 40}
    lock = {**from_hub.launch.data_lock, "model:me/adapters": {"revision": "0" * 40, "branches": branches}}
    house = studied(
        tmp_path / "store", from_hub.launch.study["model"], lock, setting={"published": {"lora-r2": "me/adapters"}}
    )
    house.make(house.launch.grid.model.key, lambda out: shutil.copytree(base, out, dirs_exist_ok=True))
    adapter = from_hub.directory("math-ift/lora-r2/1-seed0")
    name = "published/math-ift/lora-r2/1"
    house.make(name, lambda out: shutil.copytree(adapter, out, dirs_exist_ok=True), repository="me/adapters")
    directory = house.take(name, tmp_path / "out")
    assert json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"] == NAME
    assert f"the paper's authors: me/adapters, branch epoch-1, at `{revision}`" in (directory / "README.md").read_text()


# -- what is refused --------------------------------------------------------------------------


def refused(house: House, name: str, directory: Path, words: str, **options: Any) -> None:
    """It is refused in one sentence with these words, and nothing is written."""
    before = sorted(directory.parent.rglob("*"))
    with pytest.raises(UserError, match=words) as error:
        house.take(name, directory, **options)
    assert "\n" not in str(error.value)
    assert sorted(directory.parent.rglob("*")) == before


LORA, FULL = "math-ift/lora-r2/1-seed0", "math-ift/full/1-seed0"


def test_nothing_is_overwritten(from_hub: House, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    from_hub.take(LORA, there)  # empty is as good as none
    refused(from_hub, LORA, there, "there: is there already and not empty")
    refused(from_hub, LORA, there / "README.md", "is there already")


def test_an_error_on_the_way_leaves_nothing(from_hub: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise UserError("no card")

    monkeypatch.setattr(export, "model_card", fail)
    refused(from_hub, LORA, tmp_path / "out", "no card")


def test_what_is_no_finished_model(from_hub: House, pretrained: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(from_hub, "math-ift/lora-r3/1-seed0", out, "has no product 'math-ift/lora-r3/1-seed0'")
    leg = next(key for key in from_hub.launch.grid.products if key.startswith("legs/"))
    refused(from_hub, leg, out, "of the kind 'leg' and no finished model")
    pretrained.make("runs/math-ift/full/1-seed0", lambda _: None, diverged={"step": 3, "loss": 9.0, "rule": "nan"})
    refused(pretrained, FULL, out, "training diverged at step 3")


def test_one_that_is_not_made_yet_names_the_command(from_hub: House, tmp_path: Path) -> None:
    name = "math-ift/lora-r2/2-seed0"
    with pytest.raises(UserError, match=r"is not made yet; `.*snakemake .*` makes it") as error:
        from_hub.take(name, tmp_path / "out")
    (target,) = re.findall(r"(families/trained/\S+)\.json", str(error.value))
    assert from_hub.key(name) in from_hub.launch.grid.products[target].members


def test_bytes_that_are_gone(base: Path, from_hub: House, tmp_path: Path) -> None:
    store = shutil.copytree(from_hub.launch.store.root, tmp_path / "store")
    house = House(replace(from_hub.launch, store_root=str(store)))
    shutil.rmtree(house.directory(LORA))
    refused(
        house, LORA, tmp_path / "out", "the bytes of .* are gone .*; `.*scripts.training.train .*` makes them again"
    )


def test_no_room(from_hub: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = sum(path.stat().st_size for path in from_hub.directory(FULL).iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=copied * 3 // 4))
    refused(from_hub, FULL, tmp_path / "out", r"out: takes 0\.0 GB, and .* has 0\.0 GB left")
    refused(from_hub, LORA, tmp_path / "out", "takes", merge=True)
    from_hub.take(FULL, tmp_path / "half", dtype="bfloat16")


def test_options_that_do_not_fit(from_hub: House, pretrained: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(from_hub, FULL, out, "has no adapter to merge", merge=True)
    refused(from_hub, FULL, out, "--base is for an adapter", base=NAME)
    refused(pretrained, LORA, out, "no name on the hub .*--merge` writes .*`--base BASE` gives its name")
    refused(pretrained, LORA, out, "is neither a directory nor a repository's name", base="a b")
    refused(pretrained, LORA, out, "does not have the weights of models/llama-", base=str(tmp_path))


def test_weights_beyond_float16(base: Path, from_hub: House, tmp_path: Path) -> None:
    house = studied(tmp_path / "store", None, {})

    def large(out: Path) -> None:
        shutil.copytree(base, out, dirs_exist_ok=True)
        tensors = load_file(out / "model.safetensors")
        tensors["lm_head.weight"][0, 0] = 70_000.0
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})

    key = house.launch.grid.model.key
    house.make(key, large)
    refused(house, key, tmp_path / "out", "lm_head.weight has a weight beyond its range", dtype="float16")
    house.take(key, tmp_path / "out", dtype="bfloat16")


def test_a_method_that_was_renamed_is_found(from_hub: House, tmp_path: Path) -> None:
    store = shutil.copytree(from_hub.launch.store.root, tmp_path / "store")
    study = json.loads(json.dumps(from_hub.launch.study).replace('"lora-r2"', '"small"'))
    house = House(replace(from_hub.launch, study=study, store_root=str(store)))
    directory = house.take("math-ift/small/1-seed0", tmp_path / "out")
    ours = from_hub.directory(LORA) / "adapter_model.safetensors"
    assert (directory / "adapter_model.safetensors").read_bytes() == ours.read_bytes()


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = [LORA, str(tmp_path / "out"), "--merge", "--dtype", "float16", "--study", "smoke", "--store", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["export", *words])
    monkeypatch.delenv("FORGETTING_LAUNCH", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(export.__file__, run_name="__main__")
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        rf"error: runs/{LORA}-\w+ is not made yet; `.*store={re.escape(str(tmp_path))}.*` makes it", line
    )
