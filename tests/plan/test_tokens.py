"""How text becomes tokens is in the name of what is made of them, and of nothing else."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.study.schema import Study

SMOKE = yaml.safe_load(Path("config/studies/smoke.yaml").read_text())
VERSIONS = {"data": 1, "pretrainer": 1, "trainer": 1, "evaluation": 1}
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "context": 512, "vocabulary": 400}
HUB = {"label": "Net", "source": "hub", "repository": "owner/net", "architecture": SHAPE}
Change = Callable[[dict[str, Any]], Any]


def grid(*changes: Change) -> Grid:
    study = copy.deepcopy(SMOKE)
    for change in changes:
        change(study)
    return Grid(Study.model_validate(study), "smoke", VERSIONS, {})


def of_the_hub(study: dict[str, Any]) -> None:
    study["model"] = HUB


def said(**keys: str) -> Change:
    return lambda study: study.update(keys)


def chat(study: dict[str, Any]) -> None:
    study["settings"]["math-ift"] |= {"tokenizer": "owner/chat", "template": "llama2-chat"}


def renamed(before: Grid, after: Grid) -> set[str]:
    """What has another fingerprint of rows, samples and evaluations: by name, as `base/target_loss`."""

    def specs(of: Grid) -> set[tuple[str, str]]:
        # where models have other fingerprints, what is asked of them has too, which is not meant
        wanted = [product for product in of if product.kind in ("rows", "samples", "evaluation")]
        unnamed = {"subject": "", "sampled": ""}
        return {(name_of(product), json.dumps({**product.spec, **unnamed}, sort_keys=True)) for product in wanted}

    return {name for name, _ in specs(after) - specs(before)}


def name_of(product: Product) -> str:
    """Without the fingerprint of the model that is asked."""
    return re.sub(r"-[0-9a-f]{12}", "", product.name)


def kinds(names: set[str]) -> set[str]:
    return {name.rpartition("/")[2] for name in names}


BENCHMARKS = {"humaneval", "gsm8k", "hellaswag", "arc_challenge", "winogrande"}
LOSSES = {"source_loss", "target_loss"}


def test_bos_is_in_all_that_is_read_by_a_tokenizer_from_outside() -> None:
    rows = {"code-cpt-seed0", "math-ift-seed0"}
    assert kinds(renamed(grid(of_the_hub), grid(of_the_hub, said(bos="none")))) == rows | BENCHMARKS | LOSSES
    for product in grid(of_the_hub):
        if product.kind in ("rows", "samples", "evaluation") and "sampled" not in product.spec:
            assert product.spec["bos"] == "tokenizer"  # said always: it was not always so


def test_join_is_in_instructions_and_losses() -> None:
    assert kinds(renamed(grid(of_the_hub), grid(of_the_hub, said(join="together")))) == {"math-ift-seed0"} | LOSSES


def test_a_tokenizer_that_is_made_here_puts_nothing_before_a_text() -> None:
    assert not renamed(grid(), grid(said(bos="none")))
    assert not renamed(grid(), grid(said(bos="tokenizer", join="separate")))
    assert kinds(renamed(grid(), grid(said(join="together")))) == {"math-ift-seed0"} | LOSSES


@pytest.mark.parametrize("model", [[], [of_the_hub]])
def test_the_target_loss_is_in_the_setting_s_template(model: list[Change]) -> None:
    """Of the base model as well, which is asked the losses of each setting. No other question is in that text."""

    def alpaca(study: dict[str, Any]) -> None:
        study["settings"]["math-ift"]["template"] = "alpaca"

    made = grid(*model, alpaca)
    templates = [p.spec.get("template") for p in made if p.kind == "evaluation" and p.spec["task"] == "target_loss"]
    assert sorted(map(str, templates)) == ["None"] * 5 + ["alpaca"] * 5  # 2 methods, 2 durations, the base model
    found = renamed(grid(*model), made)
    assert kinds(found) == {"math-ift-seed0", "target_loss"}
    assert not {name for name in found if "code-cpt" in name}


def test_a_chat_template_is_in_what_an_alpaca_template_is_in() -> None:
    """Rows and the target loss: the tokenizer, which has the template, is a part of both already."""

    def in_chat(study: dict[str, Any]) -> None:
        study["settings"]["math-ift"]["template"] = "chat"

    found = renamed(grid(of_the_hub), made := grid(of_the_hub, in_chat))
    assert kinds(found) == {"math-ift-seed0", "target_loss"}
    (rows,) = (product for product in made if product.kind == "rows" and "math-ift" in product.name)
    (tokenizer,) = (product for product in made if product.kind == "tokenizer")
    assert rows.spec["template"] == "chat"
    assert rows.spec["tokenizer"] == tokenizer.fingerprint
    assert tokenizer.spec["repository"] == "owner/net"


def test_a_setting_s_tokenizer_is_that_of_all_that_its_models_are_asked() -> None:
    made = grid(of_the_hub, chat)
    (own,) = (p for p in made if p.kind == "tokenizer" and p.spec["repository"] == "owner/chat")
    asked = [p for p in made if p.kind in ("samples", "evaluation") and "sampled" not in p.spec]
    with_own = {name_of(p) for p in asked if p.spec.get("tokenizer") == own.fingerprint}
    assert {name_of(p) for p in made if p.kind in ("samples", "evaluation") and own.key in p.inputs} == with_own
    trained = {name_of(p) for p in asked if "math-ift" in p.name}
    assert with_own >= trained
    (base,) = with_own - trained  # its loss on what the setting trains on; all else with its own tokenizer
    assert base.endswith("/target_loss")
    assert kinds(trained) == BENCHMARKS - {"humaneval"} | LOSSES
