"""LoRA and its variants."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from scripts.components.methods import Method
from scripts.components.modules import ALL_LINEAR, Module
from scripts.components.part import Count, field, unusual


class Lora(Method):
    """LoRA: W + (alpha / rank) B A on the named modules, B = 0 at the start. The last keys make its variants."""

    kind: Literal["lora"] = field("which method", paper="section 3")
    rank: Count = field("inner dimension of the adapter", paper="figure 1")
    alpha: Annotated[float, Field(gt=0)] = field(
        "what the adapter adds is multiplied by `alpha / rank` (but see `scaling`)", paper="appendix B.2, figure S3"
    )
    modules: Annotated[list[Module], Field(min_length=1)] = field(
        "the linear modules of every block that get an adapter; the others stay as they are",
        default=list(ALL_LINEAR),
        paper="appendix A, figure 7",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = field(
        "how often a channel of the adapter's input is dropped in training",
        default=0.0,
        unit="probability",
        paper="appendix A",
    )
    scaling: Literal["alpha_over_rank", "rank_stabilized"] = field(
        "what the adapter adds is multiplied by `alpha / rank`, or by `alpha / sqrt(rank)` (rsLoRA, arXiv 2312.03732)",
        default="alpha_over_rank",
        paper="beyond the paper",
    )
    decomposed: bool = field(
        "DoRA (arXiv 2402.09353): the lengths of the rows of W + (alpha / rank) B A are trained by themselves",
        default=False,
        paper="beyond the paper",
    )
    initialization: Literal["random", "pissa"] = field(
        "`random`: A is drawn, B = 0. `pissa` (arXiv 2404.02948): (alpha / rank) B A is W's part of its `rank` largest "
        "singular values, and W loses it; what is written is LoRA of twice the rank, for W as it was",
        default="random",
        paper="beyond the paper",
    )
    learning_rate_ratio_b: Annotated[float, Field(gt=0)] = field(
        "LoRA+ (arXiv 2402.12354): the learning rate of B (and of the lengths of `decomposed`) over that of A, which "
        "is the method's",
        default=1.0,
        paper="beyond the paper",
    )
    quantization: Literal["nf4"] | None = field(
        "QLoRA (arXiv 2305.14314): the adapted base model is kept in 4 bits; takes an NVIDIA GPU and bitsandbytes",
        default=None,
        paper="beyond the paper",
    )

    @property
    def variant(self) -> dict[str, Any]:
        """The keys that make it another method than the paper's LoRA."""
        names = ("scaling", "decomposed", "initialization", "learning_rate_ratio_b", "quantization")
        return unusual(self, *names)

    @model_validator(mode="after")
    def _variants_go_together(self) -> Self:
        if self.initialization == "pissa":
            for name, reason in (
                ("dropout", "what it would drop is the largest part of W"),
                ("decomposed", "peft cannot write both as one adapter of the base model"),
                ("quantization", "the 4 bits of what W has left are not those of the base model"),
            ):
                if getattr(self, name):
                    raise ValueError(f"initialization: pissa does not go together with {name} ({reason})")
        return self

    def spec(self) -> dict[str, Any]:
        spec = {"kind": self.kind, "rank": self.rank, "alpha": self.alpha, "modules": sorted(self.modules)}
        return {**spec, **unusual(self, "dropout"), **self.variant}
