"""Hand-made rows of an artifact's CSV, and what a reader sees of a figure, read off matplotlib's objects."""

import csv
import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.artifacts import style
from scripts.artifacts.points import COLUMNS, read_points
from scripts.components.measures import FORGETTING
from scripts.components.tasks import AVERAGE
from scripts.plan.registry import load_registry

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = load_registry(ROOT / "config" / "artifacts.yaml")
LABELS = {"64K": 64e3, "128K": 128e3, "256K": 256e3, "1": 1.0, "2": 2.0, "4": 4.0}
SETTINGS = ("code-cpt", "code-ift", "math-cpt", "math-ift")
METHODS = ("lora-r1", "lora-r4", "lora-r8", "full")
STUDY = {"study": "demo", "study_title": "Demo study: made by hand", "model": "tiny Llama", "scale": "demo",
         "source": "trained", "items": 100}  # fmt: skip

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def whitegrid() -> Iterator[None]:
    with style.whitegrid():
        yield


def fingerprint(*what: object) -> str:
    return hashlib.md5(repr(what).encode()).hexdigest()[:12]


def learning_task(setting: str) -> str:
    return "humaneval" if setting.startswith("code") else "gsm8k"


def take_from_outside(study: dict[str, Any]) -> None:
    """Makes a study's data and base model come from outside: what is made here is never at the paper's scale."""
    study["datasets"] = {name: {"source": "path", "path": f"{name}.jsonl"} for name in study["datasets"]}
    study["model"] = {
        "label": study["model"]["label"],
        "source": "hub",
        "repository": "owner/model",
        "architecture": {**study["model"]["architecture"], "vocabulary": 400},
    }


def base_row(metric: str, value: float, **common: Any) -> Row:
    """A row of the base model."""
    return {
        **STUDY, "method": "base", "kind": "base", "seed": 0, "metric": metric, "value": value, "stderr": 0.02,
        "condition": fingerprint("base"), **common,
    }  # fmt: skip


def tuned_row(
    setting: str, method: str, duration: str, metric: str, seed: int = 0, rate: float = 0.001, **common: Any
) -> Row:
    """A row of a finetuned model; every value is different, so that a mix-up shows."""
    regime = setting[-3:]
    value = round(0.2 + int(fingerprint(setting, method, duration, seed, metric, rate), 16) / 16**12 / 3, 6)
    return {
        **STUDY, "setting": setting, "setting_label": f"{setting[:4].title()} {regime.upper()}",
        "domain": setting[:-4], "regime": regime, "learning_task": learning_task(setting),
        "method": method, "kind": "full" if method == "full" else "lora",
        "rank": "" if method == "full" else method[6:], "seed": seed, "duration": duration,
        "duration_value": LABELS[duration], "duration_unit": "tokens" if regime == "cpt" else "epochs",
        "tokens": LABELS[duration] if regime == "cpt" else 57_613 * LABELS[duration], "learning_rate": rate,
        "chosen": "yes", "metric": metric, "value": value, "stderr": 0.03,
        "condition": fingerprint(setting, method, duration, seed, rate), **common,
    }  # fmt: skip


def pick(rows: list[Row], **wanted: Any) -> float:
    """The value of the one row that has all that is wanted."""
    (found,) = [row for row in rows if all(row.get(key) == item for key, item in wanted.items())]
    return float(found["value"])


def write(path: Path, rows: list[Row]) -> Path:
    """The CSV of rows; what a value is of, if a row does not say, is what it is in the paper."""
    rows = [{"tasks": ";".join(AVERAGE) if row["metric"] == FORGETTING else row["metric"], **row} for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def figure(tmp_path: Path, name: str, rows: list[Row], commit: str = "abc1234") -> Figure:
    artifact = REGISTRY[name]
    points = read_points(write(tmp_path / f"{name}.csv", rows), artifact.needs, artifact.by_rate)
    drawn = importlib.import_module(f"scripts.artifacts.{artifact.kind}").draw(artifact, points, commit)
    assert isinstance(drawn, Figure)
    return drawn


def line(ax: Axes, name: str) -> Line2D:
    (found,) = [found for found in ax.lines if found.get_gid() == name]
    return found


def data(found: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(found.get_xdata(), found.get_ydata(), strict=True)]


def markers(ax: Axes) -> list[Line2D]:
    """The models, one each; the ring around a chosen one is not one of them."""
    return [found for found in ax.lines if found.get_marker() == "o" and found.get_gid() is None]


def bars(ax: Axes) -> list[Line2D]:
    return [found for found in ax.lines if found.get_linewidth() == style.BAR and found.get_marker() != "o"]


def texts(drawn: Figure) -> str:
    return "\n".join(text.get_text() for text in drawn.texts)


def footer(drawn: Figure) -> str:
    return " ".join(text.get_text() for text in reversed(drawn.texts) if text.get_gid() == "footer")


def reading(drawn: Figure) -> str:
    return " ".join(text.get_text() for text in drawn.texts if text.get_gid() == "reading")


def legend_entries(drawn: Figure) -> list[str]:
    """All legend entries."""
    return [text.get_text() for legend in drawn.legends for text in legend.get_texts()]


def assert_all_apart(drawn: Figure) -> None:
    """Nothing overlaps or leaves the page: texts, panels with their labels, legends, and what stands over a panel."""
    renderer = FigureCanvasAgg(drawn).get_renderer()
    drawn.draw(renderer)
    blocks = [text.get_tightbbox(renderer) for text in drawn.texts]
    blocks += [ax.get_tightbbox(renderer) for ax in drawn.axes]
    blocks += [legend.get_window_extent(renderer) for legend in drawn.legends]
    over = [[text.get_window_extent(renderer) for text in ax.texts[:3]] for ax in drawn.axes]
    for group in (blocks, *over):
        for number, block in enumerate(group):
            assert block.x0 >= 0
            assert block.y0 >= 0
            assert block.x1 <= drawn.bbox.width
            assert block.y1 <= drawn.bbox.height
            assert not any(block.padded(-1).overlaps(other.padded(-1)) for other in group[:number])
