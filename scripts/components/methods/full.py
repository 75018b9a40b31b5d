"""Full finetuning."""

from typing import Any, Literal

from scripts.components.methods import Method
from scripts.components.part import field


class Full(Method):
    """Full finetuning: every weight is trained."""

    kind: Literal["full"] = field("which method", paper="section 3")

    def spec(self) -> dict[str, Any]:
        return self.model_dump()
