"""Whether jobs fit into memory, and what is said where they do not."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.common.devices import DEVICES
from scripts.common.errors import UserError
from scripts.launch.launch import Launch, new_launch
from scripts.planning import fit
from scripts.planning.fit import Fit, memory_here, require_fits
from tests.conftest import ROOT, House, copy_checkout

ONE_H100 = {"kind": "h100-80gb", "nodes": 1, "gpus": 1}


def launch(tmp_path: Path, study: str = "paper", **devices: Any) -> Launch:
    return new_launch(study, str(tmp_path), devices=devices or None)


def said(launch: Launch, *names: str, here: bool = False) -> str:
    products = [launch.grid.find(name) for name in names] or list(launch.grid)
    with pytest.raises(UserError) as caught:
        require_fits(launch, products, here=here)
    return str(caught.value)


def test_the_paper_s_study_fits_its_32_gpus(tmp_path: Path) -> None:
    paper = launch(tmp_path)
    require_fits(paper, paper.grid)


def test_full_finetuning_of_7b_fits_no_card_of_80_gb(tmp_path: Path) -> None:
    """Weights, momentum and gradients alone are 12 bytes of 6,738,415,616 parameters: 80.9 GB."""
    sentence = said(launch(tmp_path, **ONE_H100), "code-cpt/full/20B-seed0")
    assert sentence == (
        "training code-cpt with full needs 88.1 GB at its peak, and each h100-80gb has 80.0 GB; what would fit: "
        "2 GPUs a node (`--config devices='{kind: h100-80gb, nodes: 1, gpus: 2}'`, 50.5 GB each), or another kind of "
        "GPU (`--config devices='{kind: h100-nvl, nodes: 1, gpus: 1}'`), or LoRA in its place, which trains less "
        "(lora-r512: 35.8 GB); nothing was started"
    )


@pytest.mark.parametrize(
    "devices",
    [ONE_H100, pytest.param({"kind": "a100-40gb", "nodes": 8, "gpus": 2}, marks=pytest.mark.thorough)],
)
def test_what_is_proposed_fits(tmp_path: Path, devices: dict[str, Any]) -> None:
    """And one GPU less does not, nor a kind of GPU with less memory."""
    name = "math-ift/full/16-seed0"
    more, other = (
        yaml.safe_load(text) for text in re.findall(r"devices='(.*?)'", said(launch(tmp_path, **devices), name))
    )
    for proposed in (more, other):
        found = launch(tmp_path, **proposed)
        require_fits(found, [found.grid.find(name)])
    said(launch(tmp_path, **more | {"gpus": more["gpus"] - 1}), name)
    less = {
        device.memory: kind for kind, device in DEVICES.items() if 0 < device.memory < DEVICES[other["kind"]].memory
    }
    said(launch(tmp_path, **other | {"kind": less[max(less)]}), name)


def test_of_40_gb_four_a_node_are_enough(tmp_path: Path) -> None:
    """What docs/cluster.md has: of the 81 GB each holds a fourth; two are too few."""
    four = launch(tmp_path, kind="a100-40gb", nodes=8, gpus=4)
    require_fits(four, four.grid)
    assert "4 GPUs a node" in said(launch(tmp_path, kind="a100-40gb", nodes=8, gpus=2))


def test_the_largest_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    """AdamW keeps a second number of each parameter, 27 GB more; the four settings' full finetuning and the chats'."""
    paper = launch(tmp_path, **ONE_H100)
    assert "training code-ift with full-adamw needs 115 GB at its peak (5 more are too large, too)" in said(paper)
    found = Fit(paper)
    assert len(list(found.misfits([*paper.grid, *paper.grid]))) == 6
    assert not found.fits(paper.grid.find("code-cpt/full/0.25B-seed0"))
    assert found.fits(paper.grid.find("code-cpt/lora-r256/0.25B-seed0"))
    assert found.fits(paper.grid.records("openwebmath"))


def test_a_large_adapter_has_a_smaller_one_or_a_base_model_in_4_bits(tmp_path: Path) -> None:
    """NF4 leaves a fourth of the 13.0 GB that the layers' 6.5e9 frozen parameters are in bf16."""
    sentence = said(launch(tmp_path, kind="l4", nodes=1, gpus=8), "code-cpt/lora-r256/20B-seed0")
    assert "training code-cpt with lora-r256 needs 30.6 GB at its peak, and each l4 has 24.0 GB" in sentence
    assert "GPUs a node" not in sentence
    assert re.search(r", or `quantization: nf4` in the method \(21\.0 GB\), or a smaller adapter \(lora-r64", sentence)


def test_evaluations_fit_too(tmp_path: Path) -> None:
    """13B parameters in bf16 are 26.0 GB, the keys and values of 1,280 tokens 1.0, those of a prompt's 1,024 0.8."""
    found = launch(tmp_path, "paper-v1-13b", kind="l4", nodes=4, gpus=8)
    sentence = said(found, next(product.key for product in found.grid if product.kind == "samples"))
    assert re.match(r"evaluating Llama-2-13B by gsm8k needs 28\.0 GB at its peak, and each l4 has 24\.0 GB;", sentence)
    assert "another kind of GPU (`--config devices='{kind: a100-40gb, nodes: 4, gpus: 8}'`)" in sentence


def test_cpus_have_what_the_study_asks_for_or_this_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = launch(tmp_path, kind="cpu", nodes=1, gpus=0)
    resources = paper.study["resources"]
    jobs = {**resources["jobs"], "training": {**resources["jobs"]["training"], "memory_gb": 64}}
    small = replace(paper, study={**paper.study, "resources": {**resources, "jobs": jobs}})
    sentence = said(small, "code-cpt/full/20B-seed0")
    assert "a node by resources.jobs.training.memory_gb has 68.7 GB" in sentence
    asked = int(re.search(r"`resources.jobs.training.memory_gb: (\d+)` in the study", sentence)[1])  # type: ignore[index]
    jobs["training"]["memory_gb"] = asked
    require_fits(replace(small), [small.grid.find("code-cpt/full/20B-seed0")])
    monkeypatch.setattr(fit, "has_gpu", lambda: False)
    monkeypatch.setattr(fit, "memory_here", lambda: 16 * 10**9)
    sentence = said(launch(tmp_path), "code-cpt/full/20B-seed0", here=True)
    assert "and this machine has 16.0 GB; what would fit: a cluster as the study has it (`--profile slurm`)" in sentence
    monkeypatch.setattr(fit, "memory_here", lambda: None)
    require_fits(launch(tmp_path), paper.grid, here=True)


def test_a_gpu_here_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local job trains in one process, whatever the study has on a cluster."""
    monkeypatch.setattr(fit, "has_gpu", lambda: True)
    sentence = said(launch(tmp_path), "code-cpt/full/20B-seed0", here=True)
    assert "needs 88.1 GB at its peak, and each h100-80gb has 80.0 GB" in sentence
    assert "GPUs a node" not in sentence


def test_fp32_is_more_than_bf16(tmp_path: Path) -> None:
    halved = launch(tmp_path, kind="a40", nodes=1, gpus=1)
    name = "math-cpt/lora-r16/20B-seed0"
    require_fits(halved, [halved.grid.find(name)])
    whole = replace(halved, study={**halved.study, "precision": "fp32"})
    require_fits(whole, [whole.grid.find(name)])
    small = launch(tmp_path, kind="rtx-3090", nodes=1, gpus=1)
    whole = replace(small, study={**small.study, "precision": "fp32"})
    assert "or `precision: bf16` in the study (20." in said(whole, name)


def test_of_a_model_that_nobody_knows_nothing_is_said(tmp_path: Path) -> None:
    paper = launch(tmp_path, kind="l4", nodes=1, gpus=1)
    unknown = replace(paper, study={**paper.study, "model": {**paper.study["model"], "architecture": None}})
    require_fits(unknown, unknown.grid)


def test_this_machine_s_memory(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       16384256 kB\nMemFree:         1000 kB\n")
    assert memory_here(file) == 16384256 * 1024
    assert memory_here(tmp_path / "none") is None
    file.write_text("nothing\n")
    assert memory_here(file) is None


def test_a_launch_that_does_not_fit_ends_before_anything_runs(tmp_path: Path) -> None:
    house = House(copy_checkout(ROOT, tmp_path / "house"))
    house.edit(
        lambda study: study["model"]["architecture"].update(hidden_size=2**17, intermediate_size=2**18, layers=64)
    )
    for words in (["-n"], ["--cores", "1"]):
        (error,) = [line for line in house.snakemake(*words, ok=False).splitlines() if line.startswith("error:")]
        assert re.match(r"error: training \S+ with full needs \S+ TB at its peak", error)
        assert error.endswith("; nothing was started")
    assert not house.store.exists()
