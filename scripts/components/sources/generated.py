"""Records that the data stage makes."""

from collections.abc import Mapping
from typing import Any, Literal

from scripts.components.part import Count, field
from scripts.components.sources import Source

Generator = Literal[
    "everyday-documents", "code-documents", "math-documents", "code-instructions", "math-instructions",
    "chat-instructions", "humaneval", "gsm8k", "hellaswag", "arc-challenge", "winogrande", "mmlu", "lambada",
    "winograd", "mt-bench",
]  # fmt: skip


class GeneratedDataset(Source):
    """Records that the data stage makes from the study's `data_seed`."""

    source: Literal["generated"] = field("the pipeline makes the records", paper="beyond the paper")
    generator: Generator = field("which records are made; their format is that of the real set")
    records: Count = field("how many are made", unit="records")
    split: Literal["train", "validation", "test"] = field(
        "which of three disjoint parts the items come from; what is held out must not be of `train`", default="train"
    )

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
