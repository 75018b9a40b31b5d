"""Which model an evaluation is of."""

from pathlib import Path

import pytest

from scripts.evaluation.evaluate import finetuned
from scripts.launch.launch import launch_by_hand


@pytest.mark.parametrize("study", ["smoke", "paper", "released"])
def test_the_condition_s_model_is_evaluated(study: str, tmp_path: Path) -> None:
    grid = launch_by_hand(study, str(tmp_path)).grid
    (base,) = grid.blocks["base"]
    conditions = grid.conditions("grid")
    places = {condition.product.partition("/")[0] for condition in conditions[1:]}
    assert places == {"published" if study == "released" else "runs"}
    for condition in conditions:
        for key in condition.evaluations.values():
            product = grid.products[key]
            for asked in product.inputs_of("samples") or [key]:
                of = finetuned(grid.products[asked])
                assert of == (None if condition == base else condition.product)
