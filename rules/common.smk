# The launch: the study, frozen for every job, and what the rules ask of it.

import os
import sys

sys.path.insert(0, workflow.basedir)

from scripts.artifacts.registry import load_registry
from scripts.planning.progress import Progress
from scripts.study.errors import UserError
from scripts.study.launch import begin

# `python` in a rule is the interpreter that runs Snakemake, and finds `scripts` from wherever it is started.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
os.environ["PYTHONPATH"] = workflow.basedir + os.pathsep + os.environ.get("PYTHONPATH", "")
# Jobs read what is in the store and never wait for a hub.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

try:
    LAUNCH = begin(config, is_head=workflow.exec_mode.name == "DEFAULT")
    ARTIFACTS = load_registry("config/artifacts.yaml")
except UserError as error:
    sys.exit(f"error: {error}")

GRID = LAUNCH.grid
STORE = LAUNCH.store_root
FIGURES = [name for name in ARTIFACTS if name.startswith("fig")]
PROGRESS = Progress(
    GRID,
    LAUNCH.store,
    {
        "card": "studies",
        "records": "data/records",
        "tokenizer": "data/tokenizers",
        "rows": "data/rows",
        "pretrain": "models",
        "train_leg": "legs",
        "train_run": "runs",
        "train_family": "families/trained",
        "evaluate": "evaluations",
        "evaluate_family": "families/evaluated",
    },
)


wildcard_constraints:
    key=r"[\w./-]+-[0-9a-f]{12}",
    name="|".join(ARTIFACTS),


onstart:
    PROGRESS.start(workflow.dag.needrun_jobs(), workflow.resource_settings.cores, logger)
