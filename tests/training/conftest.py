"""A two-layer Llama with random weights, rows of random tokens, and jobs on them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from scripts.data.batches import write_cpt_rows, write_ift_rows
from scripts.training.loop import Fit, fit

VOCABULARY, LENGTH, EOS, PAD = 64, 16, 1, 2
FULL = {"kind": "full"}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"kind": "lora", "rank": 2, "alpha": 4.0, "modules": MODULES}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: hidden size 32, grouped-query attention, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2 * LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    torch.manual_seed(7)
    directory = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def cpt_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten batches of four rows, groups of two; token pairs repeat, so that there is something to learn."""
    directory = tmp_path_factory.mktemp("cpt")
    draw = np.random.default_rng(0)
    documents = [[int(t) for t in np.repeat(draw.integers(3, VOCABULARY, 12), 2)] for _ in range(30)]
    write_cpt_rows(
        documents,
        directory,
        sequence_length=LENGTH,
        batch_rows=4,
        group_rows=2,
        eos=EOS,
        pad=PAD,
        vocab_size=VOCABULARY,
        seed=3,
    )
    return directory


@pytest.fixture(scope="session")
def ift_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of packed, padded and masked examples whose response repeats the prompt's last token."""
    directory = tmp_path_factory.mktemp("ift")
    draw = np.random.default_rng(1)
    examples = []
    for _ in range(80):
        prompt = [int(t) for t in draw.integers(3, VOCABULARY, draw.integers(1, 5))]
        examples.append((prompt, [prompt[-1]] * int(draw.integers(1, 4))))
    write_ift_rows(
        examples,
        directory,
        sequence_length=LENGTH,
        batch_rows=4,
        group_rows=2,
        packing_ratio=2.0,
        max_epochs=3,
        eos=EOS,
        pad=PAD,
        vocab_size=VOCABULARY,
        seed=3,
    )
    return directory


@pytest.fixture
def job(tmp_path: Path, base: Path, cpt_rows: Path) -> Callable[..., Fit]:
    """Makes a job with its own `out` and `checkpoints` under `name`; keyword arguments replace its fields."""

    def make(name: str, **changes: Any) -> Fit:
        out = tmp_path / name / "out"
        out.mkdir(parents=True)
        fields: dict[str, Any] = {
            "method": FULL,
            "optimizer": {
                "name": "decoupled_lionw",
                "learning_rate": 2e-3,
                "betas": [0.9, 0.95],
                "weight_decay": 1e-4,
                "clip_norm": 1.0,
            },
            "schedule": trapezoid(12, 4),
            "seed": 5,
            "precision": "fp32",
            "base": base,
            "rows": cpt_rows,
            "start": None,
            "start_step": 0,
            "stop_step": 12,
            "out": out,
            "checkpoints": tmp_path / name / "checkpoints",
            "keep_optimizer": False,
            "checkpoint_seconds": 1e9,
        }
        return Fit(**(fields | changes))

    return make


def trapezoid(batches: int | None, cooldown: int | None) -> dict[str, Any]:
    return {"name": "trapezoid", "warmup_batches": 3, "batches": batches, "cooldown_batches": cooldown}


@pytest.fixture
def words() -> SimpleNamespace:
    """What tests share: methods, schedules, silent training, the bytes of the weights in a directory."""
    return SimpleNamespace(
        FULL=FULL,
        LORA=LORA,
        METHODS={"full": FULL, "lora": LORA},
        trapezoid=trapezoid,
        train=lambda made: fit(made, lambda _: None),
        weights=lambda out: {path.name: path.read_bytes() for path in out.glob("*model.safetensors")},
    )
