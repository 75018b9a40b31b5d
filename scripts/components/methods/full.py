"""Full finetuning."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scripts.components.methods import Method
from scripts.components.part import field

if TYPE_CHECKING:
    from scripts.components.models import BaseModel


class Full(Method):
    """Full finetuning: every weight is trained."""

    label: ClassVar[str] = "full finetuning"
    is_adapter: ClassVar[bool] = False

    kind: Literal["full"] = field("which method", paper="section 3")

    def spec(self) -> dict[str, Any]:
        return self.model_dump()

    def trained_parameters(self, model: "BaseModel") -> int:
        return model.parameters

    def build(self, base: Path, seed: int, start: Path | None, precision: str) -> Any:
        from scripts.loading.models import pretrained

        return pretrained(start or base)

    @classmethod
    def save(cls, model: Any, out: Path) -> None:
        """A transformers model directory."""
        model.save_pretrained(out)

    @classmethod
    def load(cls, base: Path, run: Path, merge: bool) -> Any:
        from scripts.loading.models import pretrained

        return pretrained(run)
