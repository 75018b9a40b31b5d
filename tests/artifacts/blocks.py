"""Artifacts and CSVs of a study's blocks: regularizers, modules, rates, alphas, chat."""

import importlib
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scripts.artifacts import draw
from scripts.artifacts.points import read_points
from scripts.plan.registry import Artifact
from tests.artifacts.conftest import Row, tuned_row, write


def artifact(kind: str, *needs: str, name: str = "fig99", **more: Any) -> Artifact:
    return Artifact.model_validate({
        "name": name, "title": "A title", "caption": "A caption.", "edition": "v2", "kind": kind, "needs": needs,
        **more,
    })  # fmt: skip


def drawn(tmp_path: Path, what: Artifact, rows: list[Row]) -> Figure:
    """The figure of a CSV with these rows, drawn as `scripts.artifacts.draw` does."""
    points = read_points(write(tmp_path / "figure.csv", rows), what.needs, what.by_rate)
    made = importlib.import_module(f"scripts.artifacts.{what.kind}").draw(what, points, "abc1234")
    assert isinstance(made, Figure)
    assert draw.metadata(what, points, "abc1234")["Keywords"].startswith(f"artifact={what.name}")
    return made


def lora(rank: int, alpha: float = 0, modules: str = "all", **more: Any) -> dict[str, Any]:
    """A row's columns of a LoRA method; its name tells all of them apart."""
    alpha = alpha or 2 * rank
    name = f"lora-r{rank}-a{alpha:g}-{modules.replace(' ', '-')}"
    return {"method": name, "kind": "lora", "rank": rank, "alpha": alpha, "modules": modules, **more}


def full(variant: str = "") -> dict[str, Any]:
    return {"method": "full", "kind": "full", "rank": "", "variant": variant}


def row(method: dict[str, Any], setting: str, duration: str, metric: str, seed: int = 0, **more: Any) -> Row:
    """A row of a finetuned model; its value depends on the variant too."""
    name = f"{method['method']}{method.get('variant', '')}"
    made = tuned_row(setting, name, duration, metric, seed, more.pop("rate", 0.001))
    return {**made, **method, **more}
