"""pass@k: HumanEval with many programs a problem."""

from scripts.components.tasks import Task
from scripts.components.tasks.humaneval import HumanEval

TASK = Task(
    name="pass_at_k",
    settings=HumanEval,
    meaning="HumanEval with many programs a problem",
    paper="figure S9",
)
