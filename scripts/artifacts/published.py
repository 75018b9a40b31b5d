"""The numbers that the paper prints, `config/published_values.csv`: one row each, and each number in one row only.

An empty cell means that the column does not apply, or that the paper does not say.

artifact       where the number stands: `tableS1`; of the first edition (arXiv v1) `v1/fig2`. What a table lists and a
               figure draws, or a wider table holds, stands under that table's name (see `DRAWN_FROM`); the base model's
               scores under a figure's
model          `Llama-2-7B`; of the estimates of memory how many parameters: `7B`, `70B`, `405B`
setting        `code-cpt`, `math-cpt`, `code-ift`, `math-ift`, `chat-ift`; empty for the base model
method         `base`, `full`, `lora-r16`; `lora` where the rank is not said
alpha          of LoRA
modules        that LoRA adapts in every block: `all` (the seven linear ones), or `all-but-gate`
learning_rate  peak learning rate
optimizer      of the estimates of memory: `adam` or `lion`
duration       training tokens (`0.25B`) in continued pretraining, else epochs (`4`)
gpus           of the estimates of memory: over how many the model is sharded
metric         `humaneval` (pass@1), `gsm8k` (strict match), `forgetting` (mean accuracy on HellaSwag, ARC-challenge and
               WinoGrande), `mmlu` (mean accuracy of 57 subjects; harness and shots are not said), `mt_bench` (mean of
               scores from 1 to 10), `memory_gb` (weights, gradients and optimizer state for each GPU, 10^9 bytes)
value          with as many decimals as it is printed with
read_from      `table`, `text` (of v1: its section 4.1 as others republished it), or `figure` where it was measured off
               the drawing
note           what a reader should know of this number: a misprint, a text that says otherwise, a later account
"""

import csv
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from scripts.common.errors import UserError
from scripts.common.files import project
from scripts.common.quantities import format_tokens, parse_tokens
from scripts.components.measures import FORGETTING, SHOWN
from scripts.plan.evaluation import BASE

PUBLISHED = project("config/published_values.csv")
DRAWN_FROM = {
    "fig1": ("tableS1", "tableS3", "tableS5", "tableS7"),
    "fig2": ("tableS2", "tableS4", "tableS6", "tableS8"),
    "fig3": ("tableS1", "tableS2", "tableS3", "tableS4", "tableS5", "tableS6", "tableS7", "tableS8"),
    "figS4": ("tableS10",),
    "figS5": ("tableS11", "tableS12"),
    "figS6": ("tableS13",),
    "tableS9": ("tableS10", "tableS11", "tableS12", "tableS13"),
}
MEMORY = "memory_gb"
SCORES = ("gsm8k", "humaneval", FORGETTING, "mmlu", "mt_bench")
"""The metrics that are scores of a model: what was learned, what was forgotten, and the others."""
RANGES = {name: (SHOWN[name].least, SHOWN[name].most) for name in SCORES} | {MEMORY: (0, math.inf)}
OPTIONAL = ("setting", "alpha", "modules", "learning_rate", "optimizer", "duration", "gpus")
LORA = re.compile(r"lora(?:-r([1-9][0-9]*))?")

if TYPE_CHECKING:
    Metric: TypeAlias = str
else:
    Metric = Literal[*SCORES, MEMORY]


class PublishedValue(BaseModel):
    """One number; its fields are the columns of the file, in their order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str
    model: Literal["Llama-2-7B", "7B", "70B", "405B"]
    setting: Literal["code-cpt", "math-cpt", "code-ift", "math-ift", "chat-ift"] | None = None
    method: str
    alpha: Annotated[int, Field(gt=0)] | None = None
    modules: Literal["all", "all-but-gate"] | None = None
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    optimizer: Literal["adam", "lion"] | None = None
    duration: str | None = None
    gpus: Annotated[int, Field(gt=0)] | None = None
    metric: Metric
    value: Decimal
    read_from: Literal["table", "text", "figure"]
    note: str = ""

    @property
    def edition(self) -> str:
        """`v1` or `v2`."""
        return "v1" if self.artifact.startswith("v1/") else "v2"

    @property
    def kind(self) -> str:
        """`base`, `full` or `lora`."""
        return self.method.partition("-")[0]

    @property
    def rank(self) -> int | None:
        """Of LoRA, where the paper says it."""
        found = LORA.fullmatch(self.method)
        return int(found[1]) if found and found[1] else None

    @property
    def regime(self) -> str:
        """`cpt` or `ift`; empty for what was not trained in a setting."""
        return (self.setting or "").rpartition("-")[2]

    @property
    def amount(self) -> int | None:
        """The duration as a number: tokens in `cpt`, epochs in `ift`."""
        return None if self.duration is None else parse_tokens(self.duration)

    @field_validator("artifact")
    @classmethod
    def _is_an_artifact(cls, artifact: str) -> str:
        if not re.fullmatch(r"(v1/)?(fig|table)S?[1-9][0-9]*[a-z]?", artifact):
            raise ValueError("must be a figure or table, such as fig1, tableS1 or v1/fig2")
        return artifact

    @field_validator("method")
    @classmethod
    def _is_a_method(cls, method: str) -> str:
        if method not in (BASE, "full") and not LORA.fullmatch(method):
            raise ValueError("must be base, full, lora-r with a rank (lora-r16), or lora")
        return method

    @field_validator("value", mode="before")
    @classmethod
    def _is_as_printed(cls, value: object) -> object:
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", str(value), re.ASCII):
            raise ValueError("must be a number in plain digits, such as 0.510")
        return value

    @model_validator(mode="after")
    def _cells_go_together(self) -> Self:
        needs: tuple[str, ...] = ("setting", "duration")
        may: tuple[str, ...] = ("learning_rate", *(("alpha", "modules") if self.kind == "lora" else ()))
        what = f"a score of {self.method}"
        if self.metric == MEMORY:
            needs, may, what = ("optimizer", "gpus"), (), "an estimate of memory"
        elif self.kind == BASE:
            needs, may, what = (), (), "the base model"
        for column in OPTIONAL:
            given = getattr(self, column) is not None
            if given and column not in (*needs, *may):
                raise ValueError(f"{column}: must be empty for {what}")
            if not given and column in needs:
                raise ValueError(f"{column}: is empty, and must be given for {what}")
        low, high = RANGES[self.metric]
        if not low <= self.value <= high:
            raise ValueError(f"value: must be from {low:g} to {high:g} for {self.metric} (it says {self.value})")
        if self.duration is not None and not _is_duration(self.duration, self.regime):
            allowed = "tokens such as 0.25B" if self.regime == "cpt" else "a number of epochs"
            raise ValueError(f"duration: must be {allowed} in {self.setting} (it says {self.duration!r})")
        return self


def _is_duration(text: str, regime: str) -> bool:
    """Whether it is a duration in its one spelling, so that 0.25B and 250M do not pass for two."""
    try:
        amount = parse_tokens(text)
    except ValueError:
        return False
    return text == (format_tokens(amount) if regime == "cpt" else str(amount))


COLUMNS = tuple(PublishedValue.model_fields)
NOT_IDENTITY = {"alpha", "learning_rate", "value", "read_from", "note"}
"""Columns that say something of a number, and do not say which number it is."""


def load_published(path: Path = PUBLISHED) -> list[PublishedValue]:
    """The published values, in the file's order.

    Raises:
        UserError: the file cannot be read, or one sentence with file, line, column, what is wrong, what is allowed.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is no line of a CSV ({error})") from error
    if not lines or tuple(lines[0][1]) != COLUMNS:
        raise UserError(f"{path}, line 1: must name the columns {','.join(COLUMNS)} in this order")
    values: list[PublishedValue] = []
    seen: dict[tuple[object, ...], int] = {}
    for number, cells in lines[1:]:
        value = _parse(cells, f"{path}, line {number}")
        identity = tuple(value.model_dump(exclude=NOT_IDENTITY).values())
        if identity in seen:
            raise UserError(f"{path}, line {number}: is the same number as line {seen[identity]}; one row is allowed")
        seen[identity] = number
        values.append(value)
    return values


def _parse(cells: Sequence[str], where: str) -> PublishedValue:
    if len(cells) != len(COLUMNS):
        raise UserError(f"{where}: has {len(cells)} cells and must have {len(COLUMNS)}, one for each column")
    try:
        return PublishedValue.model_validate({c: cell for c, cell in zip(COLUMNS, cells, strict=True) if cell})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        column = "".join(f"{key}: " for key in first["loc"][:1])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "missing":
            raise UserError(f"{where}: {column}is empty, and must be given in every row") from error
        said = f" (it says {first['input']!r})" if column else ""
        raise UserError(f"{where}: {column}{message[0].lower()}{message[1:]}{said}") from error


def values_of(artifact: str, values: Sequence[PublishedValue]) -> list[PublishedValue]:
    """The numbers that an artifact shows: its own, those of the tables it is drawn from, and the base model's scores.

    Empty where the paper prints no number of it.
    """
    places = (artifact, *DRAWN_FROM.get(artifact, ()))
    asked = {(value.edition, value.metric) for value in values if value.artifact in places}
    return [v for v in values if v.artifact in places or (v.kind == BASE and (v.edition, v.metric) in asked)]
