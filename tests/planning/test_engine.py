"""A launch through an executor that is not SLURM's."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import House

# as small as an executor of another kind can be: a shell for each job
PLUGIN = """
import subprocess
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    job_deploy_sources=False, non_local_exec=True, implies_no_shared_fs=False, init_seconds_before_status_checks=1
)


class Executor(RemoteExecutor):
    def run_job(self, job):
        process = subprocess.Popen(self.format_job_exec(job), shell=True)
        self.report_job_submission(SubmittedJobInfo(job, aux={"process": process}))

    async def check_active_jobs(self, jobs):
        for info in jobs:
            status = info.aux["process"].poll()
            if status is None:
                yield info
            elif status:
                self.report_job_error(info)
            else:
                self.report_job_success(info)

    def cancel_jobs(self, jobs):
        for info in jobs:
            info.aux["process"].terminate()
"""


@pytest.mark.thorough
def test_an_executor_of_another_kind(prepared: House, tmp_path: Path) -> None:
    """Its jobs begin as the site says, are none of SLURM's, and nobody asks a program of SLURM."""
    house = prepared.copy(tmp_path)
    house.edit(lambda study: study.update(grain="condition"))
    plugin, programs = tmp_path / "plugins" / "snakemake_executor_plugin_plain", tmp_path / "programs"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(PLUGIN)
    programs.mkdir()
    # not `scontrol`: SLURM's executor plugin asks it when Snakemake finds that installed, whichever one is chosen
    for name in ("squeue", "srun", "sbatch"):
        (programs / name).write_text(f"#!/bin/sh\necho $0 >> {tmp_path}/called\nexit 1\n")
        (programs / name).chmod(0o755)
    environment = house.environment() | {
        "FORGETTING_SETUP": "export GREETING=hello",
        "FORGETTING_CONTAINER": f"sh -c 'echo $GREETING $1 >> {tmp_path}/began; exec \"$@\"' sh",
    }
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] += f"{os.pathsep}{plugin.parent}"
    run = next(target for target in house.planned("runs") if "/math-ift/" in target)
    done = subprocess.run(  # a Snakemake of its own, which looks for plugins when it starts
        house.command(run, "--executor", "plain", "--jobs", "1"),
        cwd=house.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(house.manifests("runs")) == 1
    assert (tmp_path / "began").read_text() == "hello python\n"
    assert not (tmp_path / "called").exists()
