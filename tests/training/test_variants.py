"""rsLoRA, DoRA, PiSSA, LoRA+ and QLoRA: against numpy in float64 and plain peft; from training to what is loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from scripts.common.errors import UserError
from scripts.components.methods import method_of
from scripts.components.methods.lora import Lora
from scripts.loading.models import load_model
from scripts.spectra.singular_values import spectra
from scripts.training import loop
from scripts.training.dropout import dropout_of, keep_mask
from scripts.training.loop import Fit, fit
from scripts.training.model import trainable_model
from scripts.training.optimizer import NamedOptimizer

pytestmark = pytest.mark.arithmetic

TOKENS = torch.arange(3, 35).view(2, 16)
RANK, ALPHA = 2, 4.0
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"scaling": "rank_stabilized"},
    "dora": {"decomposed": True},
    "dora with dropout": {"decomposed": True, "scaling": "rank_stabilized", "dropout": 0.25},
    "pissa": {"initialization": "pissa"},
    "pissa, rslora": {"initialization": "pissa", "scaling": "rank_stabilized"},
    "lora+": {"learning_rate_ratio_b": 8.0},
}
SCALING = {name: ALPHA / (RANK**0.5 if "scaling" in variant else RANK) for name, variant in VARIANTS.items()}
MODULE = "model.layers.1.mlp.up_proj"
LENGTHS = "lora_magnitude_vector"


@pytest.fixture(params=[name for name in VARIANTS if name != "lora+"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def moved(base: Path, words: SimpleNamespace) -> Callable[[str], Any]:
    """Makes the model of a variant and moves everything that it trains."""

    def make(variant: str) -> Any:
        model = trainable_model(base, words.LORA | VARIANTS[variant], 0, None)
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value += 0.1 * torch.randn(value.shape, generator=draw)
        return model

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


def plain(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def weight(base: Path, name: str = MODULE) -> NDArray[np.float64]:
    found: NDArray[np.float64] = load_file(base / "model.safetensors")[f"{name}.weight"].double().numpy()
    return found


def parts(model: Any, name: str = MODULE) -> tuple[NDArray[np.float64], ...]:
    """W, A and B of a module, and the lengths of its rows where they are trained."""
    layer = model.get_base_model().get_submodule(name)
    tensors = [layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    tensors += [layer.lora_magnitude_vector[key].weight for key in layer.lora_magnitude_vector]
    return tuple(tensor.detach().double().numpy() for tensor in tensors)


def row_lengths(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt((matrix**2).sum(axis=1, keepdims=True))


def test_forward_equals_numpy(moved: Callable[[str], Any], variant: str) -> None:
    model = moved(variant).train()
    module = model.get_base_model().get_submodule(MODULE)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    rows, positions = torch.tensor([0, 0, 7]), torch.tensor([2, 3, 2])
    with torch.no_grad(), dropout_of(5, 6, rows, positions):
        found = module(x).numpy()
    w, a, b, *lengths = parts(model)
    change = SCALING[variant] * b @ a
    seen = x.double().numpy()
    if lengths:
        if "dropout" in VARIANTS[variant]:  # peft's DoRA drops what W sees of the adapted part too, not of W alone
            kept = keep_mask(5, 6, MODULE, rows, positions, 32, 0.25).double().numpy()
            assert sorted(set(kept.flatten())) == pytest.approx([0, 4 / 3])
            dropped = seen * kept
        else:
            dropped = seen
        directions = (w + change) / row_lengths(w + change)
        expected = seen @ w.T + dropped @ (lengths[0][:, None] * directions - w).T
    else:
        expected = seen @ (w + change).T
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_gradients_are_plain_pefts(moved: Callable[[str], Any], tmp_path: Path, base: Path, variant: str) -> None:
    model = moved(variant).train()
    Lora.save(model, tmp_path)
    reference = PeftModel.from_pretrained(plain(base), tmp_path, is_trainable=True).train()
    found, expected = (
        {name: value for name, value in network.named_parameters() if value.requires_grad}
        for network in (model, reference)
    )
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 7 * (3 if variant == "dora" else 2)
    for network in (model, reference):
        network(TOKENS, labels=TOKENS).loss.backward()
    for name, value in found.items():
        assert value.grad is not None
        torch.testing.assert_close(value.grad, expected[name].grad, rtol=1e-4, atol=1e-6)


def test_what_is_written_is_the_trained_model(
    moved: Callable[[str], Any], tmp_path: Path, base: Path, variant: str
) -> None:
    """For plain peft on the base model, for an evaluation, which merges, and for a leg that goes on from there."""
    model = moved(variant)
    Lora.save(model, tmp_path)
    expected = logits(model)
    assert not torch.allclose(expected, logits(plain(base)), atol=1e-2)
    for loaded in (
        PeftModel.from_pretrained(plain(base), tmp_path),
        load_model(base, tmp_path, "lora", merge=False),
        load_model(base, tmp_path, "lora"),
    ):
        torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


def test_spectra_are_those_of_the_change(moved: Callable[[str], Any], tmp_path: Path, base: Path, variant: str) -> None:
    Lora.save(moved(variant), tmp_path)
    merged = load_model(base, tmp_path, "lora")
    names = (MODULE, "model.layers.0.self_attn.k_proj")
    found, *_ = spectra(base, tmp_path, names, lambda *_: None)
    for name in names:
        before, after = weight(base, name), merged.get_submodule(name).weight.detach().double().numpy()
        for whose, matrix in (("delta", after - before), ("tuned", after)):
            expected = np.linalg.svd(matrix, compute_uv=False)
            np.testing.assert_allclose(found[f"{whose}.{name}"].numpy(), expected, atol=1e-5)
        if "decomposed" not in VARIANTS[variant]:
            rank = 2 * RANK if "initialization" in VARIANTS[variant] else RANK
            assert np.count_nonzero(found[f"delta.{name}"]) == rank


def test_dora_begins_as_the_base_model(base: Path, words: SimpleNamespace) -> None:
    model = trainable_model(base, words.LORA | VARIANTS["dora"], 0, None)
    *_, lengths = parts(model)
    np.testing.assert_allclose(lengths[:, None], row_lengths(weight(base)), rtol=1e-6)
    torch.testing.assert_close(logits(model), logits(plain(base)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["pissa", "pissa, rslora"])
def test_pissa_begins_as_the_base_model_cut_in_two(base: Path, words: SimpleNamespace, variant: str) -> None:
    model = trainable_model(base, words.LORA | VARIANTS[variant], 0, None)
    rest, a, b = parts(model)
    u, sigma, v = np.linalg.svd(weight(base), full_matrices=False)
    largest = (u[:, :RANK] * sigma[:RANK]) @ v[:RANK]
    np.testing.assert_allclose(SCALING[variant] * b @ a, largest, atol=1e-5)
    np.testing.assert_allclose(rest, weight(base) - largest, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=0), rtol=1e-5)
    torch.testing.assert_close(logits(model), logits(plain(base)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["pissa", "pissa, rslora"])
def test_pissa_is_converted_as_peft_does_it(
    moved: Callable[[str], Any], base: Path, tmp_path: Path, words: SimpleNamespace, variant: str
) -> None:
    model = moved(variant)
    for name in ("ours", "theirs", "first"):
        (tmp_path / name).mkdir()
    Lora.save(model, tmp_path / "ours")
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=words.LORA["modules"],
        init_lora_weights="pissa",
        use_rslora="scaling" in VARIANTS[variant],
        task_type="CAUSAL_LM",
    )
    reference = get_peft_model(plain(base), config)
    reference.peft_config["default"].init_lora_weights = True
    reference.save_pretrained(tmp_path / "first")
    reference.load_state_dict(model.state_dict())
    reference.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "first"))
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for key in ("r", "lora_alpha", "use_rslora", "init_lora_weights"):
        found, expected = (
            json.loads((tmp_path / name / "adapter_config.json").read_text())[key] for name in ("ours", "theirs")
        )
        assert found == expected


@pytest.mark.parametrize("variant", ["dora with dropout", "pissa", "lora+"])
def test_legs_and_resumed_runs_are_exact(
    job: Callable[..., Fit], words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    """A leg and its branch, and a run that dies and goes on from a checkpoint, give the bytes of a run at one go."""
    adamw = {"name": "decoupled_adamw", "learning_rate": 2e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 1e-4,
             "clip_norm": 1.0}  # fmt: skip
    fields = {"method": words.LORA | VARIANTS[variant], "optimizer": adamw, "schedule": words.trapezoid(8, 3)}
    whole = job("whole", **fields, stop_step=8)
    words.train(whole)

    leg = job("leg", **fields, stop_step=5, keep_optimizer=True)
    words.train(leg)
    branch = job("branch", **fields, start=leg.out, start_step=5, stop_step=8)
    words.train(branch)
    assert words.weights(branch.out) == words.weights(whole.out)

    cut = job("cut", **fields, stop_step=8, checkpoint_seconds=0)

    def fail(state: dict[str, Any]) -> None:
        if state["step"] == 6:
            raise RuntimeError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "REPORT_SECONDS", 0)
        with pytest.raises(RuntimeError, match="power failure"):
            fit(cut, fail)
    assert not words.weights(cut.out)
    words.train(cut)
    assert words.weights(cut.out) == words.weights(whole.out)


def test_b_learns_so_many_times_faster(job: Callable[..., Fit], words: SimpleNamespace) -> None:
    """Where B is 0 A has no gradient, so that a step of plain gradient descent moves B alone, in proportion."""
    found = {}
    for ratio in (1.0, 16.0):
        made = job(
            f"ratio-{ratio}",
            method=words.LORA | {"learning_rate_ratio_b": ratio},
            optimizer={"name": "sgd", "learning_rate": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 1e9},
            schedule={"name": "trapezoid", "warmup_batches": 0, "batches": None, "cooldown_batches": None},
            stop_step=1,
        )
        words.train(made)
        found[ratio] = load_file(made.out / "adapter_model.safetensors")
    for name, value in found[1.0].items():
        if "lora_B" in name:
            assert value.any()
            torch.testing.assert_close(found[16.0][name], 16 * value, rtol=1e-6, atol=0)
        else:
            assert torch.equal(found[16.0][name], value)


@pytest.mark.parametrize("variant", ["lora+", "dora"])
def test_groups_are_those_of_pefts_loraplus(moved: Callable[[str], Any], words: SimpleNamespace, variant: str) -> None:
    model = moved(variant)
    names = {value: name for name, value in model.named_parameters()}
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    settings = {"name": "sgd", "learning_rate": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 1.0}
    method = method_of(words.LORA | VARIANTS[variant] | {"learning_rate_ratio_b": 8.0})
    optimizers = (
        NamedOptimizer(trained, settings, method.rate_ratio).torch_optimizer,
        create_loraplus_optimizer(model, torch.optim.SGD, lr=1e-3, loraplus_lr_ratio=8.0),
    )
    ours, theirs = (
        {names[value]: group["lr"] for group in optimizer.param_groups for value in group["params"]}
        for optimizer in optimizers
    )
    assert ours == theirs
    assert ours.keys() == trained.keys()
    assert set(ours.values()) == {1e-3, 8e-3}


def test_pissa_of_more_directions_than_a_matrix_has(base: Path, words: SimpleNamespace) -> None:
    method = words.LORA | VARIANTS["pissa"] | {"rank": 17}
    with pytest.raises(UserError, match=r"rank 17 is more than k_proj of the base model .* at most 16 is allowed"):
        trainable_model(base, method, 0, None)


@pytest.mark.parametrize(
    ("gpu", "sentence"),
    [(False, "There is no NVIDIA GPU here; `quantization: nf4` needs"), (True, "There is no bitsandbytes here")],
)
def test_four_bits_are_refused_at_once_where_nothing_computes_in_them(
    job: Callable[..., Fit], words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, gpu: bool, sentence: str
) -> None:
    made = job("run", method=words.LORA | {"quantization": "nf4"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("scripts.loading.models.find_spec", lambda name: None)
    monkeypatch.setattr("scripts.loading.models.pretrained", lambda *_: pytest.fail("loaded a model"))
    with pytest.raises(UserError, match=sentence):
        trainable_model(made.base, made.method, 0, None)
    (made.out / "quantization_config.json").write_text("{}")
    with pytest.raises(UserError, match=sentence):
        load_model(made.base, made.out, "lora")


@pytest.mark.gpu
@pytest.mark.parametrize("more", [{}, {"decomposed": True}, {"dropout": 0.1}], ids=["lora", "dora", "dropout"])
def test_four_bits(job: Callable[..., Fit], words: SimpleNamespace, base: Path, more: dict[str, Any]) -> None:
    """Training adapts the rounded base model; what is loaded is the model that was trained."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    method = words.LORA | {"quantization": "nf4", **more}
    untrained = trainable_model(base, method, 0, None)
    layer = untrained.get_base_model().get_submodule(MODULE).base_layer
    rounded = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert 0.01 < np.abs(rounded.double().cpu().numpy() - weight(base)).max() / np.abs(weight(base)).max() < 0.2
    run = job("run", method=method, keep_optimizer=True)
    words.train(run)
    trained = trainable_model(base, method, 0, run.out)
    with torch.no_grad():
        expected = trained.eval()(TOKENS.to(layer.weight.device)).logits.cpu()
    assert (expected - logits(plain(base))).abs().max() > 0.1
    for merge in (False, True):
        found = load_model(base, run.out, "lora", merge=merge)
        torch.testing.assert_close(logits(found.cpu()), expected, rtol=1e-3, atol=1e-3)
    merged = load_model(base, run.out, "lora").get_submodule(MODULE).weight
    assert merged.dtype == torch.float32
