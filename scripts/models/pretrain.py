"""Pretrains the base model from random weights, or takes the shipped weights where they are the wanted ones."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.store.fingerprint import file_sha256


def take_shipped(shipped: Path, key: str, out: Path) -> dict[str, Any]:
    """Takes the model `key` from what the project ships; returns what its manifest says.

    Raises:
        UserError: a file is not the one of the manifest.
    """
    manifest = json.loads((shipped / f"{key}.json").read_text(encoding="utf-8"))
    for name, file in manifest["files"].items():
        shutil.copyfile(shipped / key / name, out / name)
        if file_sha256(out / name) != file["sha256"]:
            raise UserError(f"{shipped / key / name}: is not the file that its manifest describes")
    return dict(manifest["results"]) | {"taken": "shipped with the project"}


def pretrain(spec: Mapping[str, Any], tokenizer_directory: Path, rows: Path, out: Path) -> dict[str, Any]:
    """Writes a transformers model directory with its tokenizer; fp32 safetensors. Returns the curve of the loss.

    AdamW with linear warmup and cosine decay to 0, by transformers' own Trainer; rows in the data stage's order.
    """
    import torch
    from torch.utils.data import IterableDataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from scripts.data.batches import Batches
    from scripts.data.tokenizer import load_tokenizer

    torch.manual_seed(spec["seed"])
    tokenizer = load_tokenizer(tokenizer_directory)
    shape = spec["architecture"]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            max_position_embeddings=shape["context"],
            tie_word_embeddings=True,
            use_cache=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    batches = Batches(rows)

    class Rows(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for step in range(spec["batches"]):
                ids, labels = batches.batch(step)
                for row, targets in zip(ids, labels, strict=True):
                    yield {"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(targets)}

    trainer = Trainer(
        model=model,
        train_dataset=Rows(),
        args=TrainingArguments(
            output_dir=str(out / "trainer"),
            max_steps=spec["batches"],
            per_device_train_batch_size=batches.batch_rows,
            learning_rate=spec["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=round(spec["warmup_fraction"] * spec["batches"]),
            weight_decay=spec["weight_decay"],
            adam_beta2=0.95,
            max_grad_norm=1.0,
            save_strategy="no",
            report_to=[],
            seed=spec["seed"],
            logging_steps=max(1, spec["batches"] // 50),
            disable_tqdm=True,  # a line for each of these, instead of a bar that fills the job's log
        ),
    )
    trainer.train()
    shutil.rmtree(out / "trainer", ignore_errors=True)
    model.save_pretrained(out)
    for file in sorted(tokenizer_directory.glob("[!.]*")):  # the store's own file there is hidden
        shutil.copyfile(file, out / file.name)
    curve = [(entry["step"], round(entry["loss"], 4)) for entry in trainer.state.log_history if "loss" in entry]
    return {"batches": spec["batches"], "losses": curve}
