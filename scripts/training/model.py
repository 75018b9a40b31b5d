"""The model to train: what a method makes of a base model, with attention dropout where that is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.components.methods import method_of
from scripts.training.attention import use_dropout


def trainable_model(
    base: Path,
    method: Mapping[str, Any],
    seed: int,
    start: Path | None,
    attention_dropout: float = 0.0,
    precision: str = "fp32",
) -> Any:
    """The model of `method` on the CPU, its trained parameters (and no others) requiring gradients.

    `method` is what `Method.spec` has; for the others see `Method.build`, and `use_dropout` for `attention_dropout`.

    Raises UserError for a method that is none, or that does not go together with this base model, start or machine.
    """
    model = method_of(method).build(base, seed, start, precision)
    if attention_dropout:
        use_dropout(model, attention_dropout)
    return model
