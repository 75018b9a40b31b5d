"""lm-eval's tasks as a study asks them. Imports lm-eval."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.common.files import ROOT
from scripts.components.tasks import TASKS

# Everything is a local file; the libraries read this when they are imported.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

TASK_FILES = ROOT / "config" / "evaluations"


def load_tasks(
    settings: Mapping[str, Mapping[str, Any]], records: Mapping[str, Path], shots: Mapping[str, Path]
) -> dict[str, Any]:
    """The lm-eval task of each label, with the study's settings put over those of the task file.

    See `Harness` for the arguments. A label in which lm-eval has no part is left out.
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
            file = TASKS[chosen["task"]].file_of(chosen, records[label])
            if file is None:
                continue
            given: dict[str, Any] = {"test": str(records[label]), "shots": chosen.get("shots", 0)}
            if label in shots:
                given["train"] = str(shots[label])
            if "template" in chosen:
                given["template"] = chosen["template"]
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
