"""What a job says of itself: operations and peaks against others' numbers, and a log without gaps or repetitions."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from scripts.common import devices
from scripts.common.errors import UserError
from scripts.training import loop, train
from scripts.training.metrics import Log, Meter, flops_per_token
from scripts.training.model import trainable_model
from tests.training.houses import COSINE, RECIPE, House

pytestmark = pytest.mark.arithmetic


def test_the_published_share_of_a_7b_model() -> None:
    """fms-fsdp's README: Llama-2-7B, sequences of 4096, 9,600 tokens/s on each H100 are an MFU of 46 %."""
    shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32000, **shape))
    device = devices.known("NVIDIA H100 80GB HBM3")
    assert device
    assert 9600 * flops_per_token(model, 4096) / device.bf16 == pytest.approx(0.46, abs=0.01)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_operations_are_those_that_torch_counts(tmp_path: Path, words: SimpleNamespace, method: str) -> None:
    """Torch counts every product of matrices; embeddings that are tied cost one, and attention is counted in full."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=12,
        num_attention_heads=2,
        head_dim=24,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = trainable_model(tmp_path, words.METHODS[method], 0, None).train()
    network = model if method == "full" else model.get_base_model()
    network.set_attn_implementation("eager")
    tokens = torch.randint(64, (2, 48))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens).loss.backward()
    assert flops_per_token(model, 48) == pytest.approx(counter.get_total_flops() / tokens.numel(), rel=0.03)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla K80", None),
    ],
)
def test_peaks_by_name(name: str, teraflops: float | None) -> None:
    device = devices.known(name)
    assert (device and device.bf16) == (teraflops and teraflops * 1e12)


def test_a_share_needs_a_peak(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    assert Meter(model, 16, torch.device("cpu"), "bf16").mfu(1e6) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert Meter(model, 16, torch.device("cuda"), "fp32").mfu(1e6) is None
    share = Meter(model, 16, torch.device("cuda"), "bf16").mfu(1e6)
    assert share == pytest.approx(1e6 * flops_per_token(model, 16) / 989e12)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_attempts_make_one_log(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    first, second, third = Log(path), Log(path), Log(path)
    for step in (1, 3, 5):
        first.add({"step": step, "resumed_at": 0, "loss": 2.0})
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # killed
    for step in (5, 7):
        second.add({"step": step, "resumed_at": 4, "loss": float("nan")})
    third.add({"step": 9, "resumed_at": 7, "loss": 1.0})
    found = lines(path)
    assert [(line["step"], line["attempt"], line["loss"]) for line in found] == [
        (1, 1, 2.0), (3, 1, 2.0), (5, 2, None), (7, 2, None), (9, 3, 1.0)
    ]  # fmt: skip
    assert all(set(line) == {"step", "loss", "time", "attempt"} for line in found)
    assert [line["time"] for line in found] == sorted(line["time"] for line in found)


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl could not be written \(Is a directory\)"):
        Log(tmp_path / "metrics.jsonl").add({"step": 1, "resumed_at": 0})


@pytest.mark.parametrize("killed_at", [None, 5])
def test_a_products_log_lies_beside_its_manifest(
    tmp_path: Path, base: Path, ift_rows: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int | None
) -> None:
    house = House(tmp_path / "store", base, ift_rows)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    spec = {"kind": "run", **RECIPE, **COSINE, "method": {"kind": "full"}, "epochs": 1}
    add = Log.add

    def killing(log: Log, event: dict[str, Any]) -> None:
        add(log, event)
        if event["step"] == killed_at:
            os.kill(os.getpid(), signal.SIGTERM)

    if killed_at:
        with monkeypatch.context() as patch:
            patch.setattr(Log, "add", killing)
            with pytest.raises(SystemExit):
                house.train(spec)
        scratch = house.store.scratch(house.product(spec).key)
        assert [line["step"] for line in lines(scratch / "metrics.jsonl")] == list(range(1, killed_at + 1))
    product, results = house.train(spec)
    found = lines(house.store.root / f"{product.key}.metrics.jsonl")
    steps = results["steps"]
    assert [line["step"] for line in found] == list(range(1, steps + 1))
    assert [line["attempt"] for line in found] == [1] * (killed_at or steps) + [2] * (steps - (killed_at or steps))
    assert [line["loss"] for line in found] == [loss for _, loss in results["loss_curve"]]
    assert found[-1]["tokens"] == results["tokens"]
    assert set(found[-1]) == {
        "step", "steps", "loss", "lr", "tokens", "tokens_per_second", "devices", "mfu", "memory_bytes", "eta_seconds",
        "time", "attempt",
    }  # fmt: skip
    manifest = house.store.read(product.key)
    assert manifest is not None
    assert not [name for name in manifest["files"] if "metrics" in name]
    assert not house.store.scratch(product.key).exists()
    before = {path: path.read_bytes() for path in house.store.root.rglob("*.json*")}
    house.train(spec)  # is there already
    assert {path: path.read_bytes() for path in house.store.root.rglob("*.json*")} == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        {
            "step": step, "steps": 9, "resumed_at": 3, "loss": 2.5, "tokens_per_second": 1234.0, "mfu": mfu,
            "memory_bytes": 5 * 10**9, "eta_seconds": 9.0 - step,
        }
        for step, mfu in [(4, None), (9, 0.453)]
    ]  # fmt: skip
    report = train._reporter("runs/it")
    for event in events:
        report(event)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "runs/it: step 9 of 9, loss 2.500, 1,234 tokens/s, 0 s left"
    )  # fmt: skip
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    report = train._reporter("runs/it")
    for event in events:
        report(event)
    last = terminal.getvalue().rstrip("\n").split("\r")[-1]
    assert last.startswith("runs/it: 100%")
    assert "9/9" in last
    assert "loss 2.500, 1,234 tokens/s, MFU 45.3%, 5.0 GB" in last
