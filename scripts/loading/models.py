"""Models from their directories. Weights are in fp32, but for a base model that is kept in 4 bits (QLoRA)."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scripts.common.errors import UserError
from scripts.components.methods import METHODS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(base: Path, run: Path | None, method_kind: str | None, merge: bool = True) -> "PreTrainedModel":
    """The model to evaluate, in fp32 and in evaluation mode: the base model alone where `run` is None.

    `run` is what `Method.save` wrote for `method_kind`. `merge` puts an adapter into the base weights, so that
    generation costs what it costs for the base model. Where the base model was in 4 bits, its weights are what those
    4 bits say. Raises UserError for an unknown kind, and where a base model has to be in 4 bits and cannot.
    """
    if run is None:
        model = pretrained(base)
    elif method_kind in METHODS:
        model = METHODS[method_kind].load(base, run, merge)
    else:
        raise UserError(f"The method kind {method_kind!r} is unknown; allowed are {', '.join(METHODS)}.")
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def pretrained(directory: Path, quantized: Any = None) -> Any:
    """The transformers model in a directory. `quantized` is a BitsAndBytesConfig, and puts it on the GPU.

    Its makers' own dropout is off, in training too, as in the paper: OPT, GPT-2 and others have some in their configs.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for every file loaded or saved would bury the run's own progress
    return AutoModelForCausalLM.from_pretrained(
        directory,
        config=_config(directory),
        dtype=torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
        **({"quantization_config": quantized} if quantized else {}),
    )


def skeleton(directory: Path) -> Any:
    """The transformers model in a directory, its weights without data."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(_config(directory))  # type: ignore[no-untyped-call]


def _config(directory: Path) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, int | float):
            setattr(config, name, 0.0)
    return config


def nf4(precision: str) -> Any:
    """How QLoRA keeps a base model that computes in `precision`: 4-bit NormalFloat, its blocks' scales in 8 bits.

    Raises UserError where nothing computes in 4 bits.
    """
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


def rounded(base: Path) -> Any:
    """The base model in fp32, every adapted weight as its 4 bits have it."""
    return pretrained(base, nf4("fp32")).dequantize(torch.float32).to("cpu")
