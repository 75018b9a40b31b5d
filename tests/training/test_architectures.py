"""Tiny models of many architectures: trained as transformers and peft have them, or refused; docs/architectures.md."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.attention import varlen
from transformers import AutoModelForCausalLM

from scripts.common.errors import UserError
from scripts.components.methods import METHODS
from scripts.loading.models import load_model
from scripts.training import agreement, loop
from scripts.training.agreement import require_agreement
from scripts.training.attention import use_varlen
from scripts.training.loop import Fit
from scripts.training.model import trainable_model
from scripts.training.objective import Objective, backward
from tests.training.architectures import ARCHITECTURES, DOCUMENT, HEAD, WORDS, lora, make, refusals, table
from tests.training.kernels import sequences

pytestmark = pytest.mark.arithmetic

QUICK = ("Llama, grouped queries", "Gemma3", "Granite", "GPT-2")
"""Those tried for every commit: a window, scaled logits, no `nn.Linear`."""
REFUSED = {"Gemma2": ("full", *WORDS), "Mixtral": ("all-linear", "mlp")}
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES if name != "Gemma2"
]
LENGTH = 16
_DRAW = torch.Generator().manual_seed(3)
TOKENS = torch.randint(3, 64, (4, LENGTH), generator=_DRAW)
LABELS = torch.where(torch.rand(TOKENS.shape, generator=_DRAW) < 0.7, TOKENS, -100)
SEGMENTS = torch.tensor([[0] * 16, [0] * 5 + [1] * 11, [4] * 1 + [2] * 6 + [3] * 9, [0] * 8 + [1] * 8])


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def base(name: str, tmp_path: Path) -> Path:
    return make(name, tmp_path / "base")


def methods(name: str) -> list[dict[str, Any]]:
    """The methods that train an architecture: none, full finetuning, LoRA with each word for modules."""
    kinds = {"full": {"kind": "full"}} | {word: lora(word) for word in WORDS}
    return [kinds[kind] for kind, refused in refusals(name).items() if not refused]


def theirs(base: Path, adapter: Path | None) -> Any:
    """The model as transformers and peft load it, with its makers' dropout off."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model.eval() if adapter is None else PeftModel.from_pretrained(model, adapter, is_trainable=True).eval()


def expected(model: Any, segments: torch.Tensor | None) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss over all targets, by the model's own loss of one text after another, and its gradients."""
    rows = torch.zeros_like(TOKENS) if segments is None else segments
    texts = [(row, rows[row] == one) for row in range(len(TOKENS)) for one in rows[row].unique()]
    counts = {text: int((LABELS[row][chosen][1:] != -100).sum()) for text, (row, chosen) in enumerate(texts)}
    total = sum(counts.values())
    loss = 0.0
    for text, (row, chosen) in enumerate(texts):
        if counts[text]:
            ids, labels = TOKENS[row][chosen][None], LABELS[row][chosen][None]
            part = model(input_ids=ids, labels=labels, use_cache=False).loss * counts[text] / total
            part.backward()
            loss += part.item()
    return loss, {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["across", "within"])
def test_loss_and_every_gradient_are_theirs(
    name: str, base: Path, tmp_path: Path, segments: torch.Tensor | None
) -> None:
    for number, method in enumerate(methods(name)):
        model = trainable_model(base, method, 0, None).eval()
        written = tmp_path / f"written-{number}"
        adapter = None
        if method["kind"] == "lora":
            for value in model.parameters():
                if value.requires_grad:
                    torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(value.numel()))
            (adapter := written).mkdir()
            METHODS["lora"].save(model, adapter)
        loss, gradients = expected(theirs(base, adapter), segments)
        found, _ = backward(Objective(model, "fp32"), TOKENS, LABELS, 4, loss="token_mean", segments=segments)
        ours = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        assert found.item() == pytest.approx(loss, rel=1e-5)
        assert ours.keys() == gradients.keys()
        scale = max(value.norm().item() for value in gradients.values())
        for key, value in gradients.items():
            assert (ours[key] - value).norm() <= 1e-4 * value.norm() + 1e-6 * scale, (method, key)


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["across", "within"])
def test_bf16_agrees_within_the_tolerance_and_with_room(
    name: str, base: Path, segments: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the tolerance of the loss, half of that of the gradient: a model of the table is never refused."""
    monkeypatch.setitem(agreement.LOSS, "bf16", agreement.LOSS["bf16"] / 4)
    monkeypatch.setitem(agreement.GRADIENT, "bf16", agreement.GRADIENT["bf16"] / 2)
    for method in methods(name):
        model = trainable_model(base, method, 0, None).train()
        trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
        require_agreement(Objective(model, "bf16"), trained, TOKENS, LABELS, segments, "bf16")


def test_its_makers_dropout_is_off_in_training_and_in_what_is_saved(name: str, base: Path, tmp_path: Path) -> None:
    model = trainable_model(base, {"kind": "full"}, 0, None)
    METHODS["full"].save(model, tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    with torch.no_grad():
        evaluated = model.eval()(TOKENS, use_cache=False).logits
        for trained in (model.train(), saved.train()):
            assert torch.equal(trained(TOKENS, use_cache=False).logits, evaluated)
        if name in ("GPT-2", "OPT", "Falcon", "Phi-3", "GPT-NeoX"):  # it is in their configs
            theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
            assert not torch.allclose(theirs(TOKENS, use_cache=False).logits, evaluated, atol=1e-2)


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["across", "within"])
def test_the_attention_of_a_gpu_has_the_windows_too(
    name: str, base: Path, segments: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", sequences)
    for method in methods(name)[:1]:
        model = trainable_model(base, method, 0, None).train()
        use_varlen(model)
        trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
        require_agreement(Objective(model, "fp32"), trained, TOKENS, LABELS, segments, "fp32")


def test_goes_on_bit_for_bit_and_is_read_by_plain_transformers_and_peft(
    name: str, base: Path, job: Callable[..., Fit], words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = loop.backward
    for number, method in enumerate(methods(name)[:2]):
        settings = {"base": base, "method": method, "stop_step": 6, "attention": ("across", "within")[number]}
        whole, cut = job(f"whole-{number}", **settings), job(f"cut-{number}", **settings, checkpoint_seconds=0.0)
        words.train(whole)

        def interrupted(*arguments: Any, **options: Any) -> Any:
            if options["step"] == 3:
                raise KeyboardInterrupt
            return backward(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(loop, "backward", interrupted)
            with pytest.raises(KeyboardInterrupt):
                words.train(cut)
        words.train(cut)
        assert words.weights(whole.out) == words.weights(cut.out)
        kind = method["kind"]
        plain = theirs(whole.out, None) if kind == "full" else theirs(base, whole.out)
        merged = load_model(base, whole.out, kind)
        with torch.no_grad():
            logits = plain(TOKENS, use_cache=False).logits
            assert (merged(TOKENS, use_cache=False).logits - logits).abs().max() <= 1e-4 * logits.abs().max()
            before = theirs(base, None)(TOKENS, use_cache=False).logits
        assert (before - logits).abs().max() > 1e-3 * logits.abs().max(), "it has learned something"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_would_not_train(name: str, tmp_path: Path) -> None:
    """So no refusal outlives its reason."""
    base = make(name, tmp_path / "base")
    assert tuple(kind for kind, refused in refusals(name).items() if refused) == REFUSED[name]
    for kind in REFUSED[name]:
        with pytest.raises((UserError, ValueError), match=r"scaled_dot_product_attention|mixture of experts"):
            trainable_model(base, {"kind": "full"} if kind == "full" else lora(kind), 0, None)


def test_the_document_has_the_table_of_today() -> None:
    _, _, written = DOCUMENT.read_text(encoding="utf-8").partition(HEAD)
    assert written == table(), "run `python -m tests.training.architectures`"
    assert set(QUICK) < set(ARCHITECTURES)
