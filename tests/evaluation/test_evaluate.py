"""Which model an evaluation is of, and how many processes it has."""

import os
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from scripts.evaluation import evaluate
from scripts.evaluation.evaluate import finetuned
from scripts.launch.launch import launch_by_hand


@pytest.mark.parametrize("study", ["smoke", "paper", "released"])
def test_the_condition_s_model_is_evaluated(study: str, tmp_path: Path) -> None:
    grid = launch_by_hand(study, str(tmp_path)).grid
    (base,) = grid.blocks["base"]
    conditions = grid.conditions("grid")
    places = {condition.product.partition("/")[0] for condition in conditions[1:]}
    assert places == {"published" if study == "released" else "runs"}
    for condition in conditions:
        for key in condition.evaluations.values():
            product = grid.products[key]
            for asked in product.inputs_of("samples") or [key]:
                of = finetuned(grid.products[asked])
                assert of == (None if condition == base else condition.product)


def test_a_job_with_several_gpus_begins_anew_as_a_process_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: begun.append(command))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "evaluations/base/x-0123456789ab"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    for variable in ("RANK", "SLURM_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(variable, raising=False)
    evaluate._on_all_gpus()  # a person's machine: other jobs may want the others
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    evaluate._on_all_gpus()
    assert begun == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    evaluate._on_all_gpus()
    (command,) = begun
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    said = launch_command_parser().parse_args(command[3:])
    assert (said.num_processes, said.multi_gpu, said.module) == (3, True, True)
    assert said.training_script == "scripts.evaluation.evaluate"
    assert said.training_script_args == ["evaluations/base/x-0123456789ab"]
    started = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for variable, value in started.items():
        monkeypatch.setenv(variable, value)
    evaluate._on_all_gpus()
    assert len(begun) == 1
