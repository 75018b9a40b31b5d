"""Snakemake, but that it looks at its SLURM jobs every second: the executor waits ten seconds more after each look.

Otherwise as `snakemake`; the tests of the profile itself use that.
"""

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _sleep(self: RemoteExecutor) -> None:
    await asyncio.sleep(1)


RemoteExecutor.sleep = _sleep  # type: ignore[method-assign]
sys.exit(main())
