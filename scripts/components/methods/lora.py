"""LoRA and its variants."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from scripts.common.errors import UserError
from scripts.components.methods import Method
from scripts.components.modules import ALL_LINEAR, ATTENTION, WIDENING, WORDS, Word, llama, word
from scripts.components.part import Count, field, unusual

if TYPE_CHECKING:
    from torch import Tensor

    from scripts.components.models import BaseModel

ADAPTER = "adapter_model.safetensors"
_QUANTIZATION = "quantization_config.json"
"""Beside an adapter: how its base model was quantized, for transformers' BitsAndBytesConfig."""


class Lora(Method):
    """LoRA: W + (alpha / rank) B A on the named modules, B = 0 at the start. The last keys make its variants."""

    label: ClassVar[str] = "LoRA"
    is_adapter: ClassVar[bool] = True

    kind: Literal["lora"] = field("which method", paper="section 3")
    rank: Count = field("inner dimension of the adapter", paper="figure 1")
    alpha: Annotated[float, Field(gt=0)] = field(
        "what the adapter adds is multiplied by `alpha / rank` (but see `scaling`)", paper="appendix B.2, figure S3"
    )
    modules: Word | Annotated[list[str], Field(min_length=1)] = field(
        "the linear modules of every block that get an adapter; the others stay as they are. A list of names, or for a "
        "model of any architecture: `all-linear`, `attention`, `mlp`",
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
        names = ("scaling", "decomposed", "initialization", "learning_rate_ratio_b", "quantization")
        return unusual(self, *names)

    @field_validator("modules", mode="before")
    @classmethod
    def _are_a_word_or_names(cls, value: Any) -> Any:
        words = isinstance(value, str) and value in WORDS
        if words or (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
            return value
        raise ValueError(f"must be a list of names of linear modules, or one of {', '.join(WORDS)}")

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
        spec = {"kind": self.kind, "rank": self.rank, "alpha": self.alpha, "modules": self._modules}
        return {**spec, **unusual(self, "dropout"), **self.variant}

    @property
    def _modules(self) -> str | list[str]:
        return self.modules if isinstance(self.modules, str) else sorted(self.modules)

    def check(self, model: "BaseModel") -> None:
        if model.identity is None and (unknown := sorted(set(llama(self.modules)) - set(ALL_LINEAR))):
            raise ValueError(
                f"modules: the model has no {unknown[0]!r}; allowed are {', '.join(ALL_LINEAR)}, and instead of a list "
                f"{', '.join(WORDS)}"
            )
        if (shape := model.shape) is None:
            return
        widths = [shape.hidden_size, *([shape.intermediate_size] if set(llama(self.modules)) - set(ATTENTION) else [])]
        if self.rank > min(widths):
            raise ValueError(f"rank: must not exceed the width of the model's modules ({min(widths)})")

    def require_modules(self, network: Any, where: str) -> None:
        self.targets(network, where)

    def cells(self) -> dict[str, Any]:
        return {"rank": self.rank, "alpha": f"{self.alpha:g}", "modules": word(self.modules)}

    def trained_parameters(self, model: "BaseModel") -> int:
        """rank * (inputs + outputs) of each module, and its outputs where their lengths are trained.

        As in a Llama; modules with other names count as those between an MLP's width and the model's.
        """
        if (shape := model.shape) is None:
            return 0
        width, inner = shape.hidden_size, shape.intermediate_size
        sizes: dict[str, tuple[int, int]] = {
            "q_proj": (width, shape.queries),
            "k_proj": (width, shape.keys),
            "v_proj": (width, shape.keys),
            "o_proj": (shape.queries, width),
            **dict.fromkeys(WIDENING, (width, inner)),
        }
        count = 0
        for module in llama(self.modules):
            inputs, outputs = sizes.get(module, (inner, width))
            count += self.rank * (inputs + outputs) + (outputs if self.decomposed else 0)
        return shape.layers * count

    def written_parameters(self, model: "BaseModel") -> int:
        """With PiSSA what it starts from is written with what it comes to, see `save`."""
        return self.trained_parameters(model) * (2 if self.initialization == "pissa" else 1)

    def rate_ratio(self, name: str, parameter: "Tensor") -> float:
        """That of LoRA+, whose second group has B and every vector, as peft's `create_loraplus_optimizer` has it."""
        return self.learning_rate_ratio_b if "lora_B" in name or parameter.ndim == 1 else 1.0

    def build(self, base: Path, seed: int, start: Path | None, precision: str) -> Any:
        """A peft model. It begins with B = 0 and A drawn from Kaiming-uniform, peft's default.

        Dropout on the input of A is `scripts.training.dropout`'s; with DoRA it is on the input of W too, as in peft.
        PiSSA takes its factors out of W anew unless there is a `start`, which has them: bit for bit the same on the
        same kind of CPU with equal threads. A base model in 4 bits is on the GPU.
        """
        import torch
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
        from safetensors.torch import load_file
        from transformers.pytorch_utils import Conv1D

        from scripts.loading.models import nf4, pretrained
        from scripts.training.dropout import use_lora_dropout
        from scripts.training.lora_linear import use_lora_linear

        network = pretrained(base, nf4(precision) if self.quantization == "nf4" else None)
        targets = self.targets(network, f"the base model {base}")
        pissa = self.initialization == "pissa"
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft only divides it
            target_modules=targets if isinstance(self.modules, str) else list(self.modules),
            fan_in_fan_out=all(isinstance(network.get_submodule(name), Conv1D) for name in targets),
            lora_dropout=self.dropout,
            bias="none",
            task_type="CAUSAL_LM",
            use_rslora=self.scaling == "rank_stabilized",
            use_dora=self.decomposed,
            init_lora_weights="pissa" if pissa and start is None else True,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = get_peft_model(network, config)
        use_lora_dropout(model)
        use_lora_linear(model)
        if start is not None:
            adapter = load_file(start / ADAPTER)
            if adapter.keys() != _adapter(model).keys():
                raise UserError(f"The adapter in {start} is not one of this method on this base model.")
            if pissa:
                halves = {name: value.chunk(2, _along(name)) for name, value in adapter.items()}
                adapter, model.pissa_rest = ({name: both[half] for name, both in halves.items()} for half in range(2))
                set_peft_model_state_dict(model, model.pissa_rest)
                _add_to_base(model)
            set_peft_model_state_dict(model, adapter)
        elif pissa:  # A0 and -B0, see `save`
            model.pissa_rest = {name: value * (-1) ** _along(name) for name, value in _adapter(model).items()}
        return model

    def targets(self, network: Any, where: object) -> list[str]:
        """The full names of the modules of a transformers model that get an adapter.

        Raises:
            UserError: it has no such modules, or PiSSA finds a higher rank than theirs.
        """
        from scripts.models.architecture import has_experts, linear_modules

        linears = linear_modules(network)
        if isinstance(self.modules, str):
            if self.modules != "attention" and has_experts(network):
                raise UserError(
                    f"{where} has a mixture of experts, whose MLP has no linear modules for `modules: {self.modules}`; "
                    "allowed is `modules: attention`, or a list of names"
                )
            chosen = [name for name, part in linears.items() if self.modules in ("all-linear", part)]
        else:
            words = {name.rpartition(".")[2] for name in linears}
            if unknown := sorted(set(self.modules) - words):
                raise UserError(
                    f"{where} has no linear module {unknown[0]!r}; allowed are {', '.join(sorted(words))}, or instead "
                    f"of a list {', '.join(WORDS)}"
                )
            chosen = [name for name in linears if name.rpartition(".")[2] in self.modules]
        for name in chosen if self.initialization == "pissa" else ():
            if self.rank > (most := min(network.get_submodule(name).weight.shape)):
                raise UserError(
                    f"the rank {self.rank} is more than {name.rpartition('.')[2]} of {where} has; "
                    f"with the initialization pissa at most {most} is allowed"
                )
        return chosen

    @classmethod
    def save(cls, model: Any, out: Path) -> None:
        """A peft adapter directory.

        An adapter that began as PiSSA was trained beside W - s B0 A0. It is written as the LoRA of twice the rank that
        does the same beside W, s (B A - B0 A0) = s [B | -B0] [A ; A0], as peft converts it
        (`path_initial_model_for_weight_conversion`). Where the base model was in 4 bits, how stands in
        `quantization_config.json`.
        """
        import torch
        from safetensors.torch import save_file

        adapter = _adapter(model)
        config: Any = model.peft_config["default"]
        entries = config.to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
        entries |= {key: sorted(value) for key, value in entries.items() if isinstance(value, set)}
        if rest := getattr(model, "pissa_rest", None):
            adapter = {name: torch.cat((value.cpu(), rest[name]), _along(name)) for name, value in adapter.items()}
            # the scaling stays, which divides alpha by the rank or by its root
            alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
            entries |= {"r": 2 * config.r, "lora_alpha": alpha, "init_lora_weights": True}
        tensors = {name: tensor.contiguous() for name, tensor in adapter.items()}
        save_file(tensors, out / ADAPTER, metadata={"format": "pt"})
        _write_json(out / "adapter_config.json", entries)
        if quantized := getattr(model.config, "quantization_config", None):
            _write_json(out / _QUANTIZATION, quantized.to_dict())

    @classmethod
    def load(cls, base: Path, run: Path, merge: bool) -> Any:
        """Merged as peft does it (plain LoRA: W + alpha / r * B A), in fp32."""
        from peft import PeftModel

        from scripts.loading.models import pretrained, rounded

        model = PeftModel.from_pretrained(rounded(base) if (run / _QUANTIZATION).exists() else pretrained(base), run)
        return model.merge_and_unload() if merge else model

    @classmethod
    def merges(cls, run: Path) -> bool:
        return not (run / _QUANTIZATION).exists()


def _adapter(model: Any) -> dict[str, "Tensor"]:
    """The adapter's weights under the names that peft has in files."""
    from peft import get_peft_model_state_dict

    # save_embedding_layers="auto", the default, may ask the hub
    found: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return found


def _along(name: str) -> int:
    """The dimension of a factor that is as long as the rank: A is [rank, columns], B is [rows, rank]."""
    return 0 if "lora_A" in name else 1


def _add_to_base(model: Any) -> None:
    """Add every adapter to the W beside it, with the rounding of peft's `pissa_init`."""
    import torch
    from peft.tuners.lora import Linear

    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Linear):
                a, b = part.lora_A["default"].weight, part.lora_B["default"].weight
                added = part.scaling["default"] * b @ a
                part.base_layer.weight += added.T if part.fan_in_fan_out else added


def _write_json(path: Path, entries: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
