"""What a dry-run says at its end, where Snakemake calls none of a workflow's own handlers."""

from collections.abc import Callable, Sequence
from typing import Any


def at_end(workflow: Any, tell: Callable[[Sequence[Any]], None]) -> None:
    """Has `tell` called with the jobs of a dry-run, when Snakemake has said all that it says of them.

    Snakemake calls `onstart` in no dry-run, and what it logs there depends on `--quiet`: so it is told by the end of
    its own method. Nothing is called where no job would run. `tell` may raise SystemExit, which ends the process so.
    """
    execute = workflow.execute

    def executed(*arguments: Any, **named: Any) -> Any:
        done = execute(*arguments, **named)
        if workflow.dryrun and (jobs := list(workflow.dag.needrun_jobs(exclude_finished=False))):
            tell(jobs)
        return done

    workflow.execute = executed


def after(dag: Any, jobs: Sequence[Any]) -> list[tuple[int, ...]]:
    """For each of Snakemake's jobs those of them that it waits for, by their place in `jobs`."""
    place = {job: index for index, job in enumerate(jobs)}
    return [tuple(place[other] for other in dag.dependencies[job] if other in place) for job in jobs]
