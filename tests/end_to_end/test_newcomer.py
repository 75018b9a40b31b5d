"""What somebody types who has a model, some data, and no knowledge of the code: from five answers to a model to use."""

import csv
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest

from tests.conftest import ROOT, House, copy_checkout

pytestmark = pytest.mark.thorough

MODEL = """
import json, sys
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

directory, *texts = sys.argv[1:]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
tokenizer.train(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}"
tokenizer.chat_template += "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
tokenizer.save_pretrained(directory)
torch.manual_seed(0)
shape = dict(vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
config = Qwen2Config(**shape, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True)
Qwen2ForCausalLM(config).save_pretrained(directory)
"""
USE = """
import sys
assert not any("scripts" in path for path in sys.path), sys.path
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("Question: What is 2 plus 2?\\nAnswer:", return_tensors="pt").input_ids
print(type(model).__name__, model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] - ids.shape[1])
"""


def pairs(count: int, seed: int) -> Iterator[dict[str, str]]:
    chance = random.Random(seed)
    for _ in range(count):
        a, b = chance.randrange(1000), chance.randrange(1000)
        yield {"prompt": f"What is {a} plus {b}?", "completion": f"{a} plus {b} is {a + b}."}


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A checkout and, beside it, a model and data in three formats."""
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs(120, 0)))
    with (tmp_path / "held-out.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(pairs(20, 1))
    texts = [f"The {animal} slept for {n} minutes on the mat." for n in range(8) for animal in ("cat", "dog")]
    pandas.DataFrame({"text": texts}).to_parquet(tmp_path / "kept.parquet")
    command = [sys.executable, "-c", MODEL, str(tmp_path / "tiny-qwen"), str(tmp_path / "train.jsonl")]
    subprocess.run(command, check=True, capture_output=True)
    return House(copy_checkout(ROOT, tmp_path / "house"), study="mine", standins="")


def test_from_five_answers_to_a_model_to_use(house: House, tmp_path: Path) -> None:
    answers = {
        "model": "tiny-qwen", "train": "train.jsonl", "learn": "held-out.csv", "keep": "kept.parquet", "device": "cpu",
        "hours": "1",
    }  # fmt: skip
    options = [f"--{name}={tmp_path / said if (tmp_path / said).exists() else said}" for name, said in answers.items()]
    said = house.python("-m", "scripts.study.new", "mine", *options)
    assert "config/studies/mine.yaml is written. Instructions have the chat template of the model's tokenizer" in said

    # before anything is locked, what is missing is said, and how it is put right
    said = house.snakemake("results/figures/fig3.pdf", ok=False)
    assert "scripts.data.lock --study mine" in said
    assert "4 outside sources of study mine locked" in house.python("-m", "scripts.data.lock", "--study", "mine")
    assert house.plan("results/figures/fig3.pdf")["train_family"] == 2

    house.snakemake("results/figures/fig3.pdf")
    with (house.root / "results/figures/fig3.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["scale"] for row in rows} == {"own"}
    tuned = {(row["method"], row["metric"]) for row in rows if row["kind"] != "base"}
    assert tuned == {(method, metric) for method in ("full", "lora-r16")
                     for metric in ("target_loss", "source_loss", "forgetting")}  # fmt: skip
    assert all(float(row["value"]) > 0 for row in rows)
    assert "are about accuracies, and study 'mine' measures target_loss" in house.snakemake(
        "results/claims.md", "-n", ok=False
    )

    out = tmp_path / "taken-out"
    study = ["--study", "mine"]
    said = house.python("-m", "scripts.models.export", "own/lora-r16/3-seed0", str(out), "--merge", *study)
    assert f'from_pretrained("{out}")' in said
    assert "Target loss, bits per byte" in (out / "README.md").read_text()
    used = subprocess.run(
        [sys.executable, "-I", "-c", USE, str(out)], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert used.stdout.split() == ["Qwen2ForCausalLM", "3"]
