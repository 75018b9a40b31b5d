"""lm-eval's tasks as a study asks them. Imports lm-eval."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.common.errors import UserError
from scripts.common.files import ROOT
from scripts.components.asking.items import read
from scripts.components.foreign import OWN, file_of, task_of
from scripts.evaluation.code_eval import evaluate_offline

# Everything is a local file; the libraries read this when they are imported.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

TASK_FILES = ROOT / "config" / "evaluations"


def load_tasks(
    settings: Mapping[str, Mapping[str, Any]],
    records: Mapping[str, Path],
    shots: Mapping[str, Path],
    tokenizers: Mapping[str, Path],
) -> dict[str, Any]:
    """The lm-eval task of each label, with the study's settings put over those of the task file.

    See `Harness` for the arguments. A label in which lm-eval has no part is left out.

    Raises:
        UserError: a task that the study itself declares cannot be loaded, or its first prompt not be made.
    """
    import functools

    import lm_eval.api.task
    from lm_eval.tasks import TaskManager

    # lm-eval draws a bar for each task it prepares, and has no switch for it.
    lm_eval.api.task.tqdm = functools.partial(lm_eval.api.task.tqdm, disable=True)
    tasks: dict[str, Any] = {}
    with quiet():
        manager = TaskManager(include_path=str(TASK_FILES), include_defaults=False)
        for label, chosen in settings.items():
            if OWN in chosen:
                tasks[label] = _own(chosen, records[label], shots.get(label))
                continue
            file = task_of(chosen).file_of(chosen, records[label])
            if file is None:
                continue
            given: dict[str, Any] = {"test": str(records[label]), "shots": chosen.get("shots", 0)}
            if label in shots:
                given["train"] = str(shots[label])
            if "template" in chosen:
                given |= {"template": chosen["template"], "tokenizer": str(tokenizers[label])}
            # The members of a group take overrides, a task by itself does not.
            member = {"task": file, "dataset_kwargs": given}
            (task,) = manager.load([{"group": "study", "task": [member]}])["tasks"].values()
            # without either, whoever reads the items puts the shots there
            if task.config.fewshot_split or task.config.training_split:
                task.set_config("num_fewshot", given["shots"])
            limits = {"max_new_tokens": "max_gen_toks", "max_length": "max_length"}
            if generation := {name: chosen[key] for key, name in limits.items() if key in chosen}:
                if "samples" in chosen:
                    task.set_config("repeats", chosen["samples"])
                    generation |= {key: chosen[key] for key in ("temperature", "top_p")}
                task.set_config("generation_kwargs", generation, update=True)
            tasks[label] = task
    return tasks


def _own(chosen: Mapping[str, Any], records: Path, shots: Path | None) -> Any:
    """A task that the study itself declares, with our records in the place of those that its file names.

    Whatever split the file asks, these are its items; and what it takes shots from, the other ones. What it makes of
    records (`process_docs`) it makes of these.
    """
    from datasets import disable_progress_bars
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    place = f"evaluation.tasks.{chosen['task']}"
    path = file_of(chosen).path
    disable_progress_bars()  # of `process_docs`
    with evaluate_offline():
        try:
            config = load_yaml(path)
            for key in ("tag", "group", "dataset_path", "dataset_name", "validation_split", "metadata"):
                config.pop(key, None)
            config |= {
                "custom_dataset": _splits,
                "dataset_kwargs": {"test": str(records), **({"train": str(shots)} if shots else {})},
                "test_split": "test",
                "training_split": "train" if shots else None,
                "fewshot_split": "train" if shots else None,
                "num_fewshot": chosen["shots"],
            }
            if shots and (fewshot := config.get("fewshot_config")):
                config["fewshot_config"] = {key: value for key, value in fewshot.items() if key != "split"}
            task = ConfigurableTask(config=config)
            if "max_new_tokens" in chosen:
                task.set_config("generation_kwargs", {"max_gen_toks": chosen["max_new_tokens"]}, update=True)
            lacking = chosen["shots"] - len(list(task.fewshot_docs())) if chosen["shots"] else 0
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        except Exception as error:  # a file and its modules may do anything
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{place}: {path} cannot ask the records {records} ({said})") from error
    if lacking > 0:
        raise UserError(f"{place}.shots: {chosen['shots']} shots are {lacking} more than there are examples")
    return task


def _splits(**files: str) -> dict[str, Any]:
    """The splits of a task, each from a file of JSON lines, and in memory (see `read_items`)."""
    from datasets import Dataset

    return {split: Dataset.from_list(read(file), on_mixed_types="use_json") for split, file in files.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's remarks on how it is set up. What it warns of while it scores is still heard."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
