"""One module is one choice more: an invented member of every family, put beside the others, is planned by a study."""

import re
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, House, copy_checkout

MODULES = {
    "optimizers/slow.py": '''
"""Gradient descent that keeps nothing."""

from typing import ClassVar, Literal

from scripts.components.optimizers import ClipNorm, Optimizer
from scripts.components.part import Rate, field


class Slow(Optimizer):
    """Steps that are a share of the gradient."""

    label: ClassVar[str] = "Slow"
    state: ClassVar[tuple[str, ...]] = ()
    counts_steps: ClassVar[bool] = False

    name: Literal["slow"] = field("which optimizer")
    share: Rate = field("how much of a gradient is taken")
    clip_norm: ClipNorm = field("gradients whose global norm is greater are scaled down to it")

    def build(self, groups, weight_decay):
        import torch

        return torch.optim.SGD(groups)
''',
    "methods/norms.py": '''
"""The norms alone."""

from typing import ClassVar, Literal

from scripts.components.methods.full import Full
from scripts.components.methods import Method
from scripts.components.part import field


class Norms(Method):
    """Only the weights of the norms are trained."""

    label: ClassVar[str] = "norms"
    is_adapter: ClassVar[bool] = False

    kind: Literal["norms"] = field("which method")

    def spec(self):
        return self.model_dump()

    def trained_parameters(self, model):
        shape = model.shape
        return (2 * shape.layers + 1) * shape.hidden_size

    def written_parameters(self, model):
        return model.parameters

    def build(self, base, seed, start, precision):
        model = Full(kind="full").build(base, seed, start, precision)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
        return model

    @classmethod
    def save(cls, model, out):
        Full.save(model, out)

    @classmethod
    def load(cls, base, run, merge):
        return Full.load(base, run, merge)
''',
    "sources/counting.py": '''
"""Documents that count."""

import json
from typing import ClassVar, Literal

from scripts.components.part import Count, field
from scripts.components.sources import Source


class Counting(Source):
    """Documents that count to a number."""

    source: Literal["counting"] = field("the records count")
    up_to: Count = field("how far the last one counts")

    entry: ClassVar[None] = None
    needs_network: ClassVar[bool] = False

    @property
    def identity(self):
        return None

    @property
    def place(self):
        return "counting"

    def spec(self, entry, data_seed):
        return self.model_dump()

    @property
    def expected_records(self):
        return self.up_to

    @staticmethod
    def build(spec, context, out):
        with (out / "records.jsonl").open("w") as file:
            for last in range(1, spec["up_to"] + 1):
                text = " ".join(str(number) for number in range(1, last + 1))
                file.write(json.dumps({"text": text}) + "\\n")
        return {"records": spec["up_to"]}
''',
    "models/blank.py": '''
"""A model that was never trained."""

from typing import ClassVar, Literal

from scripts.components.models import Architecture, BaseModel, parameters
from scripts.components.part import Count, field


class Blank(BaseModel):
    """A base model of random weights with a tokenizer of bytes."""

    label: str = field("how figures call it")
    source: Literal["blank"] = field("the base model is left as it is drawn")
    architecture: Architecture = field("its shape")

    entry: ClassVar[None] = None
    needs_network: ClassVar[bool] = False
    bytes_of_weight: ClassVar[int] = 4

    @property
    def identity(self):
        return None

    @property
    def name(self):
        return "blank"

    @property
    def shape(self):
        return self.architecture

    def spec(self, entry):
        return {"source": self.source, "architecture": self.architecture.model_dump()}

    def tokenizer_spec(self, entry):
        return {"source": self.source}

    @property
    def parameters(self):
        return parameters(self.architecture, 2 * self.vocabulary)

    @property
    def vocabulary(self):
        return 259

    @staticmethod
    def build(spec, context, out):
        raise NotImplementedError
''',
    "tasks/parity.py": '''
"""Parity: whether a number is even."""

from scripts.components.asking.answers import Scored, choice
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Form
from scripts.components.tasks import MultipleChoice, Task

TASK = Task(
    name="parity",
    forms=(Form,),
    settings=MultipleChoice,
    meaning="whether a number is even",
    paper="beyond the paper",
    measures=frozenset({"forgetting"}),
    shown=accuracy("Parity", scored="", averaged=""),
    items=None,
    metrics=("acc",),
    file="parity",
    answers=Scored(choice),
    check=None,
)
''',
}
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "context": 512}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = copy_checkout(ROOT, tmp_path_factory.mktemp("invented") / "house")
    for name, text in MODULES.items():
        (root / "scripts/components" / name).write_text(text.lstrip())
    study: dict[str, Any] = yaml.safe_load((root / "config/studies/smoke.yaml").read_text())
    study["datasets"] |= {
        "counting": {"source": "counting", "up_to": 40},
        "counting-on": {"source": "counting", "up_to": 50},
    }
    study["model"] = {"label": "nothing yet", "source": "blank", "architecture": SHAPE}
    study["optimizer"] = {"name": "slow", "share": 0.1, "clip_norm": 1.0}
    study["methods"]["norms"] = {"kind": "norms"}
    study["settings"]["code-cpt"]["dataset"] = "counting"
    for setting in study["settings"].values():
        setting["learning_rates"]["norms"] = 0.001
    study["evaluation"]["tasks"]["parity"] = {"dataset": "counting-on", "shots": 0}
    study["evaluation"]["forgetting"].append("parity")
    (root / "config/studies/invented.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return House(root, study="invented")


def test_a_study_of_invented_choices_is_planned(house: House) -> None:
    assert house.plan("results/figures/fig1.pdf", "results/figures/fig2.pdf") == {
        "records": 8, "tokenizer": 1, "rows": 2, "pretrain": 1, "train_family": 6, "evaluate_family": 7,
        "collect": 2, "draw": 2,
    }  # fmt: skip
    for place, name in (
        ("data/records", "counting"),
        ("models", "blank"),
        ("families/trained", "code-cpt/norms-seed0"),
    ):
        assert [key for key in house.planned(place) if f"{place}/{name}-" in key], name


def test_the_room_that_it_needs_is_known(house: House) -> None:
    """Runs and leg ends of the norms are written whole, without optimizer state; checkpoints have the norms alone."""
    said = house.python("-m", "scripts.planning.disk", "--study", "invented")
    row = next(line for line in said.splitlines() if line.startswith("code-cpt/norms-seed0"))
    embeddings, layer = 2 * 259 * 32, 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32
    whole = 4 * (embeddings + 2 * layer + 32)
    norms = (2 * 2 + 1) * 32
    two = f"{2 * whole / 1000:.0f} kB"  # leg ends, and runs
    assert re.split(r" {2,}", row)[1:4] == [two, two, f"{3 * 4 * norms / 1000:.1f} kB"]


def test_mistakes_in_it_are_said_by_its_keys(house: House) -> None:
    house.edit(lambda study: study["optimizer"].update(share=2.0))
    try:
        said = house.snakemake("results/figures/fig1.pdf", "-n", ok=False)
    finally:
        house.edit(lambda study: study["optimizer"].update(share=0.1))
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "config/studies/invented.yaml: optimizer.share: " in error
