"""A base model that stays in memory while models that were trained from it are asked for, one after another."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from scripts.components.methods import METHODS
from scripts.components.methods.lora import ADAPTER
from scripts.loading.models import load_model, skeleton


class Resident:
    """The models of one base model, of which one at a time is on the device: bit for bit what `load_model` makes.

    An adapter takes the place of the one before, module by module: it is merged on the CPU in fp32 into a copy of the
    base's own weight, and put to the device from there. Where it is taken out, the base's weight is put back. So the
    base model is read once for models that adapt the same modules, as those of a family do. A model that is no adapter
    beside its base (`Method.merges`) replaces the base model, which the next adapter reads again.

    On the device there are one model and one module, on the CPU the base's fp32 weights of the adapted modules and one
    module more.

    Args:
        base: the base model's directory.
        put: brings a model that was loaded to the device and into the type in which it computes; it may change it.
    """

    def __init__(self, base: Path, put: Callable[[Any], Any]) -> None:
        self._base = base
        self._put = put
        self._model: Any = None
        self._asked: tuple[Path | None, str | None] | None = None  # what `_model` is; None: not known
        self._own: dict[str, Tensor] = {}  # the base's weights of what adapters have changed
        self._changed: set[str] = set()  # where `_model` may have other weights than the base
        self._is_base = False  # but for those

    def model(self, run: Path | None, method_kind: str | None) -> Any:
        """The model that `load_model` names so, until another is asked for, which may be the same object.

        Raises:
            UserError: as `load_model` does.
        """
        if self._asked != (run, method_kind):
            self._asked = None
            adapter = Adapter.read(self._base, run) if run and _merges(run, method_kind) else None
            if run is None or adapter:
                self._become(adapter)
            else:
                self._replace(run, method_kind, frozenset())
            self._asked = (run, method_kind)
        return self._model

    def _become(self, adapter: "Adapter | None") -> None:
        names = adapter.names if adapter else frozenset[str]()
        if not self._is_base or not names <= self._own.keys():
            self._replace(None, None, names | self._own.keys())
        weights = dict(self._model.named_parameters())
        for name in self._changed - names:
            _set(weights[name], self._own[name])
            self._changed.remove(name)
        for name, weight in adapter.merged(self._own) if adapter else ():
            self._changed.add(name)
            _set(weights[name], weight)

    def _replace(self, run: Path | None, method_kind: str | None, kept: frozenset[str]) -> None:
        """Reads a model when the one before is gone, and keeps these of its weights as they are in its files."""
        self._model = None
        self._is_base = False
        self._own.clear()
        self._changed.clear()
        model: Any = load_model(self._base, run, method_kind)
        self._own = {name: weight.data for name, weight in model.named_parameters() if name in kept}
        self._model = self._put(model)
        self._is_base = run is None


class Adapter:
    """A LoRA adapter as peft has it, beside a network that has no weights but those that it is given.

    Attributes:
        names: of the weights of the network that it changes.
    """

    def __init__(self, run: Path, model: Any, layers: Mapping[str, list[Any]]) -> None:
        self.names = frozenset(layers)
        self._run = run
        self._model = model
        self._layers = layers

    @classmethod
    def read(cls, base: Path, run: Path) -> "Adapter | None":
        """None where peft would change more of the base model than the weights of linear modules and embeddings.

        A checkpoint that others have published may hold biases, whole modules, or other parts.
        """
        config = PeftConfig.from_pretrained(str(run))
        simple = isinstance(config, LoraConfig) and isinstance(config.init_lora_weights, bool)
        if not simple or config.lora_bias or config.layer_replication:
            return None
        network = skeleton(base)
        names = {id(weight): name for name, weight in network.named_parameters()}
        model = PeftModel(network, config, low_cpu_mem_usage=True)
        layers: defaultdict[str, list[Any]] = defaultdict(list)
        for part in model.modules():
            if isinstance(part, BaseTunerLayer):
                if not isinstance(part, lora.Linear | lora.Embedding):
                    return None
                layers[names[id(part.get_base_layer().weight)]].append(part)  # tied weights have several
        with safe_open(run / ADAPTER, framework="pt") as file:
            saved = set(file.keys())
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        if saved != expected.keys() or not all(".lora_" in name for name in saved):
            return None
        return cls(run, model, layers)

    def merged(self, own: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """One after another the weights that it makes of the base's `own`, which are in fp32 on the CPU and stay so."""
        for name, layers in self._layers.items():
            weight = torch.nn.Parameter(own[name], requires_grad=False)
            for layer in layers:
                layer.get_base_layer().weight = weight
        # copies, as torch aligns them: how a product is rounded may depend on where in a file its factors lie
        adapter = {name: value.to(torch.float32, copy=True) for name, value in load_file(self._run / ADAPTER).items()}
        set_peft_model_state_dict(self._model, adapter, low_cpu_mem_usage=True)
        for name, layers in self._layers.items():
            weight = layers[0].get_base_layer().weight
            weight.data = own[name].clone()
            for layer in layers:
                layer.merge()
            yield name, weight.data
            weight.data = own[name]


def _merges(run: Path, method_kind: str | None) -> bool:
    return method_kind in METHODS and METHODS[method_kind].merges(run)


def _set(weight: torch.nn.Parameter, value: Tensor) -> None:
    weight.data = value.to(weight.device, weight.dtype)
