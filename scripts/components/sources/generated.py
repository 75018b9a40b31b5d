"""Records that the data stage makes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.components.part import Count, field
from scripts.components.sources import Source

Generator = Literal[
    "everyday-documents", "code-documents", "math-documents", "code-instructions", "math-instructions",
    "chat-instructions", "humaneval", "gsm8k", "hellaswag", "arc-challenge", "winogrande", "mmlu", "lambada",
    "winograd", "mt-bench",
]  # fmt: skip


LENGTH = 0.3
"""How long their items are beside those of the real benchmarks, about; for estimates of time."""


class GeneratedDataset(Source):
    """Records that the data stage makes from the study's `data_seed`."""

    source: Literal["generated"] = field("the pipeline makes the records", paper="beyond the paper")
    generator: Generator = field("which records are made; their format is that of the real set")
    records: Count = field("how many are made", unit="records")
    split: Literal["train", "validation", "test"] = field(
        "which of three disjoint parts the items come from; what is held out must not be of `train`", default="train"
    )

    entry: ClassVar[None] = None
    needs_network: ClassVar[bool] = False

    @property
    def identity(self) -> None:
        return None

    @property
    def place(self) -> str:
        return self.generator

    def spec(self, entry: Mapping[str, Any], data_seed: int) -> dict[str, Any]:
        return {**self.model_dump(), "seed": data_seed}

    @property
    def expected_records(self) -> int:
        return self.records

    @property
    def part(self) -> str:
        return self.split

    @property
    def items(self) -> str:
        return self.generator

    def overlaps(self, other: Source) -> bool:
        same = isinstance(other, GeneratedDataset) and self.generator == other.generator
        return same and self.split == other.part

    @staticmethod
    def build(spec: Mapping[str, Any], context: BuildContext, out: Path) -> dict[str, Any]:
        from scripts.data.generators import GENERATORS
        from scripts.data.records import FILE

        count = 0
        with (out / FILE).open("w", encoding="utf-8") as file:
            for record in GENERATORS[spec["generator"]](spec["records"], spec["seed"], spec["split"]):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
        if count != spec["records"]:
            raise UserError(
                f"{context.key}: the generator has {count} different records, {spec['records']} are asked for"
            )
        return {"records": count}
