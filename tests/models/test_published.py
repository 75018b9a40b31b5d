"""The authors' checkpoints: the branch that is a duration's, never guessed, and what its weights really are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.models.products import builder
from scripts.study.datalock import resolve_branches
from tests.standins.hub import Hub, use

NAME = "authors/starcoder-lora-rank-64-20B-tokens"
MODULES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
LORA = {"kind": "lora", "rank": 64, "alpha": 128.0, "modules": MODULES}
CPT = [int(billions * 10**9) for billions in (0.25, 0.5, 1, 2, 4, 8, 16, 20)]
IFT = [1, 2, 4, 8, 16]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as hub:
        use(hub, monkeypatch, tmp_path / "home")
        yield hub


# -- branches ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["0.25B", "0.5B", "1B", "2B", "4B", "8B", "16B", "20B"],
        ["0-25B-tokens", "0-5B-tokens", "1B-tokens", "2B-tokens", "4B-tokens", "8B-tokens", "16B-tokens", "20B-tokens"],
        ["250M", "500M", "1000M", "2000M", "4000M", "8000M", "16000M", "20000M"],
        [f"starcoder-lr-1e-05-{tokens}b_tok" for tokens in ("0_25", "0_5", 1, 2, 4, 8, 16, 20)],
        ["tokens_0p25B", "tokens_0p5B", *(f"tokens_{billions}.0B" for billions in (1, 2, 4, 8, 16, 20))],
    ],
)
def test_branches_named_after_tokens(names: list[str]) -> None:
    assert resolve_branches(NAME, ["main", *names], CPT, "cpt") == dict(zip(CPT, names, strict=True))


@pytest.mark.parametrize("form", ["epoch-{}", "ep{}", "{}-epochs", "Epoch_{}", "{}ep", "magicoder-lr-5e-05-epoch-0{}"])
def test_branches_named_after_epochs(form: str) -> None:
    names = [form.format(epochs) for epochs in IFT]
    assert resolve_branches("authors/magicoder", ["main", *names], IFT, "ift") == dict(zip(IFT, names, strict=True))


def test_main_is_the_longest_duration_only_where_the_repository_says_so() -> None:
    branches = ["main", "0.25B", "8B"]
    assert resolve_branches(NAME, branches, CPT, "cpt") == {CPT[0]: "0.25B", CPT[5]: "8B", CPT[7]: "main"}
    singular = "authors/starcoder-full-finetuning-lr-1e-05-20B-token"
    assert resolve_branches(singular, ["main"], CPT, "cpt") == {CPT[7]: "main"}
    assert resolve_branches("authors/starcoder-lora", branches, CPT, "cpt").get(CPT[7]) is None
    assert resolve_branches(NAME, branches, CPT[:4], "cpt") == {CPT[0]: "0.25B"}  # 20B is not asked for
    assert resolve_branches(NAME, ["main", "20B"], CPT, "cpt") == {CPT[7]: "20B"}
    assert resolve_branches("authors/magicoder-16-epochs", ["main"], IFT, "ift") == {}


@pytest.mark.parametrize(
    ("branches", "durations", "regime"),
    [
        (["1B", "1B-again"], [10**9], "cpt"),  # two of one duration
        (["20B", "20b-tokens"], [CPT[7]], "cpt"),
        (["8B-of-20B"], [CPT[5], CPT[7]], "cpt"),  # one that could be either
        (["0-5B"], [CPT[1], 5 * 10**9], "cpt"),
        (["epoch-2-of-16-epochs"], [2, 16], "ift"),
        (["2B", "v2", "step2", "lr-2e-05", "deepep2x", "2"], [2], "ift"),  # no epochs
        (["2", "r2", "ba2543", "12B", "2.5B", "rank-2-lora", "2billion"], [CPT[3]], "cpt"),  # no 2B tokens
        (["main"], [2], "ift"),
        ([], [2], "ift"),
    ],
)
def test_nothing_is_guessed(branches: list[str], durations: list[int], regime: str) -> None:
    assert resolve_branches("authors/magicoder", branches, durations, regime) == {}


@given(st.lists(st.text("0125BMbep-_.och ", max_size=12), max_size=8), st.sampled_from(["cpt", "ift"]))
def test_whatever_the_branches_are_a_duration_has_one_of_its_own(branches: list[str], regime: str) -> None:
    durations = CPT if regime == "cpt" else IFT
    found = resolve_branches(NAME, branches, durations, regime)
    assert set(found) <= set(durations)
    assert set(found.values()) <= set(branches)
    assert len(set(found.values())) == len(found)
    assert resolve_branches(NAME, reversed(branches), reversed(durations), regime) == found
    # what the lock keeps (only these branches) says the same
    assert resolve_branches(NAME, found.values(), durations, regime) == found


# -- weights ----------------------------------------------------------------------------------


def adapter(rank: int = 64, modules: list[str] = MODULES, **config: Any) -> dict[str, bytes]:
    weights = {}
    for module in modules:
        part = "self_attn" if module in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        place = f"base_model.model.model.layers.0.{part}.{module}"
        weights[f"{place}.lora_A.weight"] = np.zeros((rank, 4), np.float32)
        weights[f"{place}.lora_B.weight"] = np.zeros((8, rank), np.float32)
    said = {"peft_type": "LORA", "r": 64, "lora_alpha": 128, "target_modules": modules, **config}
    return {"adapter_config.json": json.dumps(said).encode(), "adapter_model.safetensors": save(weights)}


def take(hub: Hub, tmp_path: Path, files: dict[str, bytes], method: dict[str, Any], **spec: Any) -> Path:
    revision = hub.commit("model", NAME, files, branch="8B")
    context = BuildContext(
        "published/code-cpt/lora-r64/8B-0123456789ab", "released", tmp_path / "scratch", {}, lambda: []
    )
    spec = {"kind": "published", "repository": NAME, "revision": revision, "branch": "8B", "method": method, **spec}
    out = tmp_path / "out"
    out.mkdir()
    builder(spec)(spec, context, out)
    return out


def test_an_adapter_is_taken(hub: Hub, tmp_path: Path) -> None:
    files = adapter()
    out = take(hub, tmp_path, {**files, "tokenizer.json": b"{}", "README.md": b""}, LORA)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


def test_a_full_model_is_taken(hub: Hub, tmp_path: Path) -> None:
    files = {
        "config.json": json.dumps({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1}).encode(),
        "model.safetensors": save({"a": np.zeros((9, 9), np.float32)}),
    }
    out = take(hub, tmp_path, {**files, "tokenizer.json": b"{}"}, {"kind": "full"})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


@pytest.mark.parametrize(
    ("files", "method", "said"),
    [
        # as the authors' repository of rank 64 was seen once: the name and the config say 64, the file holds 16
        (adapter(rank=16), LORA, "rank 64 is expected, but its weights have rank 16"),
        (adapter(r=16), LORA, "rank 64 and alpha 128 are expected, but adapter_config.json says rank 16 and alpha 128"),
        (adapter(lora_alpha=32), LORA, "says rank 64 and alpha 32"),
        (adapter(modules=MODULES[:3]), LORA, "but its weights adapt down_proj, gate_proj, k_proj"),
        (adapter(use_rslora=True), LORA, "sets use_rslora"),
        (adapter(), {"kind": "full"}, "a fully finetuned model is expected"),
        ({"config.json": b"{}", "model.safetensors": b"x"}, LORA, "a LoRA adapter in safetensors is expected"),
        ({**adapter(), "adapter_model.safetensors": b"x"}, LORA, "cannot be read"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, {"kind": "full"}, "pickled weights alone"),
    ],
)
def test_another_checkpoint_than_expected_is_an_error(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], method: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        take(hub, tmp_path, files, method)
    assert str(caught.value).startswith(f"model {NAME}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unlocked_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not locked; run `.*lock --study released`"):
        take(hub, tmp_path, adapter(), LORA, revision=None)
