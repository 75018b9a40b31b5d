"""The shape of a study's base model, known before it is there, is that of its published configuration."""

import pytest

from scripts.components.shape import Shape
from scripts.study.load import load_study


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("paper", Shape(32, 32, 32, 128, 4096, 11008, 32000, item_bytes=2)),  # Llama-2-7B
        ("paper-v1-13b", Shape(40, 40, 40, 128, 5120, 13824, 32000, item_bytes=2)),  # Llama-2-13B
        ("own-smoke", Shape(30, 9, 3, 64, 576, 1536, 49152, item_bytes=2)),  # SmolLM2-135M: keys are grouped
        ("demo", Shape(3, 4, 4, 32, 128, 320, 1024, item_bytes=2)),
    ],
)
def test_shape_of_a_study(study: str, expected: Shape) -> None:
    assert Shape.of_study(load_study(study).model, 2) == expected
