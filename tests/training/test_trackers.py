"""TensorBoard and W&B through accelerate's trackers, with stand-ins for the two packages."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType

from scripts.common.errors import UserError
from scripts.training import loop, trackers, train
from tests.training.houses import RECIPE, House


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the stand-ins were told: both packages are there as far as accelerate can see."""
    told: list[Any] = []

    class Writer:
        def __init__(self, directory: str, **options: Any) -> None:
            told.append((str(directory), options))

        def add_scalar(self, name: str, value: float, global_step: int) -> None:
            told.append((name, value, global_step))

        def flush(self) -> None: ...

        def close(self) -> None:
            told.append("closed")

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            told.extend((name, value, step) for name, value in values.items())

        def finish(self) -> None:
            told.append("closed")

    def init(**options: Any) -> Run:
        told.append(options)
        return Run()

    for name, content in {"torch.utils.tensorboard": {"SummaryWriter": Writer}, "wandb": {"init": init}}.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("torch.utils.tensorboard", sys.modules["torch.utils.tensorboard"], raising=False)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD, LoggerType.WANDB])
    monkeypatch.setattr(trackers, "DIRECTORY", tmp_path / "logs")
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0.0)
    return told


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_what_is_reported_is_shown(
    tmp_path: Path,
    base: Path,
    cpt_rows: Path,
    words: SimpleNamespace,
    said: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Every loss at its step, and the product is the same as without a tracker."""
    house = House(tmp_path / "store", base, cpt_rows)
    trunk = {**RECIPE, "method": words.FULL, "warmup_batches": 3, "first_leg": 4}
    product = house.product({"kind": "leg", "trunk": trunk, "batches": 4})
    losses: list[Any] = []
    monkeypatch.setattr(
        train, "_reporter", lambda _: lambda event: losses.append(("loss", event["loss"], event["step"]))
    )
    monkeypatch.setenv(trackers.VARIABLE, name)
    manifest = house.train_product(product)
    opened, *values, closed = said
    if name == "tensorboard":
        assert opened == (str(tmp_path / "logs" / "tensorboard" / product.key), {"purge_step": 1})
    else:
        assert (opened["project"], opened["name"], opened["id"]) == ("forgetting", product.key, product.key[-12:])
        assert (opened["resume"], opened["config"]) == ("allow", product.spec)
    assert [value for value in values if value[0] == "loss"] == losses
    assert len(losses) == 4
    assert {value[0] for value in values} >= {"loss", "lr", "tokens", "tokens_per_second", "memory_bytes"}
    assert closed == "closed"

    said.clear()
    monkeypatch.delenv(trackers.VARIABLE)
    again = House(tmp_path / "untracked", base, cpt_rows).train_product(product)
    assert said == []
    assert again["files"] == manifest["files"]


def test_unknown_and_missing_trackers_are_one_sentence(monkeypatch: pytest.MonkeyPatch, said: list[Any]) -> None:
    nothing: Any = None  # a launch is not even asked
    monkeypatch.setenv(trackers.VARIABLE, "abacus")
    with pytest.raises(UserError, match="the tracker 'abacus' is unknown; allowed are tensorboard and wandb"):
        train.main(nothing, "it")
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    monkeypatch.setenv(trackers.VARIABLE, "wandb")
    with pytest.raises(UserError, match="the tracker wandb is not installed; `pip install wandb`"):
        train.main(nothing, "it")
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard")
    assert trackers.chosen() == "tensorboard"
    monkeypatch.setenv(trackers.VARIABLE, "")
    assert trackers.chosen() is None
