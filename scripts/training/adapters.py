"""Models to train and to evaluate: full finetuning, and LoRA with its variants through peft.

Weights are in fp32, but for a base model that is kept in 4 bits (QLoRA).
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scripts.common.errors import UserError
from scripts.training.attention import use_dropout
from scripts.training.dropout import use_lora_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTER = "adapter_model.safetensors"
_QUANTIZATION = "quantization_config.json"
"""Beside an adapter: how its base model was quantized, for transformers' BitsAndBytesConfig."""


def trainable_model(
    base: Path,
    method: Mapping[str, Any],
    seed: int,
    start: Path | None,
    attention_dropout: float = 0.0,
    precision: str = "fp32",
) -> Any:
    """The model of `method` on the CPU, its trained parameters (and no others) requiring gradients.

    `start` is the directory of a leg end, whose weights are taken. Without one, LoRA has B = 0 and A drawn from
    Kaiming-uniform (peft's default) with `seed` alone: no earlier random number matters, nor does the device.
    `attention_dropout` is that of `use_dropout`.

    Of LoRA `method` has rank, alpha and modules, and may have `dropout` on the input of A (absent: 0), which is
    scripts.training.dropout's. So it may have what makes peft's variants, see `scripts.study.schema.Lora`: `scaling`,
    `decomposed`, `initialization` and `quantization` (`learning_rate_ratio_b` is the optimizer's). With DoRA, dropout
    is on the input of W too, as in peft. PiSSA takes its factors out of W anew unless there is a `start`, which has
    them: bit for bit the same on the same kind of CPU with equal threads. A base model in 4 bits is on the GPU, and
    computes in `precision`.

    Raises UserError for an unknown kind, for modules that the base model does not have or that have no such rank, and
    where a base model cannot be in 4 bits.
    """
    if method["kind"] == "full":
        return _with_attention_dropout(_pretrained(start or base), attention_dropout)
    if method["kind"] != "lora":
        raise UserError(f"The method kind {method['kind']!r} is unknown; allowed are full and lora.")
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    from scripts.training.lora_linear import use_lora_linear

    quantized = _nf4(precision) if method.get("quantization") == "nf4" else None
    network = _with_attention_dropout(_pretrained(base, quantized), attention_dropout)
    parts = network.named_modules()
    linears = {name.rpartition(".")[2]: part for name, part in parts if isinstance(part, torch.nn.Linear)}
    if unknown := sorted(set(method["modules"]) - linears.keys()):
        allowed = ", ".join(sorted(linears))
        raise UserError(f"The base model {base} has no linear module {unknown[0]!r}; allowed are {allowed}.")
    pissa = method.get("initialization") == "pissa"
    for name in method["modules"] if pissa else ():
        if method["rank"] > (most := min(linears[name].weight.shape)):
            raise UserError(
                f"The rank {method['rank']} is more than {name} of the base model {base} has; "
                f"with the initialization pissa at most {most} is allowed."
            )
    config = LoraConfig(
        r=method["rank"],
        lora_alpha=method["alpha"],
        target_modules=list(method["modules"]),
        lora_dropout=method.get("dropout", 0.0),
        bias="none",
        task_type="CAUSAL_LM",
        use_rslora=method.get("scaling") == "rank_stabilized",
        use_dora=method.get("decomposed", False),
        init_lora_weights="pissa" if pissa and start is None else True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = get_peft_model(network, config)
    use_lora_dropout(model)
    use_lora_linear(model)
    if start is not None:
        adapter = load_file(start / _ADAPTER)
        if adapter.keys() != _adapter(model).keys():
            raise UserError(f"The adapter in {start} is not one of this method on this base model.")
        if pissa:
            halves = {name: value.chunk(2, _along(name)) for name, value in adapter.items()}
            adapter, model.pissa_rest = ({name: both[half] for name, both in halves.items()} for half in range(2))
            set_peft_model_state_dict(model, model.pissa_rest)
            _add_to_base(model)
        set_peft_model_state_dict(model, adapter)
    elif pissa:  # A0 and -B0, see `save_model`
        model.pissa_rest = {name: value * (-1) ** _along(name) for name, value in _adapter(model).items()}
    return model


def save_model(model: Any, out: Path) -> None:
    """Write the trained weights in fp32: a transformers model directory, or a peft adapter directory.

    The bytes depend on weights and method alone: no model card, no path of the base model, no order of a set.

    An adapter that began as PiSSA was trained beside W - s B0 A0. It is written as the LoRA of twice the rank that does
    the same beside W, s (B A - B0 A0) = s [B | -B0] [A ; A0], as peft converts it (`path_initial_model_for_weight_
    conversion`). Where the base model was in 4 bits, how stands in `quantization_config.json`.
    """
    from peft import PeftModel
    from safetensors.torch import save_file

    if not isinstance(model, PeftModel):
        model.save_pretrained(out)
        return
    adapter = _adapter(model)
    config: Any = model.peft_config["default"]
    entries = config.to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    entries["target_modules"] = sorted(config.target_modules)
    if rest := getattr(model, "pissa_rest", None):
        adapter = {name: torch.cat((value.cpu(), rest[name]), _along(name)) for name, value in adapter.items()}
        # the scaling stays, which divides alpha by the rank or by its root
        alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
        entries |= {"r": 2 * config.r, "lora_alpha": alpha, "init_lora_weights": True}
    tensors = {name: tensor.contiguous() for name, tensor in adapter.items()}
    save_file(tensors, out / _ADAPTER, metadata={"format": "pt"})
    _write_json(out / "adapter_config.json", entries)
    if quantized := getattr(model.config, "quantization_config", None):
        _write_json(out / _QUANTIZATION, quantized.to_dict())


def load_model(base: Path, run: Path | None, method_kind: str | None, merge: bool = True) -> "PreTrainedModel":
    """The model to evaluate, in fp32 and in evaluation mode: the base model alone where `run` is None.

    `run` is what `save_model` wrote for `method_kind`. `merge` puts the adapter into the base weights, as peft does
    (plain LoRA: W + alpha / r * B A) in fp32, so that generation costs what it costs for the base model. Where the
    base model was in 4 bits, W is what those 4 bits say. Raises UserError for an unknown kind, and where a base model
    has to be in 4 bits and cannot.
    """
    if run is None or method_kind == "full":
        model = _pretrained(run or base)
    elif method_kind == "lora":
        from peft import PeftModel

        model = PeftModel.from_pretrained(_rounded(base) if (run / _QUANTIZATION).exists() else _pretrained(base), run)
        if merge:
            model = model.merge_and_unload()
    else:
        raise UserError(f"The method kind {method_kind!r} is unknown; allowed are full and lora.")
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def _with_attention_dropout(network: Any, rate: float) -> Any:
    if rate:
        use_dropout(network, rate)
    return network


def _adapter(model: Any) -> dict[str, Tensor]:
    """The adapter's weights under the names that peft has in files."""
    from peft import get_peft_model_state_dict

    # save_embedding_layers="auto", the default, may ask the hub
    found: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return found


def _along(name: str) -> int:
    """The dimension of a factor that is as long as the rank: A is [rank, columns], B is [rows, rank]."""
    return 0 if "lora_A" in name else 1


def _add_to_base(model: Any) -> None:
    """Add every adapter to the W beside it, with the rounding of peft's `pissa_init`."""
    from peft.tuners.lora import LoraLayer

    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, LoraLayer):
                a, b = part.lora_A["default"].weight, part.lora_B["default"].weight
                part.base_layer.weight += part.scaling["default"] * b @ a


def _nf4(precision: str) -> Any:
    """How QLoRA keeps a base model: 4-bit NormalFloat, the scales of its blocks in 8 bits."""
    lacking = "NVIDIA GPU" if not torch.cuda.is_available() else "" if find_spec("bitsandbytes") else "bitsandbytes"
    if lacking:
        raise UserError(f"There is no {lacking} here; `quantization: nf4` needs an NVIDIA GPU and bitsandbytes.")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )


def _rounded(base: Path) -> Any:
    """The base model on the CPU in fp32, every adapted weight as its 4 bits have it."""
    return _pretrained(base, _nf4("fp32")).dequantize(torch.float32).to("cpu")


def _pretrained(directory: Path, quantized: Any = None) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for every file loaded or saved would bury the run's own progress
    return AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
        **({"quantization_config": quantized} if quantized else {}),
    )


def _write_json(path: Path, entries: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
